"""Whether a daemon and its worker grow with the requests that they answer: a line through their memory.

    python -m benchmarks growth --requests 100000

After a warm-up the resident sets are read at equal distances; a straight line through them tells the bytes
for each request, with a 95 % interval that takes the readings for independent.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from adaphi import AsyncClient

from . import checked
from .device import Device
from .harness import Row, show
from .load import infer_body

READINGS = 100
CONCURRENT = 8
PICTURE = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)


class Line(NamedTuple):
    """Bytes for each request, the half width of their 95 % interval, and the growth from end to end."""

    slope: float
    within: float
    grown_bytes: float


def fit(requests: np.ndarray, rss: np.ndarray) -> Line:
    """Return the line of least squares through resident sets `rss` (bytes) after so many requests."""
    (slope, _), covariance = np.polyfit(requests, rss, 1, cov=True)
    return Line(float(slope), 1.96 * float(np.sqrt(covariance[0, 0])), float(rss[-1] - rss[0]))


def ask_zmq(device: Device, count: int) -> None:
    """Ask `count` times over ZeroMQ, several at a time, and look at each answer."""

    async def one(client: AsyncClient) -> None:
        for _ in range(count // CONCURRENT):
            answer = await client.infer(PICTURE, deadline_ms=10_000)
            assert (answer.output == checked.proof(answer.phi, PICTURE)).all()

    async def several() -> None:
        async with AsyncClient(device.address) as client:
            await asyncio.gather(*(one(client) for _ in range(CONCURRENT)))

    asyncio.run(several())


def ask_http(device: Device, count: int) -> None:
    """Ask `count` times over one HTTP connection."""
    body, length = infer_body(PICTURE, 10.0)
    headers = {"Inference-Header-Content-Length": str(length)}
    connection = http.client.HTTPConnection("127.0.0.1", device.http_port, timeout=20)
    for _ in range(count):
        connection.request("POST", f"/v2/models/{checked.NAME}/infer", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    connection.close()


def measure(ask: Callable[[Device, int], None], count: int) -> dict[str, Line]:
    """Return the lines of the daemon and its worker over `count` requests, after a fifth as many."""
    with (
        tempfile.TemporaryDirectory(prefix="adaphi-growth-") as folder,
        Device(Path(folder), takes_ms=(0.1, 0.2, 0.3)) as device,
    ):
        pids = {"daemon": device.pid, "worker": device.worker_pid()}
        ask(device, count // 5)
        rss: dict[str, list[int]] = {who: [] for who in pids}
        for _ in range(READINGS):
            ask(device, count // READINGS)
            for who, pid in pids.items():
                rss[who].append(psutil.Process(pid).memory_info().rss)
        assert device.state()["worker_restarts"] == 0
    requests = np.arange(1, READINGS + 1) * (count // READINGS)
    return {who: fit(requests, np.array(taken, float)) for who, taken in rss.items()}


def run(count: int) -> list[Row]:
    """Return the lines over both interfaces."""
    rows = []
    for name, ask in (("ZeroMQ", ask_zmq), ("HTTP", ask_http)):
        for who, line in measure(ask, count).items():
            rows += [
                Row(f"{name}, {who}: slope", line.slope, "B/request", "less"),
                Row(f"{name}, {who}: give or take", line.within, "B/request", "less"),
                Row(f"{name}, {who}: from end to end", line.grown_bytes / 1e3, "kB", "less"),
            ]
    return rows


def main(arguments: list[str]) -> None:
    """Ask as often as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="over each interface")
    show("growth", run(parser.parse_args(arguments).requests))


if __name__ == "__main__":
    main(sys.argv[1:])
