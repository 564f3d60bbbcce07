"""Benchmarks run: each one in its quick form, with figures above 0 and a name that exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONG = ("faults", "storm", "growth", "pressure")  # test_faults.py runs their short forms


def test_every_benchmark_runs() -> None:
    """`python -m benchmarks --quick` prints a table for each module in benchmarks/."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    printed = set(re.findall(r"^(\w+): ", done.stdout, re.MULTILINE))
    helpers = {"__init__", "__main__", "harness", "large", "malformed", "peers", "problems"}
    helpers |= {"clients", "daemon", "echo", "mosec_peer", "servers"}
    helpers |= {"checked", "device", "load", "malformed_zmq", "zmtp", *LONG}
    helpers |= {"quickrules", "tiny", "worlds"}
    assert printed == {p.stem for p in (ROOT / "benchmarks").glob("*.py")} - helpers
