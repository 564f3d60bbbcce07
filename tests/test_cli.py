"""The command line as a user meets it: help, JSON, pictures, failures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "adaphi", *arguments], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "examples" / "profile.json", tmp_path / "profile.json")
    (tmp_path / "one.csv").write_text("time_s,budget_ms\n0.0,30.0\n")
    return tmp_path


def test_simulate_prints_json_and_a_picture(folder: Path) -> None:
    """`--json` is JSON with the promised keys; `--picture` draws a PNG."""
    given = ["--profile", "profile.json", "--trace", "examples/trace.csv", "--policy", "greedy"]
    out = run("simulate", *given, "--json", "--picture", "r.png", cwd=folder)
    keys = {"policy", "trace", "steps", "mean_score", "on_time_share", "switch_share"}
    assert keys | {"mean_quality"} == set(json.loads(out))
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG")


def test_failures_are_one_line(folder: Path) -> None:
    """Exit code 1 comes with one line on stderr, exit code 2 with the usage."""
    given = ["--profile", "profile.json", "--policy", "nosuch.npz", "--trace", "examples/trace.csv"]
    assert run("simulate", *given, cwd=folder, code=1).count("\n") == 1
    assert "Usage" in run("simulate", "--nosuch", cwd=folder, code=2)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("profile --rounds 1 -o gone/p.json", "cannot write gone/p.json: there is no folder gone"),
        ("record --seconds 1 -o examples", "cannot write examples: it is a folder"),
        ("keys -o profile.json", "profile.json/clients: Not a directory"),
        ("push profile.json --address ipc://none", "nothing listens there"),
        ("status --url 127.0.0.1:8757", "is no URL"),
        ("status --url http://[::1", "not as a daemon does"),
        ("status --url http://127.0.0.1:9", "no daemon answered at http://127.0.0.1:9: Connection"),
        ("solve --profile profile.json --trace one.csv -o p.npz", "at least two rows, found 1"),
        ("compare --profile profile.json --train one.csv --test one.csv", "two rows, found 1"),
        ("trace import one.csv --as milliseconds -o t.csv", "at least two rows, found 1"),
        ("trace split one.csv a.csv b.csv", "at least two rows, found 0"),
        ("trace generate regime -o /dev/full", "No space left on device"),
        ("solve --profile profile.json -o /dev/full", "No space left on device"),
        (
            "simulate --profile profile.json --policy greedy --trace examples/trace.csv --decisions "
            "/dev/full",
            "No space left on device",
        ),
        ("profile --backend fast", "use torch, onnx, openvino, cuda, own or auto"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(folder: Path, command: str, says: str) -> None:
    """In one line that names the file or the address, and nothing is measured in vain."""
    err = run(*command.split(), cwd=folder, code=1)
    assert says in err and err.count("\n") == 1


def commands() -> list[list[str]]:
    """Return the path of every command, sub-commands included."""
    import typer.main

    from adaphi.cli.app import app

    def below(command: Any) -> list[list[str]]:
        inner = getattr(command, "commands", {})
        return [[name, *rest] for name, sub in inner.items() for rest in below(sub)] or [[]]

    return below(typer.main.get_command(app))


@pytest.mark.parametrize("said", ['{"ok": true}', "[]", "null", "hello"])
def test_what_answers_and_is_no_daemon_is_told(said: str, folder: Path) -> None:
    """`adaphi status` at a port where something else is at home."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        err = run("status", "--url", url, cwd=folder, code=1)
        server.shutdown()
    assert "not as a daemon does" in err and err.count("\n") == 1


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(path: list[str]) -> None:
    """`--help` shows an example that begins with the command itself."""
    from typer.testing import CliRunner

    from adaphi.cli.app import app

    done = CliRunner().invoke(app, [*path, "--help"], terminal_width=200)
    assert done.exit_code == 0
    assert "Example" in done.output and f"adaphi {' '.join(path)} " in done.output + " "


def test_asking_where_no_daemon_is_says_so(folder: Path) -> None:
    """Exit code 1, one line, and what to do."""
    err = run("infer", "cat.jpg", "--address", f"ipc://{folder}/none", cwd=folder, code=1)
    assert err.count("\n") == 1 and "cat.jpg" in err
    from PIL import Image

    Image.new("RGB", (9, 9)).save(folder / "cat.jpg")
    given = ["--deadline-ms", "50", "--address", f"ipc://{folder}/none"]
    err = run("infer", "cat.jpg", *given, cwd=folder, code=1)
    assert err.count("\n") == 1 and "adaphi serve" in err


def test_compare_memory_sets_the_plan_beside_the_rules(folder: Path) -> None:
    """Traces with memory_bytes give the plan first, the bound last; without the column, one line says so."""
    rows = [f"{t},{30 + 10 * (t % 3)},{70e6 + 60e6 * (t // 9 % 2)}" for t in range(60)]
    (folder / "t.csv").write_text("time_s,budget_ms,memory_bytes\n" + "\n".join(rows) + "\n")
    command = ["compare", "--profile", "profile.json", "--memory", "--train"]
    outcomes = json.loads(run(*command, "t.csv", "--test", "t.csv", "--json", cwd=folder))
    assert (outcomes[0]["planner"], outcomes[-1]["planner"]) == ("resident", "clairvoyant")
    assert all(o["mean_score"] <= outcomes[-1]["mean_score"] + 1e-12 for o in outcomes)
    assert "clairvoyant" in run(*command, "t.csv", "--test", "t.csv", cwd=folder)
    plain = run(*command, "examples/trace.csv", "--test", "t.csv", cwd=folder, code=1)
    assert "no column memory_bytes" in plain and len(plain.splitlines()) == 1


def test_a_battery_is_planned_and_simulated(folder: Path) -> None:
    """`solve --battery-wh` writes a plan, `simulate --battery-wh` plays it beside the clairvoyant."""
    profile = json.loads((folder / "profile.json").read_text())
    for variant in profile["variants"]:
        variant["energy_mj"] = 1000.0 * (variant["phi"] + 1)
    (folder / "powered.json").write_text(json.dumps(profile))
    rows = "".join(f"{t},50,{0.5 + (t % 60 < 5)}\n" for t in range(1201))
    (folder / "day.csv").write_text("time_s,budget_ms,drain_w\n" + rows)
    solve = ["solve", "--profile", "powered.json", "--trace", "day.csv", "--battery-wh", "0.8"]
    said = run(*solve, "--until", "20m", "--period-ms", "1000", cwd=folder)
    assert "0.8 Wh for 0.3333 h: 3 prices of energy, 1 to 3 J an answer" in said
    play = ["simulate", "--profile", "powered.json", "--trace", "day.csv", "--battery-wh", "0.8"]
    plan, bound = json.loads(run(*play, "--policy", "policy.npz", "--json", cwd=folder))
    greedy, _ = json.loads(run(*play, "--policy", "greedy", "--json", cwd=folder))
    assert plan["lasts"] and bound["lasts"] and not greedy["lasts"]
    assert greedy["mean_score"] < plan["mean_score"] <= bound["mean_score"] + 1e-9
    assert "(empty)" in run(*play, "--policy", "greedy", cwd=folder)
    assert "duration like 8h" in run(*solve, "--until", "soon", cwd=folder, code=1)


def test_requests_are_simulated_side_by_side(folder: Path) -> None:
    """A row for each policy, the same JSON from the same seed; recorded counts, a slow-down, a bad rate."""
    (folder / "counts.csv").write_text("time_s,count\n0,30\n1,10\n2,60\n")
    (folder / "slow.csv").write_text("time_s,budget_ms\n0,1\n1.5,2\n")
    given = ["requests", "--profile", "profile.json", "--policy", "greedy", "--deadline-ms", "80"]
    drawn = [*given, "--policy", "static:0", "--arrivals", "poisson:40", "--number", "2000"]
    first, again = (run(*drawn, "--json", cwd=folder) for _ in range(2))
    assert first == again
    assert [row["policy"] for row in json.loads(first)] == ["greedy", "static:0"]
    out = run(*given, "--arrivals", "counts.csv", "--slowdown", "slow.csv", cwd=folder)
    assert "counts: 100 requests" in out and "greedy" in out
    assert "not a number" in run(*given, "--arrivals", "poisson:many", cwd=folder, code=1)


def test_a_queue_is_planned_and_simulated(folder: Path) -> None:
    """`solve --arrivals` writes a plan that `requests` plays beside the rules, batches and all."""
    solve = ["solve", "--profile", "profile.json", "--deadline-ms", "90", "-o", "queue.npz"]
    said = run(*solve, "--arrivals", "20", cwd=folder)
    assert "10 slow-downs × " in said and "from 10 to 40 requests a second" in said
    play = ["requests", "--profile", "profile.json", "--arrivals", "poisson:20", "--number", "3000"]
    play += ["--deadline-ms", "90", "--max-batch", "8", "--batch-growth", "0.5", "--json"]
    names = ["--policy", "queue.npz", "--policy", "ramsis:90,0.5", "--policy", "static:2"]
    queue, ramsis, largest = json.loads(run(*play, *names, cwd=folder))
    assert [queue["policy"], ramsis["policy"]] == ["queue", "ramsis:90,0.5"]
    assert queue["on_time_share"] > largest["on_time_share"]
    for wrong, said in (
        (["--arrivals", "20", "--trace", "t.csv"], "neither --trace"),
        (["--arrivals", "-3"], "numbers above 0"),
    ):
        assert said in run(*solve, *wrong, cwd=folder, code=1)
    assert "plans a queue" in run("explain", "queue.npz", cwd=folder, code=1)
