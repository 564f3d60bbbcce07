"""Sweeps and fleets: the figures of each cell, wherever and however often it is begun; what is refused."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import AdaphiError, InputError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import Objective, TablePolicy
from adaphi.policies.chain import fit_chain
from adaphi.sim import Trace, clairvoyant, replay
from adaphi.sim.cells import replayed
from adaphi.sim.journal import Journal
from adaphi.sim.planning import plan
from adaphi.sim.requests import World, serve
from adaphi.sim.sweep import run
from adaphi.sim.sweep_file import SweepFile
from adaphi.sim.workload import Workload

EXAMPLES = Path(__file__).parents[1] / "examples"
POLICIES = ["static:0", "greedy", "hysteresis", "table", "refreshed", "random", "clairvoyant"]

FLEET = """
profiles = ["profile.json"]
policies = ["static:0", "greedy", "table", "clairvoyant"]
[fleet]
files = ["trace.csv"]
devices = {devices}
hours = {hours}
scales = [0.5, 1.0]
"""
TRACES = f"""
profiles = ["profile.json"]
policies = {json.dumps(POLICIES)}
seeds = [3, 4]
[grid]
miss_cost = [0.25, 1.0]
switch_cost = [0.02]
[traces]
files = ["t*.csv"]
scales = [0.5, 0.75]
"""
REQUESTS = """
profiles = ["profile.json"]
policies = ["greedy", "table", "random"]
seeds = [1, 2]
[requests]
arrivals = ["poisson:30", "counts.csv"]
deadline_ms = [60, 120]
number = 500
slowdown = "slow.csv"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a profile, a trace of a few rows that moves, counts and a slow-down."""
    shutil.copy(EXAMPLES / "profile.json", tmp_path)
    lines = (EXAMPLES / "trace.csv").read_text().splitlines(keepends=True)
    (tmp_path / "trace.csv").write_text("".join([lines[0], *lines[240:440]]))
    (tmp_path / "counts.csv").write_text("time_s,count\n0,30\n1,10\n2,60\n")
    (tmp_path / "slow.csv").write_text("time_s,budget_ms\n0,1\n1.5,2\n")
    return tmp_path


def sweep(folder: Path, text: str, *options: str, name: str = "out") -> str:
    """Run a sweep in this process; return what it prints."""
    (folder / "s.toml").write_text(text)
    given = ["sweep", str(folder / "s.toml"), "-o", str(folder / name), "--jobs", "1", *options]
    done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def command(folder: Path, text: str, *options: str) -> list[str]:
    """Return the command of a sweep in a process of its own."""
    (folder / "s.toml").write_text(text)
    return [sys.executable, "-m", "adaphi", "sweep", str(folder / "s.toml"), *options]


def rows(folder: Path, name: str = "out") -> list[dict[str, str]]:
    with (folder / name / "results.csv").open() as file:
        return list(csv.DictReader(file))


def figures(row: dict[str, str], outcome: Any) -> None:
    """Check a row against the summary of what it stands for."""
    for name, value in outcome.summary().items():
        if name not in ("policy", "trace", "workload"):
            assert float(row[name]) == value, (row, name)


def test_a_cell_is_the_replay_of_its_labels(folder: Path) -> None:
    """Every row is what `replay` says of the second half, its tables solved on the first, bit for bit."""
    sweep(folder, TRACES)
    profile, whole = Profile.load(folder / "profile.json"), Trace.read(folder / "trace.csv")
    found = rows(folder)
    assert len(found) == 2 * 2 * 2 * len(POLICIES)
    for row in found:
        scaled = Trace(whole.time_s, whole.budget_ms * float(row["scale"]), name="t")
        learned, rest = scaled.split(0.5)
        objective = Objective(float(row["miss_cost"]), float(row["switch_cost"]))
        if row["policy"] == "clairvoyant":
            figures(row, clairvoyant(rest, profile, objective=objective))
            continue
        policy: Any = row["policy"]
        if policy in ("table", "refreshed"):
            policy = TablePolicy.solve(profile, [learned.budget_ms], objective=objective)
        elif policy == "random":
            policy = f"random:{row['seed']}"
        adapt = row["policy"] == "refreshed"
        figures(row, replay(rest, profile, policy, objective=objective, adapt=adapt))


def test_a_cell_of_requests_is_what_serve_says(folder: Path) -> None:
    """Rates and counts, two deadlines, two seeds: the figures of `serve` on the same draw."""
    sweep(folder, REQUESTS)
    profile = Profile.load(folder / "profile.json")
    world = World(slowdown=Trace.read(folder / "slow.csv"))
    found = rows(folder)
    assert len(found) == 2 * 2 * 2 * 3
    for row in found:
        seed, deadline_ms = int(row["seed"]), float(row["deadline_ms"])
        if row["arrivals"] == "counts.csv":
            workload = Workload.read_counts(folder / "counts.csv", deadline_ms, seed=seed)
        else:
            workload = Workload.poisson(30, 500, deadline_ms, seed=seed)
        named = {"table": None, "random": f"random:{seed}"}
        policy = named.get(row["policy"], row["policy"])
        figures(row, serve(workload, profile, policy, world=world, seed=seed))


def test_a_fleets_days_move_as_their_chain_does(folder: Path, profile: Profile) -> None:
    """The share of steps with enough for φ = 0 is that of the chain's stationary law, within 4 deviations."""
    text = FLEET.format(devices=60, hours=1).replace("[0.5, 1.0]", "[0.5]")
    sweep(folder, text)
    needs = Profile.load(folder / "profile.json").costs()
    rest = Trace.read(folder / "trace.csv").split(0.5)[1].budget_ms * 0.5
    chain = fit_chain([rest], needs.thresholds_ms)
    moves = np.linalg.matrix_power(chain.transition, 1 << 20)[0]
    truth = moves[int(chain.bins(needs.latency_ms[:1])[0]) :].sum()
    shares = [float(r["on_time_share"]) for r in rows(folder) if r["policy"] == "static:0"]
    assert len(shares) == 60 and len(set(shares)) > 50
    assert abs(np.mean(shares) - truth) < 4 * np.std(shares) / np.sqrt(len(shares))


def test_a_fleet_is_dealt_out_and_bounded(folder: Path) -> None:
    """Device d has scale d modulo two; the clairvoyant bounds every policy on every device; percentiles."""
    said = json.loads(sweep(folder, FLEET.format(devices=9, hours=0.2), "--json", "--parquet"))
    found = rows(folder)
    assert {(int(r["device"]), float(r["scale"])) for r in found} == {
        (d, (0.5, 1.0)[d % 2]) for d in range(9)
    }
    best = {r["device"]: float(r["mean_score"]) for r in found if r["policy"] == "clairvoyant"}
    assert all(float(r["mean_score"]) <= best[r["device"]] + 1e-12 for r in found)
    assert said["cells"] == 36 and [g["policy"] for g in said["summary"]] == [
        "static:0", "greedy", "table", "clairvoyant",
    ]  # fmt: skip
    for group in said["summary"]:
        shares = [float(r["on_time_share"]) for r in found if r["policy"] == group["policy"]]
        spread = group["figures"]["on_time_share"]
        assert spread["p5"] == np.percentile(shares, 5) and spread["mean"] == np.mean(shares)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(folder / "out" / "results.parquet").to_pylist()
    assert [{k: str(v) for k, v in row.items()} for row in table] == found


def test_ladders_meet_the_same_days(folder: Path) -> None:
    """A fleet with two profiles plays the same budgets on both: a ladder twice itself changes no figure."""
    shutil.copy(folder / "profile.json", folder / "same.json")
    other = Profile.load(folder / "profile.json")
    slower = tuple(
        VariantProfile(v.phi, v.name, v.quality, Latency(p95=(v.latency_ms.p95 or 0) * 1.3))
        for v in other.variants
    )
    Profile(ladder="slower", variants=slower, stall_ms=other.stall_ms).save(folder / "slower.json")
    text = FLEET.format(devices=6, hours=0.5)
    sweep(folder, text.replace('"profile.json"', '"profile.json", "slower.json"'), name="two")
    found = rows(folder, "two")
    own = [r for r in found if r["profile"] == "profile.json"]
    rest = [r for r in found if r["profile"] == "slower.json"]
    pairs = [(a, b) for a, b in zip(own, rest, strict=True) if a["policy"] == "static:0"]
    assert len(pairs) == 6
    assert all(float(a["on_time_share"]) >= float(b["on_time_share"]) for a, b in pairs)


@pytest.mark.parametrize("options", [["--jobs", "2"], ["--ray", "local", "--jobs", "2"]])
def test_where_it_runs_changes_no_byte(folder: Path, options: list[str]) -> None:
    """One process, two, a Ray of two workers: the same bytes of JSON and CSV."""
    if "--ray" in options:
        pytest.importorskip("ray")
    text = TRACES.replace("[0.5, 0.75]", "[0.5]").replace("[0.25, 1.0]", "[1.0]")
    alone = sweep(folder, text, "--json")
    done = subprocess.run(
        command(folder, text, "-o", str(folder / "other"), "--json", *options),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone
    one, other = ((folder / n / "results.csv").read_bytes() for n in ("out", "other"))
    assert one == other


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_dies_goes_on_where_it_stood(folder: Path, how: signal.Signals) -> None:
    """Killed half-way: no process stays; what was done is not done again; the results are the same."""
    text = FLEET.format(devices=400, hours=1)
    jobs = "2" if how is signal.SIGKILL else "1"
    given = command(folder, text, "-o", str(folder / "out"), "--jobs", jobs)
    journal = folder / "out" / "cells.jsonl"
    with subprocess.Popen(given, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 40):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        process.send_signal(how)
        stderr = process.stderr.read() if process.stderr else b""
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    assert (b"the same command goes on" in stderr) == (how is signal.SIGINT)
    while group_lives(process.pid):
        time.sleep(0.02)
    done = journal.read_bytes()
    kept = done[: done.rfind(b"\n") + 1]
    assert 40 <= kept.count(b"\n") < 1600
    out = sweep(folder, text)
    assert f"1600 cells, {kept.count(bytes([10]))} of them known" in out
    assert journal.read_bytes().startswith(kept)
    sweep(folder, text, name="fresh")
    one, fresh = ((folder / n / "results.csv").read_bytes() for n in ("out", "fresh"))
    assert one == fresh


def group_lives(group: int) -> bool:
    """Say whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_line_cut_short_is_dropped(folder: Path) -> None:
    """Wherever a kill cuts the file, every whole line before is kept, and the next is written after it."""
    sweep(folder, FLEET.format(devices=2, hours=0.1))
    whole = (folder / "out" / "cells.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole) - len(lines[-1]) - 3, len(whole) + 1):
        path = folder / "cut.jsonl"
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            assert len(journal.cells) == whole[:cut].count(b"\n")
            journal.add([("key", {"steps": 1})])
        assert path.read_bytes() == whole[: whole[:cut].rfind(b"\n") + 1] + (
            b'{"cell": "key", "steps": 1}\n'
        )
    path.write_bytes(b"what is this\n" + whole)
    with pytest.raises(InputError, match=r"cut.jsonl:1: not a cell"):
        Journal(path)


def test_what_a_changed_sweep_shares_is_kept_and_nothing_is_mixed(folder: Path) -> None:
    """Another price, policy or trace plays new cells alone; the results are those of a fresh folder."""
    text = TRACES.replace('"refreshed", ', "")
    sweep(folder, text)
    changed = text.replace("[0.25, 1.0]", "[0.25, 0.5]").replace('"greedy"', '"greedy", "alert"')
    out = sweep(folder, changed)
    cells = 2 * 2 * 2 * 7
    assert f"{cells} cells, {2 * 2 * 6} of them known" in out
    sweep(folder, changed, name="fresh")
    assert rows(folder) == rows(folder, "fresh")
    trace = (folder / "trace.csv").read_text().splitlines()
    (folder / "trace.csv").write_text("\n".join([*trace[:-1], "60,20,1,1"]) + "\n")
    assert f"{cells} cells, 0 of them known" in sweep(folder, changed)


def test_two_sweeps_do_not_write_to_one_folder(folder: Path) -> None:
    """The second is refused while the first has the journal open."""
    (folder / "out").mkdir()
    with (
        Journal(folder / "out" / "cells.jsonl"),
        pytest.raises(InputError, match="another sweep writes here"),
    ):
        sweep(folder, TRACES)


def test_a_worker_that_dies_is_an_error_and_costs_no_cell(folder: Path) -> None:
    """Out of memory, the kernel kills a worker: one line says so, and the sweep goes on afterwards."""
    given = command(folder, FLEET.format(devices=400, hours=1), "-o", str(folder / "out"))
    journal = folder / "out" / "cells.jsonl"
    with subprocess.Popen([*given, "--jobs", "2"], stderr=subprocess.PIPE) as process:
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 40):
            assert process.poll() is None
            time.sleep(0.01)
        import psutil

        children = psutil.Process(process.pid).children()
        workers = [c for c in children if "LokyProcess-1" in " ".join(c.cmdline())]
        workers[0].kill()
        stderr = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == 1
    assert stderr.count("\n") == 1 and "a worker process died" in stderr
    assert journal.read_bytes().endswith(b"\n") and journal.read_bytes().count(b"\n") >= 40


def test_a_cluster_that_is_not_there_is_told_at_once(folder: Path) -> None:
    """Where nothing listens, Ray would go on asking for minutes."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(AdaphiError, match=f"no Ray cluster at '{address}'"):
            sweep(folder, TRACES, "--ray", address)


BAD = {
    "a key that is none": ("seeds = [0]\nspeed = 3\n", "unknown field `speed`"),
    "a section's key": ("[traces]\nfile = 'x'\n", "unknown field `file` - at `$.traces`"),
    "nothing to play": ("", "nothing to play"),
    "no policy": ("policies = []\n[traces]\nfiles = ['trace.csv']\n", "`$.policies`"),
    "no trace": ("[traces]\nfiles = []\n", "`$.traces.files`"),
    "no seed": ("seeds = []\n[traces]\nfiles = ['trace.csv']\n", "`$.seeds`"),
    "no device": ("[fleet]\nfiles = ['trace.csv']\ndevices = 0\n", "`$.fleet.devices`"),
    "two sections": (
        "[traces]\nfiles = ['trace.csv']\n[fleet]\nfiles = ['trace.csv']\ndevices = 3\n",
        "traces and fleet to play",
    ),
    "no match": ("[traces]\nfiles = ['x*.csv']\n", "no file matches 'x*.csv'"),
    "a trace twice": ("[traces]\nfiles = ['trace.csv', 't*.csv']\n", "'trace.csv' is there twice"),
    "no such trace": ("[traces]\nfiles = ['x.csv']\n", "x.csv: No such file"),
    "a trace without rows": ("[traces]\nfiles = ['empty.csv']\n", "a header and no rows"),
    "a trace too short": ("[traces]\nfiles = ['short.csv']\n", "short.csv: 3 rows are too few"),
    "a fleet of it": ("[fleet]\nfiles = ['short.csv']\ndevices = 2\n", "rows are too few"),
    "an unknown policy": (
        "policies = ['best']\n[traces]\nfiles = ['trace.csv']\n",
        "no policy is called 'best'",
    ),
    "a variant that is none": (
        "policies = ['static:7']\n[traces]\nfiles = ['trace.csv']\n",
        "static:7: the ladder has",
    ),
    "another ladder's policy": (
        "policies = ['other.npz']\n[traces]\nfiles = ['trace.csv']\n",
        "other.npz on profile.json: the policy is for ladder 'three'",
    ),
    "a latency that is none": (
        "[grid]\nlatency = ['p42']\n[traces]\nfiles = ['trace.csv']\n",
        "latency 'p42' is not one of",
    ),
    "a price that is none": (
        "[grid]\nmiss_cost = [inf]\n[traces]\nfiles = ['trace.csv']\n",
        "miss_cost is inf",
    ),
    "a day without an end": (
        "[fleet]\nfiles = ['trace.csv']\ndevices = 2\nhours = inf\n",
        "`$.fleet.hours`",
    ),
    "a scale that is no number": (
        "[traces]\nfiles = ['trace.csv']\nscales = [nan]\n",
        "`$.traces.scales[0]`",
    ),
    "a deadline that is no number": (
        "[requests]\narrivals = ['poisson:3']\ndeadline_ms = [nan]\n",
        "deadline",
    ),
    "seeds for nothing": (
        "seeds = [1, 2]\n[traces]\nfiles = ['trace.csv']\n",
        "draws nothing",
    ),
    "a bound for requests": (
        "policies = ['clairvoyant']\n[requests]\narrivals = ['poisson:3']\ndeadline_ms = [9]\n",
        "clairvoyant is a bound for traces",
    ),
    "a rate that is none": (
        "[requests]\narrivals = ['poisson:-3']\ndeadline_ms = [9]\n",
        "expected a number above 0",
    ),
    "counts that are none": (
        "[requests]\narrivals = ['trace.csv']\ndeadline_ms = [9]\n",
        "expected time_s,count",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_played_is_refused_before_any_work(
    folder: Path, profile: Profile, what: str
) -> None:
    """The error names the place; no folder of results comes to be."""
    (folder / "empty.csv").write_text("time_s,budget_ms\n")
    (folder / "short.csv").write_text("time_s,budget_ms\n0,1\n1,2\n2,3\n")
    text, said = BAD[what]
    if "other.npz" in text:
        TablePolicy.solve(profile).save(folder / "other.npz")
    first = "" if "policies" in text else "policies = ['greedy']\n"
    with pytest.raises(AdaphiError) as error:
        sweep(folder, f"profiles = ['profile.json']\n{first}{text}")
    assert said in error.value.message
    assert not (folder / "out").exists()


def test_what_is_written_about_the_file_is_so() -> None:
    """The examples can be planned, and every block of docs/scale.md has keys that there are."""
    assert len(plan(EXAMPLES / "sweep.toml")) == 3 * 2 * 3 * 7
    assert len(plan(EXAMPLES / "fleet.toml")) == 100 * 4
    text = (EXAMPLES.parent / "docs" / "scale.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    whole = [block for block in blocks if "policies" in block]
    assert len(whole) == 2 and len(blocks) == 3
    for sections in blocks:
        for section in re.split(r"\n(?=\[)", sections):
            head = "" if "policies" in section else "profiles = ['a']\npolicies = ['b']\n"
            msgspec.convert(tomllib.loads(head + section), SweepFile)


def test_the_order_of_policies_changes_no_figure(folder: Path) -> None:
    """A cell depends on nothing but itself: played last or first, alone or beside others."""
    (folder / "s.toml").write_text(TRACES)
    planned = plan(folder / "s.toml")
    case = next(iter(planned.cases()))
    trace, seed = case.world.trace, case.luck[-1]  # type: ignore[attr-defined]
    forward = replayed(trace, case.setting, planned.candidates, seed)
    backward = replayed(trace, case.setting, planned.candidates[::-1], seed)
    assert forward == backward[::-1]
    with Journal(folder / "j.jsonl") as journal:
        run(planned, journal, jobs=1, tell=lambda done, total, what: None)
        assert [journal.cells[case.cell(c)] for c in planned.candidates] == forward
        assert len(journal.cells) == len(planned)


def test_a_compiled_day_is_the_readable_one() -> None:
    """`Chain.sample` draws the same budgets by both loops, bit for bit."""
    profile = Profile.load(EXAMPLES / "profile.json")
    budgets = Trace.read(EXAMPLES / "trace.csv").budget_ms
    chain = fit_chain([budgets], profile.costs().thresholds_ms)
    for seed in (0, [1, 2]):
        compiled, readable = (chain.sample(3000, seed, compiled=c) for c in (True, False))
        assert (compiled == readable).all()
