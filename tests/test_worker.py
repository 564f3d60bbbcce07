"""A worker that is told what it has not begun: what it begins then, and what of it outlives the worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from adaphi import Client
from adaphi.controller import worker
from adaphi.controller.arena import Arena
from adaphi.controller.channel import MOST_TOLD, FrontEnd
from adaphi.controller.protocol import decode
from adaphi.errors import Expired, WorkerLost

LADDER = """
import time
from pathlib import Path
from adaphi.model_zoo import OwnVariant

def run(image):
    with open({path!r}, "a") as begun:
        print(image[0, 0, 0], file=begun)
    time.sleep(0.3)
    return image[0, 0]

def ladder():
    return [OwnVariant(0, "slow", 0.5, load=lambda: run)]
"""


def test_what_is_withdrawn_or_too_late_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one runs, of those told behind it one is withdrawn and one's deadline passes; the others run. A
    run whose key falls on the same word as one that was withdrawn runs, too."""
    begun = tmp_path / "begun"
    (tmp_path / "slow_ladder.py").write_text(LADDER.format(path=str(begun)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    keys = (1, 2, 3, 4, 2 + MOST_TOLD)

    async def run() -> list[tuple[int, str]]:
        ends: list[tuple[int, str]] = []
        up = asyncio.Event()

        def on_message(kind: bytes, header: bytes, _: list[Any]) -> None:
            if kind == worker.UP:
                up.set()
            elif kind == worker.DONE:
                ends.append((decode(worker.Done, header).key, "done"))
            elif kind == worker.FAILED:
                failed = decode(worker.Failed, header)
                ends.append((failed.key, failed.code))

        front, arena = FrontEnd(on_message), Arena(1)
        inherited = front.theirs, arena.descriptor
        orders = worker.Orders(
            channel=inherited, ladder="python:slow_ladder:ladder", profile_rounds=1
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "adaphi.controller.worker",
            msgspec.json.encode(orders).decode(),
            pass_fds=inherited,
        )
        front.hand_over()
        async with asyncio.timeout(60):
            await up.wait()
            begun.write_text("")
            for key in keys:
                image = np.full((1, 1, 3), key, np.uint8)
                told = worker.Run(key, 0, 0, "uint8", image.shape, offset=arena.put(image))
                if key == 3:
                    told.begin_by_s = time.monotonic() + 0.15
                front.send(worker.RUN, told)
            await asyncio.sleep(0.1)
            arena.withdraw(2)
            while len(ends) < len(keys):
                await asyncio.sleep(0.01)
        front.close()
        assert await process.wait() == 0
        arena.close()
        return ends

    ends = asyncio.run(run())
    assert ends == [(1, "done"), (2, "expired"), (3, "expired"), (4, "done"), (keys[-1], "done")]
    assert begun.read_text().split() == ["1", "4", str(keys[-1])]


def test_who_was_only_told_outlives_the_worker(bench: Callable[[str], Any], tmp_path: Path) -> None:
    """A worker hangs in one run and is told another meanwhile: the first is lost, the other is answered by
    its successor."""
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (1, 2)]
    with bench("device").Device(tmp_path, (200.0, 300.0, 400.0)) as device:
        hangs = threading.Timer(0.04, os.kill, (device.worker_pid(), signal.SIGSTOP))
        ask = partial(ask_once, device.address)
        with ThreadPoolExecutor(2) as crowd:
            first = crowd.submit(ask, pictures[0])
            hangs.start()
            time.sleep(0.02)
            second = crowd.submit(ask, pictures[1])
            assert isinstance(first.exception(), WorkerLost)
            expected = bench("checked").proof(0, pictures[1])
            np.testing.assert_array_equal(second.result().output, expected)
        assert device.state()["worker_restarts"] == 1


def ask_once(
    address: str, picture: Any, *, deadline_ms: float = 20_000, reading_ms: float | None = None
) -> Any:
    """Ask once, for the smallest variant or with a reading to decide on."""
    phi = 0 if reading_ms is None else None
    with Client(address, retries=0) as client:
        return client.infer(picture, phi=phi, deadline_ms=deadline_ms, reading_ms=reading_ms)


def test_a_worker_that_stands_still_costs_no_more_than_time(
    bench: Callable[[str], Any], tmp_path: Path
) -> None:
    """Behind a run that hangs a request waits that is to be decided on alone: the front rests meanwhile. One
    whose deadline passes before its run could begin counts as a miss of the variant that was decided on."""
    picture = np.full((8, 8, 3), 1, np.uint8)
    with bench("device").Device(tmp_path, (20.0, 40.0, 60.0), hang_s=20.0) as device:
        ask = partial(ask_once, device.address, picture)
        worker_pid, front = device.worker_pid(), psutil.Process(device.pid)
        os.kill(worker_pid, signal.SIGSTOP)
        with ThreadPoolExecutor(2) as crowd:
            asked = [crowd.submit(ask), crowd.submit(ask, reading_ms=1000.0)]
            time.sleep(0.3)
            before = front.cpu_times()
            time.sleep(1.0)
            used = [a - b for a, b in zip(front.cpu_times()[:2], before[:2], strict=True)]
            os.kill(worker_pid, signal.SIGCONT)
            assert all(one.result().output.shape == (4,) for one in asked)
        assert sum(used) < 0.5  # it would be all of the second
        os.kill(worker_pid, signal.SIGSTOP)
        threading.Timer(0.4, os.kill, (worker_pid, signal.SIGCONT)).start()
        with pytest.raises(Expired):
            ask(deadline_ms=100)
        counted = 'outcome="expired",variant="checked0"} 1.0'
        assert counted in device.get("/metrics")
