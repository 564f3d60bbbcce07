"""Import, solve, simulate and compare on real traces, by the commands that a user types."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.model_zoo import Profile
from adaphi.policies import TablePolicy
from adaphi.sim import import_raw, replay

ROOT = Path(__file__).parents[1]
TRACES = ROOT.parent / "shared" / "data" / "traces"
rescore = runpy.run_path(str(ROOT / "examples" / "rescore.py"))["rescore"]


def mappings() -> dict[str, str]:
    """Return each raw trace's mapping: use becomes 1 − use, anything else its absolute value."""
    index = TRACES / "index.csv"
    if not index.exists():
        return {}
    by_kind = {
        ("cpu_util", "percent"): "cpu_percent",
        ("cpu_util", "fraction"): "cpu_fraction",
        ("mem_util", "percent"): "memory_percent",
    }
    rows = csv.DictReader(index.read_text().splitlines())
    return {
        row["file"]: by_kind.get((row["resource"], row["unit"]), "absolute")
        for row in rows
        if row["file"].startswith("budget/")
    }


MAPPINGS = mappings()


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def check_decisions(figures: dict[str, float], profile: Path, decisions: Path) -> None:
    again = rescore(str(profile), str(decisions))
    for name, value in again.items():
        assert figures[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.skipif(not MAPPINGS, reason=f"the real traces are not at {TRACES}")
def test_there_are_as_many_real_traces_as_their_index_says() -> None:
    """Every file of the index is there, and each one has a mapping."""
    assert len(MAPPINGS) == len(list((TRACES / "budget").glob("*.csv"))) > 30


@pytest.mark.parametrize("name", MAPPINGS or [pytest.param("none", marks=pytest.mark.skip)])
def test_the_commands_work_on_a_real_trace(name: str, tmp_path: Path) -> None:
    """Import, split, solve, simulate, compare; an independent script re-scores the decisions."""
    profile = ROOT / "examples" / "profile.json"
    budget, train, test = (tmp_path / f"{part}.csv" for part in ("budget", "train", "test"))
    policy, decisions = tmp_path / "policy.npz", tmp_path / "decisions.csv"
    run("trace", "import", TRACES / name, "--as", MAPPINGS[name], "-o", budget)
    run("trace", "split", budget, train, test)
    run("solve", "--profile", profile, "--trace", train, "-o", policy)
    for chosen in (policy, "hysteresis", "greedy"):
        given = ["--profile", profile, "--policy", chosen, "--trace", test]
        out = run("simulate", *given, "--decisions", decisions, "--json")
        check_decisions(json.loads(out), profile, decisions)
    out = run("compare", "--profile", profile, "--train", train, "--test", test, "--json")
    compared = json.loads(out)
    scores = {n: p["mean_score"] for n, p in compared["policies"].items()}
    assert scores["clairvoyant"] == max(scores.values())
    assert {"static:0", "static:1", "static:2", "greedy", "alert", "table", "refreshed"} < set(
        scores
    )


@pytest.mark.skipif(not MAPPINGS, reason=f"the real traces are not at {TRACES}")
def test_most_promises_hold_on_the_half_that_was_not_seen() -> None:
    """Over real traces of 300 rows and more: two thirds of the second halves, at least, are in it."""
    profile = Profile.load(ROOT / "examples" / "profile.json")
    held = []
    for name, mapping in MAPPINGS.items():
        trace = import_raw(TRACES / name, mapping, median_ms=27.0)
        if len(trace) >= 300:
            learned, scored = trace.split()
            policy = TablePolicy.solve(profile, [learned.budget_ms])
            promise, outcome = policy.certificate, replay(scored, profile, policy)
            held.append(
                [
                    low <= figure <= high
                    for figure, (low, high) in (
                        (outcome.on_time_share, promise.on_time_interval or (1, 0)),
                        (outcome.switch_share, promise.switch_interval or (1, 0)),
                        (outcome.mean_quality, promise.quality_interval or (1, 0)),
                    )
                ]
            )
    shares = [sum(column) / len(held) for column in zip(*held, strict=True)]
    assert len(held) > 25 and min(shares) > 2 / 3, shares
