"""Clients that never rest, and a ledger of what became of each of their requests.

Four kinds ask at once: the library's `Client` and `AsyncClient`, a bare DEALER that counts the answers to
each id, and an HTTP client of the standard library. Every answer is held against its own input.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from adaphi import AsyncClient, Client
from adaphi.controller import protocol
from adaphi.errors import RequestError
from adaphi.model_zoo.backends import Array

from . import checked

DEADLINE_S = 0.3
ALLOWED_S = 1.0
"""How long after its deadline a request has to be answered, or refused, at the latest."""
BY_THE_CLOCK = ("no_answer", "worker_lost")
"""What a request also comes to where nothing is wrong but that nobody had a turn on the processor."""
PATIENCE_S = 0.7
"""How long after a deadline the clients give up, so that they do it in time on a busy machine, too."""
PAUSE_S = 0.01
"""How long a client thinks between two requests."""


@dataclass
class Ledger:
    """What became of the requests: `outcomes` by name, and in words what must not be.

    What is `overdue` was found by the clock: it counts only where nobody was kept from the processor.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    overdue: list[str] = field(default_factory=list)
    latest_s: float = -DEADLINE_S
    """How long after its deadline the latest one was answered."""
    context: str = ""
    allowed: frozenset[str] = frozenset()
    """What else than an answer a request may come to at the moment."""
    under_way: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def begin(self) -> float:
        """Note that a request was sent; return when."""
        with self._lock:
            self.under_way += 1
        return time.monotonic()

    def end(self, who: str, began_s: float, outcome: str) -> None:
        """Note what became of a request."""
        after_s = time.monotonic() - began_s - DEADLINE_S
        with self._lock:
            self.under_way -= 1
            self.outcomes[outcome] += 1
            self.latest_s = max(self.latest_s, after_s)
        if after_s > ALLOWED_S:
            self.overdue.append(
                f"{self.context}: {who}, {outcome}, {after_s:.2f} s after its deadline"
            )
        if outcome in BY_THE_CLOCK and outcome not in self.allowed:
            self.overdue.append(f"{self.context}: {who}, {outcome}")
        elif outcome not in ("ok", "late") and outcome not in self.allowed:
            self.find(f"{who}: {outcome}")

    def find(self, what: str) -> None:
        """Note what must not be."""
        self.findings.append(f"{self.context}: {what}")

    def judge(self, who: str, output: Array, phi: int, picture: Array) -> None:
        """Hold an answer against its input."""
        if output.shape != (4,) or not (output == checked.proof(phi, picture)).all():
            self.find(f"{who}: a wrong answer, {output} from φ = {phi}")


class Pulse:
    """How long this process stood still, or another one waited for a processor, since `reset`.

    On a machine that is busy with other work nobody keeps time. The kernel counts what a thread that could
    run had to wait (schedstat).
    """

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._waited_s: dict[int, float] = {}
        threading.Thread(target=self._beat, daemon=True).start()

    def reset(self, *pids: int) -> None:
        """Begin anew, with these other processes."""
        self._longest_s = 0.0
        self._waited_s = {pid: waited_s(pid) for pid in pids}

    def longest_s(self, *pids: int) -> float:
        """Return the longest of it, also for processes that began meanwhile."""
        waits = (waited_s(pid) - self._waited_s.get(pid, 0.0) for pid in pids)
        return max(self._longest_s, *waits)

    def _beat(self) -> None:
        while True:
            began_s = time.monotonic()
            time.sleep(0.01)
            self._longest_s = max(self._longest_s, time.monotonic() - began_s - 0.01)


def waited_s(pid: int) -> float:
    """Return how long a process's first thread waited for a processor so far; 0 where nobody counts it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class Load:
    """The clients of one daemon, each in a thread of its own, resting until `resume`."""

    def __init__(self, ledger: Ledger, address: str, http_port: int, seed: int) -> None:
        self.ledger = ledger
        self._address, self._http_port = address, http_port
        self._going, self._ended = threading.Event(), False
        kinds = (self._sync, self._async, self._bare, self._http)
        self._threads = [
            threading.Thread(target=kind, args=(_pictures(random.Random(f"{seed} {n}")),))
            for n, kind in enumerate(kinds)
        ]
        for thread in self._threads:
            thread.start()

    def resume(self) -> None:
        """Let them ask."""
        self._going.set()

    def pause(self) -> None:
        """Let them finish what they asked, and rest."""
        self._going.clear()
        until_s = time.monotonic() + DEADLINE_S + 2 * ALLOWED_S
        while self.ledger.under_way and time.monotonic() < until_s:
            time.sleep(0.005)
        if self.ledger.under_way:
            self.ledger.find(f"{self.ledger.under_way} requests were never answered")

    def close(self) -> None:
        """End the clients."""
        self._ended = True
        self._going.set()
        for thread in self._threads:
            thread.join(10)

    def _turns(self) -> Iterator[None]:
        while not self._ended:
            if self._going.wait(0.1) and not self._ended:
                yield
                time.sleep(PAUSE_S)

    # ------------------------------------------------------------------------ the clients

    def _sync(self, pictures: Iterator[Array]) -> None:
        with Client(self._address, patience_s=PATIENCE_S) as client:
            for _ in self._turns():
                picture, began_s = next(pictures), self.ledger.begin()
                outcome = "ok"
                try:
                    answer = client.infer(picture, deadline_ms=DEADLINE_S * 1e3)
                except RequestError as error:
                    outcome = error.code
                else:
                    self.ledger.judge("Client", answer.output, answer.phi, picture)
                self.ledger.end("Client", began_s, outcome)

    def _async(self, pictures: Iterator[Array]) -> None:
        async def one(client: AsyncClient) -> None:
            while not self._ended:
                if not self._going.is_set():
                    await asyncio.sleep(0.01)
                    continue
                picture, began_s = next(pictures), self.ledger.begin()
                outcome = "ok"
                try:
                    answer = await client.infer(picture, deadline_ms=DEADLINE_S * 1e3)
                except RequestError as error:
                    outcome = error.code
                else:
                    self.ledger.judge("AsyncClient", answer.output, answer.phi, picture)
                self.ledger.end("AsyncClient", began_s, outcome)
                await asyncio.sleep(PAUSE_S)

        async def several() -> None:
            async with AsyncClient(self._address, patience_s=PATIENCE_S) as client:
                await asyncio.gather(*(one(client) for _ in range(3)))

        asyncio.run(several())

    def _bare(self, pictures: Iterator[Array]) -> None:
        dealer: Any = zmq.Context.instance().socket(zmq.DEALER)
        dealer.linger = 0
        dealer.connect(self._address)
        with dealer:
            bare = _Bare(self.ledger, dealer)
            while not self._ended:
                if self._going.is_set() and len(bare.waiting) < 3:
                    bare.ask(next(pictures))
                    time.sleep(PAUSE_S)
                bare.collect()

    def _http(self, pictures: Iterator[Array]) -> None:
        def connect() -> http.client.HTTPConnection:
            return http.client.HTTPConnection(
                "127.0.0.1", self._http_port, timeout=DEADLINE_S + PATIENCE_S
            )

        connection = connect()
        for _ in self._turns():
            picture, began_s = next(pictures), self.ledger.begin()
            try:
                outcome = self._ask_http(connection, picture)
            except (OSError, http.client.HTTPException) as error:
                outcome = "no_answer" if isinstance(error, TimeoutError) else "cut"
                connection.close()
                connection = connect()
            self.ledger.end("HTTP", began_s, outcome)
        connection.close()

    def _ask_http(self, connection: http.client.HTTPConnection, picture: Array) -> str:
        body, length = infer_body(picture, DEADLINE_S)
        connection.request(
            "POST",
            f"/v2/models/{checked.NAME}/infer",
            body,
            {"Inference-Header-Content-Length": str(length)},
        )
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            assert json.loads(content)["error"]
            return f"http_{answer.status}"
        length = int(answer.headers["Inference-Header-Content-Length"])
        phi = json.loads(content[:length])["parameters"]["phi"]
        self.ledger.judge("HTTP", np.frombuffer(content[length:], np.float32), phi, picture)
        return "ok"


class _Bare:
    """A DEALER with several requests under way; an id that is answered twice is a finding."""

    def __init__(self, ledger: Ledger, dealer: Any) -> None:
        self.waiting: dict[int, tuple[float, Array]] = {}
        self._ledger, self._dealer = ledger, dealer
        self._id, self._answered = 0, set[int]()

    def ask(self, picture: Array) -> None:
        """Send a request."""
        self._id += 1
        header = protocol.InferHeader(self._id, "uint8", picture.shape, DEADLINE_S * 1e3)
        began_s = self._ledger.begin()
        self.waiting[self._id] = began_s, picture
        with suppress(zmq.Again):  # nobody is there: it will be found unanswered
            self._dealer.send_multipart(
                protocol.encode(protocol.INFER, header, picture), zmq.NOBLOCK
            )

    def collect(self) -> None:
        """Take what came, and give up what is overdue."""
        if self._dealer.poll(10):
            self._take(*protocol.split(self._dealer.recv_multipart()))
        now_s = time.monotonic()
        for id, (began_s, _) in list(self.waiting.items()):
            if now_s - began_s > DEADLINE_S + PATIENCE_S:
                del self.waiting[id]
                self._ledger.end("DEALER", began_s, "no_answer")

    def _take(self, kind: bytes, header: bytes, rest: Any) -> None:
        kinds: dict[bytes, Any] = {
            protocol.ANSWER: protocol.AnswerHeader,
            protocol.ERROR: protocol.ErrorHeader,
        }
        what = protocol.decode(kinds[kind], header)
        if what.id in self._answered:
            self._ledger.find(f"DEALER: request {what.id} was answered twice")
        self._answered.add(what.id)
        if what.id not in self.waiting:
            return  # it was given up: that has been noted
        began_s, picture = self.waiting.pop(what.id)
        if kind == protocol.ANSWER:
            output = protocol.tensor_of(what, rest)
            self._ledger.judge("DEALER", output, what.phi, picture)
        self._ledger.end("DEALER", began_s, "ok" if kind == protocol.ANSWER else what.code)


def infer_body(picture: Array, deadline_s: float) -> tuple[bytes, int]:
    """Return the body of a request of the inference protocol, and how much of it is the header."""
    tensor = {
        "name": "image",
        "shape": picture.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": picture.nbytes},
    }
    parameters = {"timeout": int(deadline_s * 1e6), "binary_data_output": True}
    header = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return header + picture.tobytes(), len(header)


def _pictures(draw: random.Random) -> Iterator[Array]:
    """Yield pictures of random bytes without end: half of one size, now and then one sent without a copy."""
    while True:
        height, width = (
            (24, 24) if draw.random() < 0.5 else (draw.randint(4, 40), draw.randint(4, 40))
        )
        if draw.random() < 0.1:
            height, width = 200, draw.randint(150, 400)
        pixels = np.frombuffer(draw.randbytes(height * width * 3), np.uint8)
        yield pixels.reshape(height, width, 3)
