"""Playing in real time: open loop, every request accounted for, budgets obeyed; and as it was simulated."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import InputError, NoAnswer, RequestError
from adaphi.model_zoo import Profile
from adaphi.policies.trace import Trace
from adaphi.sim.fidelity import LIMITS, Fidelity, simulate
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
    lines = {line.limit.figure: line for line in both.lines()}
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


def test_figures_are_held_against_their_limits(profile: Profile) -> None:
    nothing = {"late_ms": np.zeros(4), "seen_ms": np.zeros(4), "overhead_ms": np.zeros(4)}
    live = Live(**served([OK, OK, LATE, SHED], [0, 1, 1, -1], profile), **nothing)
    simulated = Served(**served([OK, OK, OK, SHED], [0, 1, 0, -1], profile))
    both = Fidelity(simulated, live)
    lines = {line.limit.figure: line for line in both.lines()}
    assert lines["on_time_share"].apart == pytest.approx(0.25) and not lines["on_time_share"].holds
    assert lines["switches"][1:3] == (2, 1) and lines["switches"].apart == 1.0
    assert lines["latency_p95_ms"].holds and not both.holds
    assert both.as_json()["apart"]["latency_p95_ms"] == pytest.approx(0)  # type: ignore[index]
    assert switches(np.array([1, 1, 0], np.int8), np.array([3.0, 1.0, 2.0])) == 2
