"""The long trials of benchmarks/ in their short form: a real daemon, ill-treated while it serves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.alone

Bench = Callable[[str], Any]


def test_two_rounds_of_every_fault_leave_nothing_unanswered_and_nothing_behind(
    bench: Bench,
) -> None:
    """No request without its answer or error by its deadline + 1 s, none twice, none wrong; no leak."""
    faults = bench("faults")
    rows = {row.what: row.figure for row in faults.run(quick=True)}
    assert rows["rounds"] == 2 * len(faults.FAULTS) and rows["requests: ok"] > 300


def test_a_worker_that_hangs_dies_with_its_daemon(bench: Bench, tmp_path: Path) -> None:
    """Also where it cannot notice that the daemon was killed."""
    with bench("device").Device(tmp_path) as device:
        os.kill(device.worker_pid(), signal.SIGSTOP)
        device.kill()
        until_s = time.monotonic() + 5
        while device.processes() and time.monotonic() < until_s:
            time.sleep(0.02)
        left = device.processes()
        for process in left:
            process.kill()
        assert not left


@pytest.mark.parametrize("interface", ["zmq", "http"])
def test_malformed_messages_are_each_answered_once(bench: Bench, interface: str) -> None:
    """Nearly sound and random ones, and broken framing: refused in words, and the service goes on."""
    seen, _, memory = bench("storm").storm(interface, 2000, seed=1)
    refused = {"zmq": "protocol", "http": "400"}[interface]
    assert seen[refused] > 500 and max(memory) - min(memory) < 50e6


def test_memory_does_not_grow_with_requests(bench: Bench) -> None:
    """After some hundred requests neither daemon nor worker takes a kilobyte more for each."""
    growth = bench("growth")
    for who, line in growth.measure(growth.ask_zmq, 2000).items():
        assert line.grown_bytes < 2e6, who


def test_the_kernel_has_nothing_to_kill(bench: Bench) -> None:
    """In a real control group that fills up φ > 0 go before anybody is killed, φ = 0 answers on; with room
    the others return."""
    pressure = bench("pressure")
    try:
        seen = pressure.squeeze(senses=True)
    except pressure.Unavailable as error:
        pytest.skip(str(error))
    assert seen.kills == seen.restarts == 0
    assert seen.answers > 30 and len(seen.refusals) <= seen.answers // 20, seen.refusals
    first, under, last = seen.resident
    assert first == last == [0, 1, 2] and under == [0] and seen.given_bytes > 20e6
