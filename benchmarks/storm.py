"""Malformed messages at a daemon that serves: each one answered, none too many, the service unharmed.

    python -m benchmarks storm --messages 1000000

Over ZeroMQ a DEALER sends windows of messages and waits for as many answers; now and then a connection breaks
ZMTP itself. Over HTTP requests are pipelined; those whose length is wrong come last on their connection.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import zmq

from adaphi.controller import protocol

from . import checked, malformed, malformed_zmq
from .device import Device
from .harness import Row, show

WINDOW, PIPELINE = 64, 16
CHECK_EVERY = 20_000
"""Messages between two ordinary requests that have to be answered rightly."""
HANG_S = 15.0
"""How long no answer may come before that is called a hang."""


def storm_zmq(device: Device, count: int, seed: int) -> Counter[str]:
    """Send `count` messages over ZeroMQ; return what they were answered with."""
    seen: Counter[str] = Counter()
    messages, broken = malformed_zmq.messages(seed), malformed_zmq.connections(seed + 1)
    dealer: Any = zmq.Context.instance().socket(zmq.DEALER)
    dealer.linger = 0
    dealer.connect(device.address)
    with dealer:
        for sent in range(0, count, WINDOW):
            for frames in islice(messages, min(WINDOW, count - sent)):
                dealer.send_multipart(frames)
            for _ in range(min(WINDOW, count - sent)):
                seen[_zmq_answer(dealer)] += 1
            if sent % (16 * WINDOW) == 0:
                seen["connections that broke ZMTP"] += 1
                _send_only(device.tcp_port, next(broken))
            if sent % CHECK_EVERY < WINDOW:
                assert device.works(), "an ordinary request was not answered"
        assert not dealer.poll(200), f"an answer too many: {dealer.recv_multipart()}"
    return seen


def _zmq_answer(dealer: Any) -> str:
    assert dealer.poll(HANG_S * 1e3), "a message was not answered"
    kind, header, _ = protocol.split(dealer.recv_multipart())
    if kind == protocol.ERROR:
        return protocol.decode(protocol.ErrorHeader, header).code
    return {protocol.ANSWER: "answer", protocol.OK: "ok"}[kind]


def _send_only(port: int, content: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, suppress(OSError):
        connection.sendall(content)


def storm_http(device: Device, count: int, seed: int) -> Counter[str]:
    """Send `count` requests over HTTP; return what they were answered with."""
    seen: Counter[str] = Counter()
    draw = random.Random(seed)
    framed = malformed.framed(seed, quote(checked.NAME))
    broken = malformed.requests(seed + 1, quote(checked.NAME))
    connection = _Pipelined(device.http_port)
    for sent in range(0, count, PIPELINE):
        batch = list(islice(framed, min(PIPELINE, count - sent)))
        if draw.random() < 0.2:  # the last one breaks the connection
            last = next(broken)
            seen.update(connection.ask(batch[:-1]))
            seen[connection.end_with(last)] += 1
            connection = _Pipelined(device.http_port)
        else:
            seen.update(connection.ask(batch))
        if sent % CHECK_EVERY < PIPELINE:
            assert device.works(), "an ordinary request was not answered"
    connection.close()
    return seen


class _Pipelined:
    """One HTTP connection on which requests are sent without waiting for the answers before."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=HANG_S)
        self._received = b""

    def ask(self, requests: list[bytes]) -> list[str]:
        """Send sound framing with anything in it; return each one's status."""
        self._socket.sendall(b"".join(requests))
        return [self._answer() for _ in requests]

    def end_with(self, request: bytes) -> str:
        """Send anything at all, end the connection, and return the status, "cut" if there was none."""
        with suppress(OSError):
            self._socket.sendall(request)
            self._socket.shutdown(socket.SHUT_WR)
            while chunk := self._socket.recv(65536):
                self._received += chunk
        self.close()
        return self._received.split(b" ", 2)[1].decode() if self._received else "cut"

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _answer(self) -> str:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            self._receive()
        head = self._received[:end].lower()
        self._received = self._received[end + 4 :]
        body = self._chunks() if b"chunked" in head else self._take(_length(head))
        status = head.split(b" ", 2)[1].decode()
        assert status < "400" or json.loads(body)["error"], body
        return status

    def _chunks(self) -> bytes:
        body = b""
        while True:
            while (end := self._received.find(b"\r\n")) < 0:
                self._receive()
            size = int(self._received[:end], 16)
            self._take(end + 2)
            body += self._take(size + 2)[:size]
            if not size:
                return body

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _receive(self) -> None:
        chunk = self._socket.recv(1 << 18)
        assert chunk, f"the connection ended before its answer; received: {self._received[:200]!r}"
        self._received += chunk


def _length(head: bytes) -> int:
    return int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])


def storm(interface: str, count: int, seed: int = 0) -> tuple[Counter[str], float, list[int]]:
    """Storm a daemon of its own; return the answers, the seconds, and its memory (bytes) on the way."""
    with (
        tempfile.TemporaryDirectory(prefix="adaphi-storm-") as folder,
        Device(Path(folder), takes_ms=(0.1, 0.2, 0.3)) as device,
    ):
        with _Memory(device.pid) as memory:
            began_s = time.perf_counter()
            seen = {"zmq": storm_zmq, "http": storm_http}[interface](device, count, seed)
            took_s = time.perf_counter() - began_s
        assert device.works(), "an ordinary request was not answered at the end"
        state = device.state()
        assert state["worker_restarts"] == 0, "the worker was lost"
        assert device.stop() == 0
        assert "Traceback" not in device.log, device.log[-2000:]
        return seen, took_s, memory.bytes


class _Memory:
    """Samples a process's resident set twice a second, and at the beginning and the end."""

    def __init__(self, pid: int) -> None:
        self.bytes: list[int] = []
        self._process, self._done = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Memory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _sample(self) -> None:
        with suppress(psutil.Error):
            self.bytes.append(self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self._sample()


def rows(interface: str, count: int) -> Iterator[Row]:
    """Yield the figures of one storm."""
    seen, took_s, memory = storm(interface, count)
    yield Row(f"{interface}: messages", count, "messages", "more")
    yield Row(f"{interface}: messages a second", count / took_s, "1/s", "more")
    for outcome, number in seen.most_common():
        yield Row(f"{interface}: {outcome}", number, "messages", "more")
    third = len(memory) // 3
    for name, part in (("after a third", memory[third : third + 1]), ("at most", memory)):
        yield Row(f"{interface}: daemon's memory {name}", max(part, default=0) / 1e6, "MB", "less")


def main(arguments: list[str]) -> None:
    """Storm as long as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks storm", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="over each interface")
    parser.add_argument("--interface", choices=("zmq", "http"), help="only this one")
    given = parser.parse_args(arguments)
    for interface in (given.interface,) if given.interface else ("zmq", "http"):
        show(f"storm over {interface}", list(rows(interface, given.messages)))


if __name__ == "__main__":
    main(sys.argv[1:])
