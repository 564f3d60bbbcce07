"""What would have happened, from a recording, and the page that shows it: known laws, a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from adaphi.cli.app import app
from adaphi.controller import flight
from adaphi.controller.flight import FlightRecorder, Header
from adaphi.model_zoo import Profile
from adaphi.policies import rule
from adaphi.sim import Trace
from adaphi.sim.counterfactual import LEAST_SWITCHES, compare_flight
from adaphi.sim.scoring import BATCHES, half_width

STALL_MS = 3.0
BESIDE_MS = 1.5
ROWS = 600


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def recording(profile: Profile, tmp_path: Path) -> Path:
    """Return a folder: greedy on a device that slows down and up, switches cost 3 ms, answering 1.5 ms."""
    random, clock_s = np.random.default_rng(0), [1000.0]
    folder, typical_ms = tmp_path / "flights", profile.typical_ms()
    header = Header(
        boot_id="b",
        ladder=profile.ladder,
        ladder_fingerprint=profile.ladder_fingerprint,
        policy="greedy",
        variants=tuple(v.name for v in profile.variants),
        typical_ms=tuple(typical_ms),
    )
    recorder = FlightRecorder(folder, header, clock=lambda: clock_s[0])
    greedy, active, level = rule("greedy", profile.costs("p50")), 0, 0.0
    for number in range(ROWS):
        level = 0.9 * level + random.normal(0, 0.15)
        slow, slack_ms = 1.5 if number % 200 < 100 else 1.2, 30 * np.exp(level)
        reading_ms = slack_ms / slow * np.exp(random.normal(0, 0.05))
        phi = greedy.decide(reading_ms, active)
        took_ms = (typical_ms[phi] + STALL_MS * (phi != active)) * slow
        clock_s[0] += 0.05
        recorder.add(
            flight.DECISION, previous=active, phi=phi, reading_ms=reading_ms, slack_ms=slack_ms,
            inference_ms=took_ms, slowdown=slow,
            outcome="ok" if took_ms + BESIDE_MS <= slack_ms else "late",
        )  # fmt: skip
        active = phi
    recorder.close()
    return folder


def test_a_recording_shows_what_switching_cost_and_answering_beside_it(
    recording: Path, profile: Profile
) -> None:
    """Where there are enough switches their stall is found, elsewhere the profile's stands."""
    found = compare_flight(recording, profile, [])
    shown = found.switches >= LEAST_SWITCHES
    assert shown.sum() >= 3 and found.switches.sum() > 50
    np.testing.assert_allclose(found.stall_ms[shown], STALL_MS, atol=0.6)
    np.testing.assert_array_equal(found.stall_ms[~shown], np.array(profile.stall_ms)[~shown])
    assert found.beside_ms == pytest.approx(BESIDE_MS, abs=0.5)


def test_what_was_done_is_scored_as_it_happened(recording: Path, profile: Profile) -> None:
    """The model's outcome of the recorded decisions is nearly what was recorded, and greedy's like both."""
    found = compare_flight(recording, profile, [])
    happened, modelled = found.happened, found.modelled
    assert 0.5 < happened.on_time_share < 0.99
    assert modelled.on_time_share == pytest.approx(happened.on_time_share, abs=0.02)
    assert modelled.mean_quality == pytest.approx(happened.mean_quality, abs=0.002)
    assert modelled.switch_share == happened.switch_share
    assert len(modelled.decisions) == ROWS // 2 - 1
    assert found.comparison.clairvoyant.mean_score >= modelled.mean_score


def test_learning_elsewhere_leaves_the_whole_recording_to_score(
    recording: Path, profile: Profile
) -> None:
    """With a trace to learn from, all of the recording but its first reading is scored."""
    train = Trace.from_budgets(20 * np.exp(np.random.default_rng(1).normal(0, 0.2, 300)))
    found = compare_flight(recording, profile, [train])
    assert len(found.modelled.decisions) == ROWS - 1


def test_intervals_hold_what_they_promise() -> None:
    """By batch means, 95 % of intervals hold the mean of an autoregressive series; few values have none."""
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        noise = random.normal(size=2000)
        series = np.convolve(noise, 0.7 ** np.arange(30))[:2000]
        held += abs(series.mean()) <= (half_width(series) or 0.0)
    assert 0.91 < held / 400 < 0.98
    assert half_width(np.ones(2 * BATCHES - 1)) is None


def chromium(page: Path) -> tuple[str, set[str]]:
    """Return a page's document after its scripts ran in a real browser, and what it asked others for."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed")
    log = page.with_suffix(".net.json")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    command += ["--window-size=1180,3000", f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # What the browser asks for on its own account has no page as its origin.
    asked = [e["url"] for e in events if e.get("initiator", "not an origin") != "not an origin"]
    return done.stdout, {url for url in asked if not url.startswith(("file:", "data:", "blob:"))}


def test_a_browser_draws_the_report_and_asks_for_nothing(
    recording: Path, profile: Profile, tmp_path: Path
) -> None:
    """All plots are drawn with budget, bands and late answers; no outside resource is asked for."""
    pytest.importorskip("plotly")
    profile.save(tmp_path / "profile.json")
    page, given = tmp_path / "page.html", ["--profile", tmp_path / "profile.json"]
    done = run("compare", *given, "--flight", recording, "--report", page)
    assert done.exit_code == 0, done.output
    first = page.read_bytes()
    run("compare", *given, "--flight", recording, "--report", page)
    assert page.read_bytes() == first  # no date, no random names
    document, asked = chromium(page)
    assert not asked
    body = document[document.index("<main") :]
    for name, drawn in {"timeline": 15, "bars": 1, "frontier": 5, "table": 3}.items():
        start = body.index(f'<div id="{name}"')
        plot = body[start : body.index("</section>", start)]
        traces = re.findall(r'class="trace (?:scatter|bars)', plot)
        assert len(traces) >= drawn and 'class="main-svg"' in plot, name
    assert "as the model has it" in body and "sha256" in body and ">best rule" not in body
    leaky = tmp_path / "leaky.html"
    leaky.write_text('<img src="http://127.0.0.1:9/x.png">')
    assert chromium(leaky)[1] == {"http://127.0.0.1:9/x.png"}  # it would have been noticed


def test_one_policy_is_shown_beside_the_rules(profile: Profile, tmp_path: Path) -> None:
    """`simulate --report` names the policy, the rules, the bound, and its inputs by their hashes."""
    pytest.importorskip("plotly")
    profile.save(tmp_path / "profile.json")
    trace, page = tmp_path / "trace<b>.csv", tmp_path / "page.html"
    Trace.from_budgets([20.0, 30.0, 12.0, 14.0] * 30).write(trace)
    given = ["--profile", tmp_path / "profile.json", "--trace", trace, "--policy", "hysteresis"]
    done = run("simulate", *given, "--report", page)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    main = text[text.index("<main") :]
    for name in ("hysteresis:1.1,3", "static:2", "greedy", "alert", "clairvoyant"):
        assert f"<td>{name}</td>" in main, name
    hashed = subprocess.run(["sha256sum", trace], capture_output=True, text=True).stdout
    assert (
        hashed.lstrip("\\").split()[0] in main
        and "trace&lt;b&gt;" in main
        and "<b>.csv" not in main
    )


def test_what_does_not_fit_is_refused_before_any_work(
    recording: Path, profile: Profile, tmp_path: Path
) -> None:
    """Both or neither to score on, another ladder's recording, a page that is no page."""
    path = tmp_path / "profile.json"
    profile.save(path)
    for arguments, why in (
        ([], "either --test or --flight"),
        (["--test", "a.csv", "--flight", recording], "either --test or --flight"),
        (["--test", tmp_path / "a.csv"], "needs --train"),
        (["--memory", "--flight", recording], "neither --flight nor --report"),
        (["--flight", tmp_path / "none"], "no flight-….rec"),
        (["--flight", recording, "--report", tmp_path / "page.pdf"], "ends in .html"),
    ):
        done = run("compare", "--profile", path, *arguments)
        assert done.exit_code == 1 or done.exception is not None
        assert why in str(done.exception) + done.output, why
    other = Profile(
        ladder="other", variants=profile.variants[:2], stall_ms=((0.0, 1.0), (1.0, 0.0))
    )
    other.save(path)
    done = run("compare", "--profile", path, "--flight", recording)
    assert "recorded with the variants v0, v1, v2" in str(done.exception) + done.output
