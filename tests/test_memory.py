"""A real daemon with real models on a device whose memory runs short, and whose sensors vanish."""

from __future__ import annotations

import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from adaphi import Client
from adaphi.model_zoo.images import example_image

pytestmark = pytest.mark.alone

MIB = 1 << 20


def becomes(served: Any, key: str, value: object) -> bool:
    """Say whether the daemon's state comes to have `value` within ten seconds."""
    until_s = time.monotonic() + 10
    while served.state()[key] != value:
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True


def answers_with(client: Client) -> int:
    answer = client.infer(example_image(), deadline_ms=5000)
    assert not answer.late
    return answer.phi


def test_a_daemon_gives_way_before_the_kernel_has_to_kill(
    device_tree: Path, run_daemon: Callable[..., Any]
) -> None:
    """Without any request the larger variants leave the worker's memory as its group's room ends, and φ = 0
    answers on; with room they return behind the requests. A sensor that vanishes leaves φ = 0, and shows."""
    used = device_tree / "sys/fs/cgroup/box/memory.current"
    with run_daemon() as served, Client(served.address) as client:
        client.wait_until_ready(60)
        assert becomes(served, "resident", [0, 1, 2]) and answers_with(client) == 2
        worker = psutil.Process(served.state()["worker_pid"])
        before = worker.memory_info().rss
        used.write_text(f"{1990 * MIB}\n")
        assert becomes(served, "resident", [0]) and answers_with(client) == 0
        until_s = (
            time.monotonic() + 10
        )  # the first time they go they are written to a file, behind the runs
        while worker.memory_info().rss > before - 20 * MIB and time.monotonic() < until_s:
            time.sleep(0.05)
        assert worker.memory_info().rss < before - 20 * MIB
        used.write_text(f"{1000 * MIB}\n")
        while served.state()["resident"] != [0, 1, 2]:
            answers_with(client)
        assert becomes(served, "max_phi", 2) and answers_with(client) == 2
        assert worker.is_running()

        device_tree.rename(device_tree.with_name("gone"))
        assert becomes(served, "max_phi", 0) and answers_with(client) == 0
        with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics") as page:
            assert 'adaphi_sensor_up{sensor="memory"} 0.0' in page.read().decode()
        shutil.move(device_tree.with_name("gone"), device_tree)
        assert becomes(served, "max_phi", 2) and answers_with(client) == 2
