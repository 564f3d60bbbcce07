"""The service over the real supervisor, arena and channel; the worker is played by hand."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from adaphi.config import Config
from adaphi.controller import supervisor, worker
from adaphi.controller.arena import Arena
from adaphi.controller.channel import WorkerEnd
from adaphi.controller.flight import READING, FlightRecorder, Header, read_recording
from adaphi.controller.metrics import Metrics
from adaphi.controller.protocol import AnswerHeader, InferHeader, decode
from adaphi.controller.scheduler import Limits
from adaphi.controller.service import Service, Ticket
from adaphi.controller.step import Reading
from adaphi.controller.supervisor import Supervisor
from adaphi.errors import RequestError, WorkerLost
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies.choose import choose
from adaphi.policies.files import Solved
from adaphi.policies.lookup import Policy
from adaphi.policies.queue_table import QueuePlan
from adaphi.policies.table import TablePolicy

PROFILE = Profile(
    ladder="three",
    variants=tuple(
        VariantProfile(
            phi,
            f"v{phi}",
            0.7 + phi / 20,
            Latency(p50=ms, p95=ms),
            memory_bytes=(phi + 1) * 50 << 20,
        )
        for phi, ms in enumerate((10.0, 15.0, 24.0))
    ),
    stall_ms=((0.0,) * 3,) * 3,
)


class Rig:
    """A service, the workers that were started for it (`ends`), and what was answered, by request."""

    def __init__(self, policy: Policy) -> None:
        self.answers: dict[int, list[AnswerHeader | RequestError]] = {}
        self.losses: list[str] = []
        self.ends: list[WorkerEnd] = []
        self.deaths: list[asyncio.Future[int]] = []
        orders = worker.Orders(ladder="x")
        self.arena = Arena(1 << 22)
        self.supervisor = Supervisor(orders, self.arena, self._on_message, self._on_loss)
        metrics = Metrics("x", "1")
        self.service = Service(Config(), PROFILE, policy, [], metrics, self.supervisor)

    async def start(self, *_: Any, pass_fds: tuple[int, int], **__: Any) -> Any:
        """Stand for the start of a process: it lives until its death is told."""
        self.ends.append(WorkerEnd(*map(os.dup, pass_fds)))
        dead = asyncio.get_running_loop().create_future()
        self.deaths.append(dead)

        async def wait() -> int:
            process.returncode = await asyncio.shield(dead)
            return int(process.returncode)

        process = types.SimpleNamespace(pid=1, returncode=None, wait=wait)
        process.terminate = process.kill = lambda: dead.done() or dead.set_result(-15)
        return process

    def kill(self) -> None:
        """Have the worker die; what it said before is still read."""
        self.ends[-1].close()
        self.deaths[-1].set_result(-9)

    async def warm(self) -> None:
        """Wait for the next worker, and have it say that it is warm."""
        await until(lambda: bool(self.deaths) and not self.deaths[-1].done())
        self.ends[-1].tell(worker.UP, worker.Up(PROFILE, (0, 1, 2)))
        await until(lambda: self.service.ready)

    def ask(self, id: int, deadline_ms: float = 5000.0, phi: int | None = 0) -> None:
        """Send a request."""

        def reply(what: AnswerHeader | RequestError, _: list[Any]) -> None:
            self.answers.setdefault(id, []).append(what)

        image = np.full((4, 4, 3), id, np.uint8)
        header = InferHeader(id, "uint8", image.shape, deadline_ms, phi=phi)
        self.service.submit(Ticket(id, reply), header, image)

    def orders(self) -> list[tuple[bytes, bytes]]:
        """Return what the worker was told since."""
        told = []
        while self.ends[-1].wait(0):
            told.append(self.ends[-1].receive())
        return told

    def done(self, key: int) -> None:
        """Have the worker finish a run."""
        done = worker.Done(key, 10.0, False, (0, 1, 2), "uint8", (3,), ())
        self.ends[-1].tell(worker.DONE, done, np.zeros(3, np.uint8))

    def _on_message(self, kind: bytes, header: bytes, tensor: list[Any]) -> None:
        if kind == worker.DONE:
            self.service.on_done(decode(worker.Done, header), tensor)
        elif kind == worker.UP:
            self.service.on_up(decode(worker.Up, header).resident)
        elif kind == worker.KEPT:
            self.service.on_kept(decode(worker.Kept, header).resident)

    def _on_loss(self, reason: str) -> None:
        self.losses.append(reason)
        self.service.on_worker_lost(reason, asyncio.get_running_loop().time() + 1)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, five seconds at most."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


Play = Callable[[Callable[[Rig], Awaitable[None]], Policy], None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return what plays a scene with a rig whose first worker is warm."""

    def run(scene: Callable[[Rig], Awaitable[None]], policy: Policy) -> None:
        async def main() -> None:
            rig = Rig(policy)
            monkeypatch.setattr(supervisor.asyncio, "create_subprocess_exec", rig.start)
            rig.supervisor.start()
            await rig.warm()
            await scene(rig)
            await rig.supervisor.stop()
            for end in rig.ends:
                end.close()
            os.close(rig.arena.descriptor)

        asyncio.run(main())

    return run


def test_only_what_a_lost_worker_had_begun_is_lost(play: Play) -> None:
    """It says that one run is done and dies before it begins the next: that one runs on its successor."""

    async def scene(rig: Rig) -> None:
        for id in (1, 2, 3):
            rig.ask(id)
        rig.ends[-1].begin(1)
        rig.done(1)
        rig.kill()
        await until(lambda: bool(rig.losses))
        assert isinstance(rig.answers[1][0], AnswerHeader) and list(rig.answers) == [1]
        await rig.warm()
        keys = [decode(worker.Run, header).key for _, header in rig.orders()]
        rig.ends[-1].begin(keys[0])
        rig.kill()
        await until(lambda: len(rig.losses) == 2)
        assert isinstance(rig.answers[2][0], WorkerLost) and 3 not in rig.answers

    play(scene, choose("greedy", PROFILE))


def test_a_run_that_had_begun_is_answered_once_with_worker_lost(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        rig.ask(1)
        ((_, header),) = rig.orders()
        rig.ends[-1].begin(decode(worker.Run, header).key)
        rig.kill()
        await until(lambda: bool(rig.losses))
        assert [type(what) for what in rig.answers[1]] == [WorkerLost]

    play(scene, choose("greedy", PROFILE))


@pytest.mark.parametrize("fails", ["process", "channel"])
def test_a_successor_that_cannot_be_started_is_tried_again(
    play: Play, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """No descriptor or no memory was left for one moment; the daemon serves again after it."""

    async def scene(rig: Rig) -> None:
        left = 1

        def once(*given: Any, **named: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return real(*given, **named)

        where, name = (
            (socket, "socketpair") if fails == "channel" else (asyncio, "create_subprocess_exec")
        )
        real = getattr(where, name)
        monkeypatch.setattr(where, name, once)
        rig.kill()
        await until(lambda: len(rig.losses) == 2)
        assert "Too many open files" in rig.losses[1]
        await rig.warm()

    play(scene, choose("greedy", PROFILE))


def test_a_deadline_without_end_costs_nobody_an_answer(play: Play) -> None:
    """A queue's policy counts slack in bins: one of 1.8e308 ms has no whole number of them."""

    async def scene(rig: Rig) -> None:
        rig.ask(1, phi=None)
        rig.ask(2, phi=None, deadline_ms=1.79e308)
        for key in (1, 2):
            rig.done(key)
            await until(lambda key=key: key in rig.answers)  # type: ignore[misc]
        assert all(isinstance(what, AnswerHeader) for (what,) in rig.answers.values())

    plan = QueuePlan.solve(PROFILE, deadline_ms=60.0, rates_per_s=(10, 40, 90), slack_bins=20)
    play(scene, choose(plan, PROFILE))


def test_a_policy_that_raises_costs_one_request(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever it was asked about hears of it; who was answered by then gets his answer."""

    async def scene(rig: Rig) -> None:
        rig.ask(1)
        rig.ask(2, phi=None)

        def fail(*_: Any) -> int:
            raise ZeroDivisionError

        monkeypatch.setattr(rig.service.scheduler.controller, "step", fail)
        rig.done(1)
        await until(lambda: len(rig.answers) == 2)
        assert isinstance(rig.answers[1][0], AnswerHeader)
        assert "ZeroDivisionError" in str(rig.answers[2][0])

    play(scene, choose("greedy", PROFILE))


def test_room_for_memory_does_not_bring_back_what_was_unloaded(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        service, memory_bytes = rig.service, 160 << 20
        monitor: Any = service.monitor
        monitor.limits = lambda resident: Limits(memory_bytes=memory_bytes, resident=resident)
        service.read_sensors()
        rig.ends[-1].tell(worker.KEPT, worker.Kept((0, 1)))
        await until(lambda: service.resident == {0, 1})
        service.residency.unload(2)
        rig.orders()
        memory_bytes = 1 << 40
        service.read_sensors()
        assert rig.orders() == []

    play(scene, choose("greedy", PROFILE))


def taken_over(rig: Rig, policy: str | Solved, on_time: bool = True) -> None:
    """Offer a policy and report as many decisions as it takes until it decides."""
    service, request = rig.service, cast(Any, object())
    controller = service.scheduler.controller
    before = controller.policy
    service.rollout.offer(policy)
    while controller.policy is before:
        report(rig, request, on_time)


def report(rig: Rig, request: Any, on_time: bool) -> None:
    """Make a decision, and tell how it came out."""
    controller = rig.service.scheduler.controller
    start = types.SimpleNamespace(decision=controller.step(Reading(40.0)), request=request)
    rig.service._report(cast(Any, types.SimpleNamespace(start=start)), request, on_time)


def shown(rig: Rig, name: str) -> float | None:
    """Return what a metric says."""
    return rig.service.metrics.registry.get_sample_value(name)


def test_a_battery_policy_that_comes_in_later_makes_it_last(play: Play) -> None:
    """Its horizon begins when it takes over, as it does for one that is there from the start."""
    variants = [msgspec.structs.replace(v, energy_mj=100.0 * 4**v.phi) for v in PROFILE.variants]
    profile = msgspec.structs.replace(PROFILE, variants=tuple(variants))
    table = TablePolicy.solve(profile, [np.linspace(20, 60, 500)], latency="p95")
    plan = table.with_battery(
        profile, battery_j=54_000.0, horizon_s=36_000.0, period_s=0.1, drains=[]
    )

    async def scene(rig: Rig) -> None:
        rig.service.read_sensors()
        assert rig.service.limits.left_s == 0.0
        rig.service.rollout._choose = lambda policy: choose(policy, profile)
        taken_over(rig, plan)
        rig.service.read_sensors()
        assert 35_000 < rig.service.limits.left_s <= 36_000

    play(scene, choose("greedy", PROFILE))


def test_the_certificate_that_is_shown_is_that_of_who_decides(play: Play, tmp_path: Path) -> None:
    """Broken by the new policy and rolled back, it is the old one's again, and the recording names both."""
    table = TablePolicy.solve(PROFILE, [np.linspace(20, 60, 500)], latency="p95")
    other = TablePolicy.solve(PROFILE, [np.linspace(15, 90, 500)], latency="p95")

    async def scene(rig: Rig) -> None:
        service = rig.service
        names = [v.name for v in PROFILE.variants]
        header = Header(
            boot_id="b", ladder="three", ladder_fingerprint="f", policy="table",
            variants=tuple(names), typical_ms=(1.0,) * 3,
        )  # fmt: skip
        service.flight = FlightRecorder(tmp_path, header)
        taken_over(rig, "greedy")
        service.flight.add(READING)
        taken_over(rig, other)
        name = service.scheduler.controller.policy.name
        service.flight.add(READING)
        while service.rollout.state == "on probation":
            report(rig, object(), on_time=False)
        assert service.scheduler.controller.policy.name == "greedy"
        assert shown(rig, "adaphi_certificate_holds") == 1
        service.flight.add(READING)
        service.flight.close()
        assert read_recording(tmp_path)[0].policy == f"greedy, then {name}, then greedy"

    play(scene, choose(table, PROFILE, watch=True))
