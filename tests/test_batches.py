"""Batches: who may be joined to whom, and that each answer is its own request's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from typer.testing import CliRunner

from adaphi import AsyncClient
from adaphi.cli.app import app
from adaphi.controller.batches import WORTH
from adaphi.controller.flight import DECISION, read_recording
from adaphi.controller.scheduler import Limits, Request, Scheduler, Start
from adaphi.controller.step import Controller
from adaphi.errors import ProfileError, RequestError
from adaphi.model_zoo import Latency, Profile, VariantProfile, get_ladder
from adaphi.model_zoo.backends import get_backend
from adaphi.model_zoo.pool import WarmPool
from adaphi.model_zoo.profile import Costs
from adaphi.model_zoo.profiling import measure
from adaphi.policies import rule
from adaphi.sim import Trace
from adaphi.sim.requests import OK, Served, World, serve
from adaphi.sim.workload import Workload

COSTS = Costs(np.array([10.0, 15.0, 24.0]), np.full((3, 3), 0.5), np.array([0.70, 0.76, 0.80]))
np.fill_diagonal(COSTS.stall_ms, 0.0)
EVEN = [{2: 12.0, 4: 14.0, 8: 20.0}, {2: 17.0, 8: 30.0}, {4: 90.0}]  # that of φ = 2 does not pay


def scheduler(
    costs: Costs = COSTS, batch_ms: Any = EVEN, policy: str = "greedy", **more: Any
) -> Scheduler:
    return Scheduler(Controller(rule(policy, costs), costs), costs, 64, (), batch_ms, **more)


def asked(name: object, deadline_ms: float, **more: Any) -> Request:
    return Request(name, 0.0, deadline_ms / 1e3, **more)


def starts(queue: Scheduler, now_s: float = 0.0, limits: Limits | None = None) -> list[list[Any]]:
    """Return the tickets of each run, all begun at one time."""
    begun = []
    while (chosen := queue.next(now_s, limits or Limits())) is not None:
        if isinstance(chosen, Start):
            begun.append([request.ticket for request in chosen.requests])
    return begun


# ------------------------------------------------------------------------------- the scheduler


# Never just enough: what runs take are multiples of 0.1 ms, and rounding shall decide nothing.
deadlines_ms = st.integers(5, 200).map(lambda ms: ms + 0.123)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Return a request with or without a wish, a floor, a priority, a reading, of one of two shapes."""
    return asked(
        object(),
        draw(deadlines_ms),
        phi=draw(st.sampled_from([None, None, None, 0, 1])),
        priority=draw(st.sampled_from([0, 0, 5, 1])),
        min_quality=draw(st.sampled_from([None, None, 0.7, 0.75])),
        reading_ms=draw(st.sampled_from([None, None, None, 40.0])),
        tensor=SimpleNamespace(
            dtype=np.uint8, shape=(draw(st.sampled_from([4, 4, 4, 5])),), nbytes=4
        ),
    )


def one_by_one(
    waiting: list[Request], now_s: float, busy_ms: float, slowdown: float
) -> set[Request]:
    """Return who is on time if each in turn is answered by its quickest variant, or dropped if too late."""
    on_time = set()
    for request in waiting:
        run_ms = COSTS.latency_ms[request.phi or 0] * slowdown
        if busy_ms + run_ms <= request.slack_ms(now_s) + 1e-9:
            busy_ms += run_ms
            on_time.add(request)
    return on_time


@settings(max_examples=300)
@given(st.lists(requests(), min_size=1, max_size=14), st.sampled_from([0.8, 1.0, 1.6]))
def test_nobody_is_joined_who_does_not_fit_and_nobody_is_overtaken(
    wanted: list[Request], slowdown: float
) -> None:
    """Runs begin in the order of priority, deadline and arrival; a batch has a size that the profile knows
    and that pays, is on time for all in it, and leaves as many of its priority on time as one by one."""
    queue, limits, now_s = scheduler(), Limits(slowdown=slowdown), 0.0
    admitted = []
    for request in wanted:
        try:
            queue.admit(request, now_s, limits)
        except RequestError:  # it could only be late, or its wish and its floor do not go together
            continue
        admitted.append(request)
    order = sorted(admitted, key=lambda r: (r.rank, r.deadline_s))  # stable: then by arrival
    place = {request.ticket: number for number, request in enumerate(order)}
    begun: list[int] = []
    while (chosen := queue.next(now_s, limits)) is not None:
        if not isinstance(chosen, Start):
            continue
        phi, size, first = chosen.decision.phi, len(chosen.requests), chosen.request
        begun += [place[request.ticket] for request in chosen.requests]
        if size == 1:
            now_s += (COSTS.latency_ms[phi] + COSTS.stall_ms[chosen.decision.previous, phi]) / 1e3
            continue
        took_ms = (EVEN[phi][size] + COSTS.stall_ms[chosen.decision.previous, phi]) * slowdown
        assert EVEN[phi][size] <= WORTH * size * COSTS.latency_ms[phi]
        for request in chosen.requests:
            assert now_s + took_ms / 1e3 <= request.deadline_s + 1e-9
            assert request.rank == first.rank and request.is_like(first)
            assert request.reading_ms is None and request.phi in (None, phi)
            assert (request.min_quality or 0.0) <= COSTS.quality[phi]
        equals = [r for r in order[place[first.ticket] + 1 :] if r.rank == first.rank]
        behind = equals[size - 1 :]
        alone = one_by_one(equals, now_s, COSTS.latency_ms.min() * slowdown, slowdown)
        together = one_by_one(behind, now_s, took_ms, slowdown)
        assert size + len(together) >= 1 + len(alone)
        now_s += took_ms / 1e3
    assert begun == sorted(begun)


@settings(max_examples=300)
@given(
    st.lists(deadlines_ms, min_size=1, max_size=20),
    st.dictionaries(st.integers(2, 9), st.integers(10, 90), max_size=4),
)
def test_batches_cost_no_answers(deadlines: list[float], batch_ms: dict[int, float]) -> None:
    """One variant, any profile of batches (none quicker than one alone): as many are answered in time as
    one by one, and nobody is joined to what makes him late."""
    costs = Costs(np.array([10.0]), np.zeros((1, 1)), np.array([0.7]))

    def answered_by(known: dict[int, float], names: list[int]) -> list[int]:
        queue, now_s, answered = scheduler(costs, [known]), 0.0, []
        for name in names:
            with suppress(RequestError):  # it could only be late
                queue.admit(asked(name, deadlines[name]), 0.0, Limits())
        while (chosen := queue.next(now_s, Limits())) is not None:
            if isinstance(chosen, Start):
                now_s += queue.takes_ms(chosen) / 1e3
                on_time = [r.ticket for r in chosen.requests if now_s <= r.deadline_s]
                assert len(on_time) == len(chosen.requests)
                answered += on_time
        return answered

    everyone = list(range(len(deadlines)))
    assert len(answered_by({}, everyone)) <= len(answered_by(batch_ms, everyone))


def test_a_batch_is_decided_once_and_ends_where_another_kind_begins() -> None:
    """The policy sees the first alone; the next of its kind, in order, come with it up to a known size."""
    queue = scheduler()
    for name in range(7):
        queue.admit(asked(name, 1000 + name), 0.0, Limits(max_phi=0))
    assert starts(queue, limits=Limits(max_phi=0)) == [[0, 1, 2, 3], [4, 5], [6]]
    for name, more in enumerate([{}, {}, {"phi": 1}, {}, {"reading_ms": 9.0}, {"priority": 1}, {}]):
        queue.admit(asked(name, 1000 + name, **more), 0.0, Limits(max_phi=0))
    assert starts(queue, limits=Limits(max_phi=0)) == [[5], [0, 1], [2], [3], [4], [6]]


@pytest.mark.parametrize(
    ("limits", "more"),
    [
        (Limits(), {}),  # there is time for φ = 2, whose batches do not pay
        (Limits(max_phi=0, budget_ms=11.0), {}),  # a run may take 11 ms, one of two takes 12
        (Limits(max_phi=0, resident=frozenset({1})), {}),  # nobody knows how long loading takes
        (Limits(max_phi=0), {"batch_bytes": 7}),  # two tensors have 8 bytes
        (Limits(max_phi=0), {"batch_ms": ()}),  # a profile that knows nothing of batches
        (Limits(max_phi=0), {"batch_ms": [{2: 16.0}, {}, {}]}),  # more than 0.75 of 2 × 10 ms
    ],
)
def test_where_it_does_not_pay_or_is_not_known_nobody_is_joined(
    limits: Limits, more: dict[str, Any]
) -> None:
    """Each runs alone, as without batches."""
    queue, tensor = scheduler(**more), np.zeros((1, 4), np.uint8)
    for name in range(4):
        queue.admit(asked(name, 1000 + name, tensor=tensor), 0.0, limits)
    assert starts(queue, limits=limits) == [[0], [1], [2], [3]]


# --------------------------------------------------------------------------------- the profile


def test_a_profile_without_batches_is_read_and_wrong_ones_are_refused(
    profile: Profile, tmp_path: Path
) -> None:
    """Absent and null mean: not known; a size below 2 or a time that is none names its place."""
    path = tmp_path / "profile.json"
    path.write_text(re.sub(r',\s*"batch_ms": null', "", profile.to_json()))
    assert "batch_ms" not in path.read_text() and Profile.load(path) == profile
    for wrong, words in (("1", r"1 is no size"), ("2", r"a batch of 2 takes 0.*\[0\]\.batch_ms")):
        batch_ms = f'"batch_ms": {{"{wrong}": 0}}'
        path.write_text(profile.to_json().replace('"batch_ms": null', batch_ms, 1))
        with pytest.raises(ProfileError, match=words):
            Profile.load(path)


def test_batches_are_measured_where_they_are_asked_for(
    bench: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of the checked ladder takes as long as one: the command says so; nothing is said unasked."""
    checked, path = bench("checked"), tmp_path / "profile.json"
    monkeypatch.setenv(checked.TAKES, "20,21,22")
    order = ["profile", "--ladder", checked.NAME, "--batch", "--rounds", "2", "-o", str(path)]
    done = CliRunner().invoke(app, order, catch_exceptions=False)
    assert "checked0 in batches" in done.stdout and "pays for 2, 4, 8" in done.stdout, done.stdout
    found = Profile.load(path)
    assert found.origin["batch_ms"] == "measured"
    for batch_ms in found.batch_ms():
        assert list(batch_ms) == [2, 4, 8] and min(batch_ms.values()) >= 10
    plain = measure(WarmPool(get_ladder(checked.NAME), get_backend("own")), rounds=1, cold_rounds=0)
    assert plain.batch_ms() == [{}, {}, {}] and found.one_by_one().batch_ms() == [{}, {}, {}]


def test_torch_answers_a_batch_as_it_answers_one(photographs: list[Any]) -> None:
    """lite0 on real pictures of one size: no logit differs by more than 1e-4 from its own picture's."""
    pytest.importorskip("torch")
    runner = get_backend("torch").build(get_ladder("efficientnet-lite").variants[0])
    assert runner.batch is not None
    pictures = np.stack([picture[:224, :224] for picture in photographs[:4]])
    singles = np.stack([runner(picture) for picture in pictures])
    np.testing.assert_allclose(runner.batch(pictures), singles, rtol=0, atol=1e-4)
    assert len({tuple(single) for single in singles}) == 4


# ------------------------------------------------------------------------------ the simulation


def simulated(batch_ms: dict[int, float] | None, world: World | None = None) -> Served:
    """Return what comes of three times what one by one can be answered."""
    latency = Latency(p50=5.5, p95=6.0, p99=6.6)
    variant = VariantProfile(0, "only", 0.7, latency, batch_ms=batch_ms)
    profile = Profile(ladder="one", variants=(variant,), stall_ms=((0.0,),))
    return serve(Workload.poisson(545, 6000, 150.0, seed=1), profile, "static:0", world=world)


KNOWN = {2: 6.0, 4: 7.3, 8: 9.4}


def test_the_simulation_joins_as_the_daemon_does() -> None:
    """One in three is answered one by one, with batches all; who has one beginning has one end."""
    alone, together = simulated(None), simulated(KNOWN)
    assert (alone.outcome == OK).mean() < 0.36 and (together.outcome == OK).mean() > 0.99
    ran = np.isfinite(together.began_s)
    began, sizes = np.unique(together.began_s[ran], return_counts=True)
    assert set(sizes.tolist()) == {1, 2, 4, 8}
    assert len(np.unique(together.done_s[ran])) == len(began)
    assert together.summary()["utilisation"] <= 1.0


@pytest.mark.parametrize("slower", [2.0, 3.0, 4.0])
def test_an_overload_finds_back_to_batches(slower: float) -> None:
    """After 0.3 s in which everything took longer nearly all are answered again, at once."""
    served = simulated(KNOWN, World(Trace([0.0, 5.0, 5.3], [1.0, slower, 1.0])))
    again = served.workload.arrived_s > 7
    assert (served.outcome == OK)[again].mean() > 0.99


# ---------------------------------------------------------------------------------- the daemon


@dataclass
class Running:
    """A daemon with the checked ladder, whose batches of 2 and 4 take what one takes: 300 ms."""

    device: Any
    checked: Any
    load: Any

    def samples(self, name: str) -> list[Sample]:
        """Return what the daemon tells Prometheus under this name."""
        url = f"http://127.0.0.1:{self.device.http_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
        return [s for family in families for s in family.samples if s.name == name]

    def batches(self) -> dict[str, float]:
        """Return how many batches there were, by size."""
        samples = self.samples("adaphi_batches_total")
        return {s.labels["size"]: s.value for s in samples}

    def cancelled(self) -> float:
        """Return how many requests of φ = 0 were cancelled."""
        samples = self.samples("adaphi_requests_total")
        labels = {"model": self.checked.NAME, "variant": "checked0", "outcome": "cancelled"}
        return sum(s.value for s in samples if s.labels == labels)

    def ask(
        self,
        pictures: list[Any],
        during: Callable[[], Any] | None = None,
        also: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Ask for the first, and while it runs for the others, all of φ = 0; return answers and errors.

        `also` is called when all were sent, `during` while the others run.
        """

        async def main() -> list[Any]:
            async with AsyncClient(self.device.address, retries=0) as client:

                def task(picture: Any) -> asyncio.Task[Any]:
                    return asyncio.create_task(client.infer(picture, deadline_ms=4000, phi=0))

                first = task(pictures[0])
                await asyncio.sleep(0.1)
                others = [task(picture) for picture in pictures[1:]]
                if also is not None:
                    also()
                if during is not None:
                    await first
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(during)
                return await asyncio.gather(first, *others, return_exceptions=True)

        return asyncio.run(main())

    def is_right(self, answer: Any, picture: Any) -> bool:
        """Say whether an answer is the picture's own."""
        return bool((answer.output == self.checked.proof(0, picture)).all())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    names = ("device", "checked", "load")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        device, checked, load = (import_module(f"benchmarks.{name}") for name in names)
    folder = tmp_path_factory.mktemp("batches")
    with device.Device(
        folder, (300.0, 310.0, 320.0), batch_sizes=(2, 4), hang_s=5.0, sources=()
    ) as one:
        yield Running(one, checked, load)


def pictures(count: int) -> list[Any]:
    """Return random pictures of one size."""
    return list(np.random.default_rng(count).integers(0, 255, (count, 20, 30, 3), np.uint8))


@pytest.mark.alone
def test_every_answer_of_a_batch_is_its_own_requests(served: Running) -> None:
    """Seven that wait behind one: a batch of four, one of two, one alone; each answer proves its input."""
    before, asking = served.batches(), pictures(8)
    answers = served.ask(asking)
    assert all(map(served.is_right, answers, asking)), answers
    after = served.batches()
    assert {size: after[size] - before.get(size, 0) for size in after} == {"4": 1, "2": 1}


@pytest.mark.alone
def test_each_of_a_batch_is_counted_and_recorded(served: Running) -> None:
    """Five requests in two runs: five inferences and two executions, one of four; five records."""

    def statistics() -> Any:
        url = f"http://127.0.0.1:{served.device.http_port}/v2/models/{served.checked.NAME}"
        with urllib.request.urlopen(f"{url}/versions/checked0/stats", timeout=5) as answer:
            return json.load(answer)["model_stats"][0]

    def records() -> Any:
        time.sleep(1.0)  # they are written twice a second
        _, found = read_recording(served.device.disk / "flight")
        return found[found["kind"] == DECISION]

    before, recorded = statistics(), len(records())
    served.ask(pictures(5))
    after = statistics()
    for name, more in (("inference_count", 5), ("execution_count", 2)):
        assert after[name] - before[name] == more, name
    of_four = {s["batch_size"]: s["compute_infer"]["count"] for s in after["batch_stats"]}[4]
    known = {s["batch_size"]: s["compute_infer"]["count"] for s in before["batch_stats"]}
    assert of_four == known.get(4, 0) + 1
    rows = records()[recorded:]
    assert len(rows) == 5 and (rows["phi"] == 0).all()
    assert (
        np.isnan(rows["inference_ms"]).sum() == 4
    )  # what one alone takes, its batch does not tell


@pytest.mark.alone
def test_a_batch_that_fails_fails_for_each(served: Running) -> None:
    """The model raises for one input: every request of the run hears so, and the next ones are answered."""
    asking = pictures(6)
    asking[2][0, 0] = served.checked.REFUSED
    first, *others, last = served.ask(asking)
    assert [getattr(error, "code", None) for error in others] == ["model_failed"] * 4
    assert served.is_right(first, asking[0]) and served.is_right(last, asking[-1])


@pytest.mark.alone
def test_a_lost_worker_is_told_to_all_of_a_batch(served: Running) -> None:
    """It is killed in mid-run: none of the four waits for its deadline, and its successor answers."""
    asking = pictures(5)
    pid = served.device.worker_pid()
    first, *others = served.ask(asking, lambda: os.kill(pid, signal.SIGKILL))
    assert served.is_right(first, asking[0])
    assert [getattr(error, "code", None) for error in others] == ["worker_lost"] * 4
    assert served.device.works()


@pytest.mark.alone
def test_who_goes_away_leaves_the_others_of_a_batch(served: Running) -> None:
    """A client over HTTP that hangs up in mid-run is counted as cancelled; the rest get their answers."""
    asking = pictures(4)
    body, length = served.load.infer_body(asking[0], 4.0)
    path = f"/v2/models/{served.checked.NAME}/versions/checked0/infer"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += f"Inference-Header-Content-Length: {length}\r\n\r\n"
    batches, cancelled = served.batches(), served.cancelled()
    with socket.create_connection(("127.0.0.1", served.device.http_port)) as leaving:

        def leave() -> None:
            leaving.shutdown(socket.SHUT_RDWR)

        answers = served.ask(asking, leave, also=lambda: leaving.sendall(head.encode() + body))
    assert all(map(served.is_right, answers, asking)), answers
    assert served.batches()["4"] == batches.get("4", 0) + 1
    assert served.cancelled() == cancelled + 1
