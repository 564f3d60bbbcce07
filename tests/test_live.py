"""Playing in real time: open loop, every request accounted for, budgets obeyed; and as it was simulated."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError, NoAnswer, RequestError
from adaphi.model_zoo import Profile
from adaphi.model_zoo.profile import Latency, VariantProfile
from adaphi.policies.trace import Trace
from adaphi.sim.fidelity import FRONT_MS, LIMITS, Fidelity, simulate
from adaphi.sim.live import FAILED, Live, play, switches
from adaphi.sim.requests import BUSY, LATE, OK, SHED, Served
from adaphi.sim.workload import Workload

pytestmark = pytest.mark.alone

TAKES_MS = (8.0, 20.0, 40.0)
PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run a daemon whose variants take as long as they say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        make = import_module("benchmarks.device").Device
        with make(tmp_path_factory.mktemp("device"), TAKES_MS, sources=["pushed"]) as running:
            yield running


def profile_of(device: Any) -> Profile:
    return Profile.load(device.folder / "profile.json")


def test_what_is_played_is_what_was_simulated(device: Any) -> None:
    """Arrivals that jam now and then, with budgets that admit one variant, then two, then all."""
    profile = profile_of(device)
    workload = Workload.poisson(15.0, 90, 150.0, seed=3)
    budget = Trace(np.array([0.0, 2.0, 4.0]), np.array([14.0, 32.0, 200.0]))
    live = play(workload, profile, PICTURE, address=device.address, budget=budget)
    both = Fidelity(simulate(workload, profile, "greedy", budget=budget), live)
    lines = {line.limit.figure: line for line in both.lines}
    assert set(lines) == {limit.figure for limit in LIMITS}
    assert lines["on_time_share"].apart < 0.1 and lines["mean_quality"].apart < 0.02, both.as_json()
    begun = np.nan_to_num(live.began_s, nan=-1)
    assert set(live.phi[(begun > 0.1) & (begun < 1.9)]) == {0}
    assert set(live.phi[(begun > 2.1) & (begun < 3.9)]) <= {0, 1}
    assert 2 in set(live.phi[begun > 4.1])


def test_nothing_waits_for_answers_and_nothing_is_lost(device: Any, tmp_path: Path) -> None:
    """Sixty at once, to a queue of 32: all are sent before a few are answered, and all come to an end."""
    workload = Workload(np.linspace(0, 0.004, 60), 2000.0)
    live = play(workload, profile_of(device), PICTURE, address=device.address)
    assert live.workload.arrived_s[-1] < np.nanmin(live.done_s) + 0.1
    counts = Counter(live.outcome.tolist())
    assert counts[OK] >= 30 and counts[BUSY] >= 20 and sum(counts.values()) == 60
    assert not counts[FAILED]
    live.write_csv(tmp_path / "requests.csv")
    with (tmp_path / "requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["outcome"] for row in rows)["ok"] == counts[OK]
    assert all((row["latency_ms"] != "") == (row["outcome"] in ("ok", "late")) for row in rows)


def test_the_command_line_plays_and_compares(device: Any) -> None:
    arguments = f"--profile {device.folder}/profile.json --arrivals regular:20 --deadline-ms 500"
    arguments += f" --seconds 1s --address {device.address}"
    for command, words in (
        (f"replay --live {arguments}", "20 requests"),
        (f"fidelity --policy greedy {arguments}", "mean quality"),
        (f"fidelity --policy greedy {arguments} --json", '"at_pace"'),
    ):
        said = CliRunner().invoke(app, command.split(), catch_exceptions=False)
        assert said.exit_code == 0 and words in said.output, said.output


def test_wrong_daemons_are_told(device: Any, profile: Profile, tmp_path: Path) -> None:
    workload = Workload.regular(100.0, 3, 100.0)
    with pytest.raises(InputError, match="the daemon serves checked0"):
        play(workload, profile, PICTURE, address=device.address)
    with pytest.raises(NoAnswer):
        play(workload, profile, PICTURE, address=f"ipc://{tmp_path}/nobody")
    with pytest.raises(InputError, match="say --live"):
        CliRunner().invoke(
            app,
            ["replay", "--profile", "x", "--arrivals", "regular:1", "--deadline-ms", "9"],
            catch_exceptions=False,
        )


def test_budgets_that_are_not_taken_end_the_play(
    bench: Callable[[str], Any], tmp_path: Path
) -> None:
    with bench("device").Device(tmp_path, sources=["memory"]) as device:
        budget = Trace(np.array([0.0, 0.1]), np.array([1.0, 2.0]))
        workload = Workload.regular(20.0, 20, 100.0)
        with pytest.raises(RequestError, match="cannot be pushed"):
            play(workload, profile_of(device), PICTURE, address=device.address, budget=budget)


def served(outcome: list[int], phi: list[int], profile: Profile) -> dict[str, Any]:
    count = len(outcome)
    ran = np.isin(outcome, (OK, LATE))
    began = np.where(ran, np.arange(count), np.nan)
    return {
        "policy": "greedy",
        "workload": Workload(np.arange(count, dtype=float), 100.0),
        "quality": profile.costs().quality,
        "outcome": np.array(outcome, np.uint8),
        "phi": np.array(phi, np.int8),
        "began_s": began,
        "done_s": began + 0.02,
        "switches": 99,
    }


def alive(one: Served) -> Live:
    """Return an outcome as if it had been played, by a client that is never late."""
    nothing = np.zeros(len(one.workload))
    return Live(**vars(one), late_ms=nothing, seen_ms=nothing, overhead_ms=nothing + FRONT_MS)


def test_figures_are_held_against_their_limits(profile: Profile) -> None:
    live = alive(Served(**served([OK, OK, LATE, SHED], [0, 1, 1, -1], profile)))
    simulated = Served(**served([OK, OK, OK, SHED], [0, 1, 0, -1], profile))
    both = Fidelity([simulated], live)
    lines = {line.limit.figure: line for line in both.lines}
    assert lines["on_time_share"].apart == pytest.approx(0.25) and not lines["on_time_share"].holds
    assert lines["switches"].simulated == 2 and lines["switches"].live == 1
    assert lines["switches"].apart == 1.0
    assert lines["latency_p95_ms"].holds and not both.holds
    assert both.as_json()["apart"]["latency_p95_ms"] == pytest.approx(0)  # type: ignore[index]
    assert switches(np.array([1, 1, 0], np.int8), np.array([3.0, 1.0, 2.0])) == 2


def test_mean_and_range_are_those_of_the_draws(profile: Profile) -> None:
    """Of 0, 1 … 98 switches: 49 on average, the fifth lowest 4, the fifth highest 94; off, yet expected."""
    draws = []
    for count in range(99):
        phi = [place % 2 for place in range(count + 1)] + [count % 2] * (98 - count)
        draws.append(Served(**served([OK] * 99, phi, profile)))
    verdicts = []
    for count in (49, 94, 95):
        both = Fidelity(draws, alive(draws[count]))
        line = {line.limit.figure: line for line in both.lines}["switches"]
        assert (line.simulated, line.low, line.high) == pytest.approx((49, 4, 94))
        told: Any = both.as_json()
        assert told["range"]["switches"] == [line.low, line.high] and told["draws"] == 99
        assert told["simulated"]["switches"] == 49 and told["simulated"]["requests"] == 99
        verdicts.append((told["figure_holds"]["switches"], told["figure_expected"]["switches"]))
    assert verdicts == [(True, True), (False, True), (False, False)]


JAMMED = Workload.poisson(36.0, 100, 80.0, seed=5)
"""Requests that now and then wait for each other, and are late, where `wide` devices run them."""
WAVES = Trace(np.arange(12) * 0.25, np.tile([16.0, 24.0, 34.0], 4))


def wide(spread: float) -> Profile:
    """Return a profile of three variants, whose p95 is so much above the middle."""
    variants = tuple(
        VariantProfile(phi, f"m{phi}", 0.7 + 0.03 * phi, Latency(p50=ms, p95=ms * (1 + spread)))
        for phi, ms in enumerate((14.0, 20.0, 28.0))
    )
    return Profile(ladder="wide", variants=variants, stall_ms=((0.0,) * 3,) * 3)


def inside(simulated: list[Served], plays: Iterable[Served]) -> dict[str, float]:
    """Return the share of plays in which each figure was to be expected."""
    ranges = Fidelity(simulated, alive(simulated[0])).lines
    found = [
        [a._replace(live=b.live).expected for a, b in zip(ranges, own.lines, strict=True)]
        for own in (Fidelity([one], alive(one)) for one in plays)
    ]
    return dict(zip((line.limit.figure for line in ranges), np.mean(found, axis=0), strict=True))


def test_a_play_is_in_the_range_as_often_as_it_says() -> None:
    """What is live is one more draw of another seed: a figure is inside 90 % of the time, more with ties.

    A device that takes a quarter longer than its profile says is noticed, and its pace told.
    """
    profile = wide(0.15)
    simulated, plays = (
        simulate(JAMMED, profile, "greedy", budget=WAVES, seed=seed, draws=399) for seed in (1, 2)
    )
    shares = inside(simulated, plays)
    assert min(shares.values()) > 0.84, shares
    assert max(shares["switches"], shares["latency_p95_ms"]) < 0.96, shares  # hardly any ties
    slower = simulate(JAMMED, profile, "greedy", budget=WAVES, seed=3, draws=50, pace=1.25)
    assert inside(simulated, slower)["mean_quality"] < 0.3
    paces = [Fidelity(simulated, alive(one)).pace for one in slower]
    assert np.median(paces) == pytest.approx(1.25, rel=0.02)


def test_the_range_is_as_wide_as_the_times_that_are_drawn() -> None:
    """Runs that always take the same leave none; the more they differ, the wider; the seed says all."""
    widths = []
    for spread in (0.0, 0.05, 0.3):
        draws = [simulate(JAMMED, wide(spread), "greedy", budget=WAVES, seed=3) for _ in range(2)]
        one, again = (Fidelity(each, alive(each[0])) for each in draws)
        assert one.as_json() == again.as_json()
        widths.append({line.limit.figure: line.high - line.low for line in one.lines})
    assert set(widths[0].values()) == {0.0}
    for figure in ("switches", "latency_p95_ms"):
        assert 0 < widths[1][figure] < widths[2][figure]
