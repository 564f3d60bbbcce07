"""Clients and a real daemon with a line between them that drops, doubles, delays, reorders and is cut."""

from __future__ import annotations

import asyncio
import heapq
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq

from adaphi import AsyncClient, Client
from adaphi.controller import protocol
from adaphi.errors import RequestError

TAKES_MS = (20.0, 30.0, 60.0)
PICTURES = [np.random.default_rng(k).integers(0, 255, (n, n, 3), np.uint8) for k, n in
            enumerate((8, 40, 200, 20, 64, 300))]  # fmt: skip


class Unreliable(threading.Thread):
    """Carries messages between clients and a daemon, each dropped, doubled or held back at random."""

    def __init__(self, daemon: str, seed: int) -> None:
        super().__init__()
        self._daemon, self._draw = daemon, random.Random(seed)
        self._context = zmq.Context.instance()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.linger = 0
        self.port = self._front.bind_to_random_port("tcp://127.0.0.1")
        self._backs: dict[bytes, Any] = {}
        self._later: list[Any] = []
        self._order = count()
        self.over = threading.Event()
        self.did: Counter[str] = Counter()

    def run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        while not self.over.is_set():
            for socket, _ in poller.poll(5):
                message = socket.recv_multipart()
                if socket is self._front:
                    client, *frames = message
                    if client not in self._backs:
                        back = self._context.socket(zmq.DEALER)
                        back.linger = 0
                        back.connect(self._daemon)
                        self._backs[client] = back
                        poller.register(back, zmq.POLLIN)
                    self._carry(self._backs[client], frames)
                else:
                    client = next(c for c, back in self._backs.items() if back is socket)
                    self._carry(self._front, [client, *message])
            while self._later and self._later[0][0] <= time.monotonic():
                _, _, socket, frames = heapq.heappop(self._later)
                socket.send_multipart(frames)
        for socket in (self._front, *self._backs.values()):
            socket.close()

    def _carry(self, socket: Any, frames: list[bytes]) -> None:
        what = self._draw.choices(["once", "twice", "late", "never"], [60, 15, 15, 10])[0]
        self.did[what] += 1
        if what in ("once", "twice"):
            socket.send_multipart(frames)
        if what in ("late", "twice"):
            when_s = time.monotonic() + self._draw.uniform(0, 0.15)
            heapq.heappush(self._later, (when_s, next(self._order), socket, frames))


class Cutting(threading.Thread):
    """Carries bytes from a port of its own to another, and cuts connections in the middle of anything."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__()
        self._to, self._draw = port, random.Random(seed)
        self.cuts = 0
        self.listening = threading.Event()

    def run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.listening.set()
        await self._over.wait()
        server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join()

    async def _connected(self, reader: Any, writer: Any) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            ends = writer, back
            try:
                await asyncio.gather(
                    self._pump(reader, back, ends), self._pump(there, writer, ends)
                )
            finally:
                for end in ends:
                    end.transport.abort()

    async def _pump(self, reader: Any, writer: Any, ends: Any) -> None:
        while data := await reader.read(16_384):
            if self._draw.random() < 0.02:
                self.cuts += 1
                writer.write(data[: len(data) // 2])
                break
            writer.write(data)
        for end in ends:
            end.close()


@contextmanager
def unreliable(daemon: str, seed: int) -> Iterator[tuple[Unreliable, Cutting, str]]:
    """Run both in a row; yield them and the address for clients."""
    losing = Unreliable(daemon, seed)
    cutting = Cutting(losing.port, seed)
    losing.start()
    cutting.start()
    cutting.listening.wait(10)
    try:
        yield losing, cutting, f"tcp://127.0.0.1:{cutting.port}"
    finally:
        cutting.stop()
        losing.over.set()
        losing.join()


def runs(device: Any) -> float:
    """Return how many requests a model answered, by the daemon's own count."""
    counted = r'adaphi_requests_total\{.*outcome="(?:ok|late)".*\} (\S+)'
    return sum(map(float, re.findall(counted, device.get("/metrics"))))


def check_lossy_line(device: Any, expected: list[Any]) -> None:
    """Every call has one right answer or one error by its deadline + 1 s, and no model ran one twice."""
    before, outcomes, deadline_s = runs(device), Counter[str](), 10.0

    async def ask(address: str) -> None:
        async def one(client: AsyncClient, k: int) -> None:
            began = time.monotonic()
            try:
                answer = await client.infer(PICTURES[k], deadline_ms=deadline_s * 1e3, phi=0)
                np.testing.assert_array_equal(answer.output, expected[k])
                outcomes["answered"] += 1
            except RequestError as error:
                outcomes[error.code] += 1
            assert time.monotonic() - began < deadline_s + 1

        async with AsyncClient(address) as one_client, AsyncClient(address) as other:
            for _ in range(8):
                calls = [one(c, k) for c in (one_client, other) for k in range(len(PICTURES))]
                await asyncio.gather(*calls)

    with unreliable(device.address, 7) as (losing, cutting, address):
        asyncio.run(ask(address))
        assert min(losing.did.values()) > 3 and len(losing.did) == 4 and cutting.cuts > 3
    total = sum(outcomes.values())
    assert total == 96 and outcomes["answered"] > total / 2, outcomes
    assert runs(device) - before <= total


def check_one_that_never_reads(device: Any) -> None:
    """Forty thousand replies for a client that takes none: the daemon does not keep them."""
    process = psutil.Process(device.pid)
    before = process.memory_info().rss
    mute: Any = zmq.Context.instance().socket(zmq.DEALER)
    mute.linger, mute.rcvhwm = 0, 1
    mute.connect(device.address)
    hello = protocol.encode(protocol.HELLO, protocol.HelloHeader(1))
    try:
        for _ in range(40_000):
            mute.send_multipart(hello)
        with Client(device.address) as client:
            assert client.infer(PICTURES[0], deadline_ms=20_000).output.shape == (4,)
        assert process.memory_info().rss - before < 8e6
    finally:
        mute.close()


def proofs(bench: Callable[[str], Any], phi: int) -> list[Any]:
    """Return the one right answer of φ to each picture."""
    return [bench("checked").proof(phi, picture) for picture in PICTURES]


@pytest.mark.alone
def test_a_lossy_line_and_a_client_that_never_reads(
    bench: Callable[[str], Any], tmp_path: Path
) -> None:
    """One daemon, first behind a line that loses, then with a client that asks and never listens."""
    with bench("device").Device(tmp_path, TAKES_MS) as device:
        check_lossy_line(device, proofs(bench, 0))
        check_one_that_never_reads(device)


def test_a_killed_daemon_s_successor_answers(bench: Callable[[str], Any], tmp_path: Path) -> None:
    """`kill -9` under eight requests, and a new start: each caller gets its answer, and never knew."""
    found: list[Any] = []

    def ask(address: str) -> None:
        async def main() -> None:
            async with AsyncClient(address) as client:
                calls = (client.infer(PICTURES[k % 6], deadline_ms=90_000, phi=2) for k in range(8))
                found.extend(await asyncio.gather(*calls))

        asyncio.run(main())

    with bench("device").Device(tmp_path, TAKES_MS) as device:
        asking = threading.Thread(target=ask, args=(device.address,))
        asking.start()
        time.sleep(0.2)
        device.kill()
        assert not found
        device.start()
        asking.join(90)
    assert len(found) == 8
    expected = proofs(bench, 2)
    for k, answer in enumerate(found):
        np.testing.assert_array_equal(answer.output, expected[k % 6])
