"""What is proposed to be kept: the best of all sets, with a reason each, in a file that others take."""

from __future__ import annotations

import json
import math
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi import Client
from adaphi.cli.app import app
from adaphi.config import load_config
from adaphi.errors import InputError, LadderError, NotReady
from adaphi.model_zoo import Profile, get_ladder
from adaphi.model_zoo.images import example_image
from adaphi.model_zoo.ladder_file import write_ladder
from adaphi.model_zoo.scaling.advice import Task, advice, left_by_blur
from adaphi.model_zoo.scaling.drone import MEASURED
from adaphi.model_zoo.scaling.proposing import Candidate, propose, worth


def candidates() -> st.SearchStrategy[list[Candidate]]:
    one = st.builds(
        Candidate, st.just("x"), st.floats(0.5, 0.9), st.floats(1, 50), st.floats(1, 100)
    )
    return st.lists(one, min_size=1, max_size=5)


@given(candidates(), st.floats(2, 60), st.floats(20, 200))
def test_no_set_that_fits_is_worth_more(
    some: list[Candidate], limit_ms: float, memory: float
) -> None:
    """Against every set; what another one beats, or the limits exclude, is of no use in any."""
    able = [c for c in some if c.latency_ms <= limit_ms and c.memory_bytes <= memory]
    if not able:
        with pytest.raises(InputError, match="no variant fits"):
            propose(some, limit_ms, memory)
        return
    found = propose(some, limit_ms, memory)
    assert sum(some[k].memory_bytes for k in found.kept) <= memory
    assert len(found.reasons) == len(some)
    first_ms = min(c.latency_ms for c in able)
    best = max(
        worth(s, first_ms, limit_ms)
        for size in range(1, len(able) + 1)
        for s in combinations(able, size)
        if sum(c.memory_bytes for c in s) <= memory
    )
    assert found.value == pytest.approx(best, abs=1e-8)


def test_worth_is_the_mean_over_budgets_of_equal_ratios() -> None:
    some = [Candidate("a", 0.6, 2, 1), Candidate("b", 0.8, 7, 1)]
    budgets = np.geomspace(1, 20, 200_001)
    qualities = np.where(budgets >= 7, 0.8, np.where(budgets >= 2, 0.6, 0.0))
    assert worth(some, 1, 20) == pytest.approx(qualities.mean(), abs=1e-4)


def test_every_reason_names_its_variant() -> None:
    some = [
        Candidate("a", 0.6, 2, 10),
        Candidate("b", 0.8, 7, 10),
        Candidate("c", 0.9, 99, 10),
        Candidate("d", 0.7, 8, 10),
        Candidate("e", 0.95, 5, 99),
    ]
    found = propose(some, 20, 50)
    assert found.kept == (0, 1)
    for one, reason, word in zip(
        some, found.reasons, ("kept", "kept", "takes", "than b", "needs"), strict=True
    ):
        assert f" {one.name} " in reason and word in reason
    assert propose(some, 20, 15).kept == (
        0,
    )  # of two that do not fit together: a serves all budgets


def test_a_ladder_file_comes_back_and_bad_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ladder.toml"
    variants = get_ladder("efficientnet-lite").variants
    write_ladder(variants, path, why=["because"], notes={variants[0].name: "small"})
    assert get_ladder(str(path)).variants == variants
    (tmp_path / "adaphi.toml").write_text('ladder = "ladder.toml"')
    assert load_config(tmp_path / "adaphi.toml").ladder == str(path)
    for bad in ("", "[[variant]]\nmodel = 3", '[[variant]]\nmodel = "a"\nquality = 7', "= ["):
        path.write_text(bad)
        with pytest.raises(LadderError, match=r"ladder\.toml"):
            get_ladder(str(path))
    with pytest.raises(LadderError, match="No such file"):
        get_ladder(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"blur_share": 0.05}, "this blur leaves"),
        ({"cues": "shape"}, "shape bias"),
        ({"cues": "texture"}, "texture needs pixels"),
        ({"training": True}, "augment all of them alike"),
        ({"samples": 1}, "try a linear probe too"),
        ({"samples": 7}, "try a linear probe too"),
        ({"samples": 8}, "fine-tuning was always"),
        ({"latency_ms": 100.0}, "5.0 times"),
        ({}, ""),
    ],
)
def test_each_law_speaks_only_of_its_own_task(said: dict[str, Any], line: str) -> None:
    lines = advice(Task(**{"seen_px": (256, 274), "slowest_ms": 20.0, "latency_ms": 30.0, **said}))
    assert [line in each for each in lines] == ([True] if said else [])


def test_blur_takes_more_from_more_pixels() -> None:
    """A box of s of a side leaves |sin x / x| with x = π κ r s / 2, by its formula."""
    x = math.pi * MEASURED.law.sharpness * 256 * 0.05 / 2
    assert left_by_blur(256, 0.05) == pytest.approx(math.sin(x) / x)
    assert left_by_blur(320, 0.05) < left_by_blur(256, 0.05) < left_by_blur(256, 0.0) == 1


def adaphi(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments, catch_exceptions=False).output


def test_the_page_draws_what_is_kept_below_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every variant is there once, at its time and quality, those kept apart; the limit is a line."""
    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    run = ["plan", "ladder", "--device", "edge-cpu", "--latency-ms", "25"]
    kept = json.loads(adaphi(*run, "--json", "--report", "page.html"))["kept"]
    assert 0 < len(kept) < 3
    text, read = (tmp_path / "page.html").read_text(), json.JSONDecoder().raw_decode
    text = text.partition("Plotly.newPlot(")[2].partition("[")[2]
    traces, end = read("[" + text)
    layout, _ = read(text[end - 1 :].partition(",")[2].lstrip())
    drawn = {trace["name"]: trace for trace in traces}
    assert drawn["kept"]["text"] == kept
    assert sorted(kept + drawn["left out"]["text"]) == [
        f"tf_efficientnet_lite{k}" for k in range(3)
    ]
    assert max(drawn["kept"]["x"]) <= 25 < min(drawn["left out"]["x"])
    assert drawn["the best that a budget affords"]["y"][:-1] == drawn["kept"]["y"]
    assert [line["x0"] for line in layout["shapes"]] == [25]


def test_what_is_written_can_be_profiled_and_served(
    tmp_path: Path, run_daemon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the limits to an answer: the plan's file goes to `profile` and to `serve`, and both run it."""
    monkeypatch.chdir(tmp_path)
    limits = ("--profile", "profile.json", "--latency-ms", "22")
    said = adaphi("plan", "ladder", *limits, "--cues", "shape", "--json")
    value = json.loads(said)
    assert value["kept"] == ["tf_efficientnet_lite0"]
    assert any("shape bias" in line for line in value["why"])
    adaphi("profile", "--ladder", "ladder.toml", "--rounds", "1", "-o", "measured.json")
    measured = Profile.load(tmp_path / "measured.json")
    assert [v.name for v in get_ladder(measured.ladder).variants] == value["kept"]

    config = tmp_path / "adaphi.toml"
    config.write_text(config.read_text().replace("profile.json", "ladder.toml"))
    with run_daemon() as served, Client(served.address) as client:
        until = time.monotonic() + 300
        while True:
            try:
                answer = client.infer(example_image(), deadline_ms=20_000)
                break
            except NotReady:
                assert time.monotonic() < until and served.process.poll() is None
                time.sleep(0.2)
        assert (answer.phi, answer.name) == (0, "tf_efficientnet_lite0")
