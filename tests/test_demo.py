"""The demonstration, as `make demo` runs it: to its end, and stopped by Ctrl-C at any moment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("skimage", reason="the photographs come with scikit-image (extra `demo`)")


@contextmanager
def demo(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the short demonstration; give it and the mark by which its processes are known."""
    mark = f"ADAPHI_TEST_MARK={uuid.uuid4()}"
    name, _, value = mark.partition("=")
    process = subprocess.Popen(
        [sys.executable, "-m", "adaphi", "demo", "--quick", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, name: value, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        yield process, mark
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Return the processes that carry the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            zombie = ") Z " in (folder / "stat").read_text()
        except OSError:
            continue
        if mark.encode() in environment and not zombie:
            found.append(int(folder.name))
    return found


@pytest.mark.alone
def test_the_demonstration_runs_to_its_end() -> None:
    """Exit code 0; a cat to all three variants; tight answered by φ0, wide by φ2, both on time."""
    with demo() as (process, mark):
        out, err = process.communicate(timeout=170)
        assert process.returncode == 0, out + err
        assert marked(mark) == []
    cats = re.findall(r"φ(\d) says (.*) \(", out)
    assert [phi for phi, _ in cats] == ["0", "1", "2"]
    assert all("cat" in name for _, name in cats)
    outcomes = dict(re.findall(r"(tight|wide) budget, .*: (φ\d) in", out))
    assert outcomes == {"tight": "φ0", "wide": "φ2"}
    assert re.search(r"on time +\d+\.\d% +\d+\.\d%", out), "predicted beside measured"
    assert re.search(r"recorded now, on this machine", out)


@pytest.mark.parametrize(
    ("line", "after_s"),
    [
        ("1. Profile", 0.1),
        ("1. Profile", 2.5),
        ("2. Record", 1.5),
        ("5. Start", 2.0),
        ("request 1:", 0.1),
    ],
)
def test_ctrl_c_ends_it_cleanly(line: str, after_s: float) -> None:
    """At any moment: no traceback, soon no process is left, and a shell sees exit code 130."""
    with demo("--seconds", "3") as (process, mark):
        assert process.stdout is not None and process.stderr is not None
        for text in process.stdout:
            if line in text:
                break
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)  # what a terminal sends to the group in front
        _, err = process.communicate(timeout=30)
        # Python ends by the signal itself where it came while code was being executed from a string;
        # a shell calls both 130.
        assert process.returncode in (130, -signal.SIGINT), err
        assert "Traceback" not in err, err
        until = time.monotonic() + 5
        while (left := marked(mark)) and time.monotonic() < until:
            time.sleep(0.05)
        assert left == []
