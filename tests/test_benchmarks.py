"""Benchmarks run: each one in its quick form, with figures above 0 and a name that exists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import LONG, NAMES

ROOT = Path(__file__).parents[1]
HELPERS = {"__init__", "__main__", "harness", "large", "malformed", "peers", "problems"}
HELPERS |= {
    "clients",
    "daemon",
    "echo",
    "floor",
    "mosec_peer",
    "servers",
    "quickrules",
    "tiny",
    "worlds",
}
HELPERS |= {"checked", "device", "load", "malformed_zmq", "zmtp"}


def test_every_benchmark_has_a_name() -> None:
    """Each module in benchmarks/ is a benchmark, a trial (test_faults.py runs those), or helps one."""
    assert {*NAMES, *LONG} == {p.stem for p in (ROOT / "benchmarks").glob("*.py")} - HELPERS


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs(name: str, exports: Path) -> None:
    """`python -m benchmarks NAME --quick` prints its table."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--quick"],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(exports)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"\n{name}: " in done.stdout
