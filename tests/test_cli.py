"""The commands that the README prints, run as a user runs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
    return tmp_path


def test_the_readme_runs(folder: Path) -> None:
    """Each `adaphi` line of the README's first block ends with exit code 0, in order."""
    block = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    lines = [line.partition("#")[0].split() for line in block.splitlines()]
    commands = [line[1:] for line in lines if line and line[0] == "adaphi"]
    assert len(commands) == 5
    for command in commands:
        if command[0] == "profile":
            command += ["--rounds", "1"]
        run(*command, cwd=folder)


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
