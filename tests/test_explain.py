"""Explanations say what the table does, and why, to the last digit."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.model_zoo import Profile
from adaphi.policies import TablePolicy
from adaphi.policies.explain import not_monotone, reasons, sentence, spans


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 2))
def test_spans_are_the_table(column: list[int], active: int) -> None:
    """Every bin's choice is that of the one span it lies in; neighbouring spans differ; none is empty."""
    table = np.zeros((len(column), 3), np.uint8)
    table[:, active] = column
    edges = np.arange(1.0, len(column))
    parts = spans(edges, table, active)
    assert parts[0].low == 0 and parts[-1].high == np.inf
    assert all(a.high == b.low and a.phi != b.phi for a, b in pairwise(parts))
    for bin_, phi in enumerate(column):
        assert [s.phi for s in parts if s.low <= bin_ + 0.5 < s.high] == [phi]
    falling = [b for b in range(1, len(column)) if column[b] < column[b - 1]]
    found = not_monotone(table)
    assert found == ((falling[0], active) if falling else None)


def test_a_sentence_reads_as_one_would_say_it() -> None:
    """Down below, up above."""
    table = np.array([[0, 0, 0], [0, 1, 1], [1, 2, 2]], np.uint8)
    parts = spans(np.array([41.2, 57.9]), table, 1)
    expected = "with φ=1 active: φ=0 below 41.2 ms, stay to 57.9 ms, φ=2 above"
    assert sentence(parts, 1, "ms") == expected


def test_the_best_reason_is_the_tables_choice(profile: Profile) -> None:
    """At every reading and active variant the choice of worth 0 is the table's; payoffs are as defined."""
    policy = TablePolicy.solve(profile)
    lookup = policy.bind(profile)
    for reading_ms in np.linspace(1, 60, 40).tolist():
        for active in range(3):
            given_ = list(reasons(policy, profile, reading_ms, active))
            chosen = lookup.decide(reading_ms, active)
            assert given_[chosen].total == pytest.approx(0, abs=1e-8)
            for r in given_:
                quality = profile.variants[r.phi].quality
                payoff = quality * r.on_time - 0.5 * (1 - r.on_time) - 0.01 * (r.phi != active)
                assert r.payoff == pytest.approx(payoff, abs=1e-12)


def test_the_command_explains(profile: Profile, tmp_path: Path) -> None:
    """Words, JSON and a picture; a question that needs the profile says so."""
    TablePolicy.solve(profile).save(tmp_path / "p.npz")
    profile.save(tmp_path / "p.json")
    policy, device = str(tmp_path / "p.npz"), ["--profile", str(tmp_path / "p.json")]
    asked = ["--reading-ms", "18", "--active", "1"]
    run = CliRunner().invoke
    out = run(app, ["explain", policy, *device, *asked, "--picture", str(tmp_path / "t.png")])
    assert out.exit_code == 0 and "with φ=1 active:" in out.output and "best" in out.output
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(run(app, ["explain", policy, *device, *asked, "--json"]).output)
    assert (
        facts["unit"] == "ms"
        and len(facts["reasons"]) == 3
        and set(facts["thresholds"]) == set("012")
    )
    assert "× φ=0" in run(app, ["explain", policy]).output
    assert "needs --profile" in str(run(app, ["explain", policy, *asked]).exception)
