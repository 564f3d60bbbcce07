"""Asking a running daemon: `Client` for ordinary code, `AsyncClient` for asyncio.

    with Client() as client:
        answer = client.infer("cat.jpg", deadline_ms=30)

Every request is answered with an `Answer`, or raises the `RequestError` that says why not; `NoAnswer`
is raised where the daemon does not answer within its deadline plus `patience_s`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import zmq

from ..config import default_address
from ..errors import InvalidRequest, NoAnswer, ProtocolError, TooLarge, from_code
from ..model_zoo.images import as_image
from . import protocol
from .protocol import (
    Answer,
    AnswerHeader,
    BudgetHeader,
    ErrorHeader,
    HelloHeader,
    InferHeader,
    OkHeader,
    PolicyHeader,
)
from .pump import Pump

if TYPE_CHECKING:
    pass

PATIENCE_S = 2.0
"""How long after its deadline an answer is still waited for."""
DEFAULT_WAIT_S = 10.0
"""How long a request without a deadline waits."""
MAX_MESSAGE_BYTES = 64_000_000
"""What a daemon accepts by default; a larger tensor is refused before it is sent."""

Picture = Any  # str | Path | PIL.Image.Image | array; see model_zoo.images.as_image


class _Talk:
    """What both clients share: numbering requests, forming them, reading what comes back."""

    def __init__(self, address: str | None, patience_s: float) -> None:
        self.address = address or default_address()
        self.patience_s = patience_s
        self._ids: Iterator[int] = count(1)

    def _infer_frames(
        self,
        image: Picture,
        deadline_ms: float | None,
        reading_ms: float | None,
        phi: int | None,
        top: int,
        priority: int,
        min_quality: float | None,
    ) -> tuple[int, list[Any]]:
        tensor = as_image(image)
        if tensor.nbytes > MAX_MESSAGE_BYTES:
            raise TooLarge(
                f"the image has {tensor.nbytes} bytes, at most {MAX_MESSAGE_BYTES} can be sent"
            )
        header = InferHeader(
            id=next(self._ids),
            dtype=tensor.dtype.name,
            shape=tensor.shape,
            deadline_ms=deadline_ms,
            reading_ms=reading_ms,
            phi=phi,
            top=top,
            priority=priority,
            min_quality=min_quality,
        )
        protocol.check_numbers(header)
        return header.id, protocol.encode(protocol.INFER, header, tensor)

    def _budget_frames(
        self, budget_ms: float | None, max_phi: int | None, ttl_s: float
    ) -> tuple[int, list[Any]]:
        header = BudgetHeader(next(self._ids), budget_ms, max_phi, ttl_s)
        return header.id, protocol.encode(protocol.BUDGET, header)

    def _policy_frames(self, content: bytes, signature: bytes | None) -> tuple[int, list[Any]]:
        header = PolicyHeader(next(self._ids), signature)
        return header.id, [*protocol.encode(protocol.POLICY, header), content]

    def _hello_frames(self) -> tuple[int, list[Any]]:
        header = HelloHeader(next(self._ids))
        return header.id, protocol.encode(protocol.HELLO, header)

    def _wait_s(self, deadline_ms: float | None) -> float:
        seconds = DEFAULT_WAIT_S if deadline_ms is None else deadline_ms / 1e3
        return seconds + self.patience_s

    def _no_answer(self, wait_s: float) -> NoAnswer:
        return NoAnswer(
            f"no daemon answered at {self.address} within {wait_s:.1f} s",
            help="start one with `adaphi serve`, or check the address",
        )


def _read(frames: list[zmq.Frame]) -> tuple[int | None, Answer | OkHeader | Exception]:
    """Return (id, what came back); an error comes back as the exception to raise."""
    kind, header, rest = protocol.split(frames)
    if kind == protocol.ANSWER:
        a = protocol.decode(AnswerHeader, header)
        output = protocol.tensor_of(a, rest)
        answer = Answer(
            output, a.phi, a.latency_ms, a.late, a.name, a.queue_ms, a.inference_ms, a.top
        )
        return a.id, answer
    if kind == protocol.OK:
        ok = protocol.decode(OkHeader, header)
        return ok.id, ok
    if kind == protocol.ERROR:
        error = protocol.decode(ErrorHeader, header)
        return error.id, from_code(error.code, error.message)
    return None, ProtocolError(f"the daemon sent a message of the kind {kind!r}")


def _configure(socket: zmq.Socket[bytes]) -> None:
    socket.linger = 0
    socket.setsockopt(zmq.SNDHWM, 256)
    socket.setsockopt(zmq.RCVHWM, 256)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)


class Client(_Talk):
    """A connection to a daemon for one thread at a time; close it, or use it in a `with`."""

    def __init__(self, address: str | None = None, *, patience_s: float = PATIENCE_S) -> None:
        super().__init__(address, patience_s)
        self._lock = threading.Lock()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        _configure(self._socket)
        try:
            self._socket.connect(self.address)
        except zmq.ZMQError as error:
            self._socket.close()
            raise InvalidRequest(f"{self.address!r} is not an address: {error.strerror}") from None

    def __repr__(self) -> str:
        return f"<Client(address={self.address!r})>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def infer(
        self,
        image: Picture,
        *,
        deadline_ms: float | None = None,
        reading_ms: float | None = None,
        phi: int | None = None,
        top: int = 0,
        priority: int = 0,
        min_quality: float | None = None,
    ) -> Answer:
        """Return the answer for an image (a path, a PIL image, or an array height × width × 3 uint8).

        `deadline_ms` counts from the arrival at the daemon (None: the daemon's default). In a frame
        loop, where the budget of the next frame is not known, pass the last one as `reading_ms`: the
        policy then decides on it. `phi` pins the variant; `top` asks for that many class names.
        `priority` 1 is served first (0: the default, 5); only variants of `min_quality` or more may
        answer. Raises a `RequestError`.
        """
        id, frames = self._infer_frames(
            image, deadline_ms, reading_ms, phi, top, priority, min_quality
        )
        answer = self._ask(id, frames, self._wait_s(deadline_ms))
        assert isinstance(answer, Answer)
        return answer

    def push_budget(
        self, budget_ms: float | None = None, *, max_phi: int | None = None, ttl_s: float = 1.0
    ) -> None:
        """Tell the daemon what may be spent for the next `ttl_s` seconds."""
        self._ask(*self._budget_frames(budget_ms, max_phi, ttl_s), self.patience_s)

    def push_policy(self, content: bytes, signature: bytes | None = None) -> None:
        """Offer the daemon a policy file's bytes; raise `InvalidRequest` if it does not take them.

        What is taken decides in the shadow first, and takes over if its promise holds.
        """
        self._ask(*self._policy_frames(content, signature), self.patience_s)

    def hello(self) -> OkHeader:
        """Return who answers: version, ladder, policy, whether it is ready."""
        hello = self._ask(*self._hello_frames(), self.patience_s)
        assert isinstance(hello, OkHeader)
        return hello

    def wait_until_ready(self, timeout_s: float = 120.0) -> OkHeader:
        """Return when the daemon's models are warm; raise `NoAnswer` if they are not in time."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            try:
                if (hello := self.hello()).ready:
                    return hello
            except NoAnswer:
                pass
            time.sleep(0.1)
        raise self._no_answer(timeout_s)

    def _ask(self, id: int, frames: list[Any], wait_s: float) -> Answer | OkHeader:
        with self._lock:
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
            except zmq.Again:
                raise self._no_answer(0) from None
            until = time.monotonic() + wait_s
            while (left_s := until - time.monotonic()) > 0:
                if not self._socket.poll(int(left_s * 1e3) + 1):
                    break
                # An answer to an earlier request that was given up is dropped.
                about, what = _read(self._socket.recv_multipart(copy=False))
                if about is not None and about != id:
                    continue
                if isinstance(what, Exception):
                    raise what
                return what
        raise self._no_answer(wait_s)


class AsyncClient(_Talk):
    """A connection to a daemon for one event loop; any number of requests may be under way."""

    def __init__(self, address: str | None = None, *, patience_s: float = PATIENCE_S) -> None:
        super().__init__(address, patience_s)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._pump: Pump | None = None

    async def __aenter__(self) -> Self:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        _configure(socket)
        socket.connect(self.address)
        self._pump = Pump(socket, self._on_message)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; requests under way raise `NoAnswer`."""
        if self._pump is not None:
            self._pump.close()
            self._pump = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NoAnswer("the connection was closed"))

    async def infer(
        self,
        image: Picture,
        *,
        deadline_ms: float | None = None,
        reading_ms: float | None = None,
        phi: int | None = None,
        top: int = 0,
        priority: int = 0,
        min_quality: float | None = None,
    ) -> Answer:
        """Return the answer for an image; see `Client.infer`."""
        id, frames = self._infer_frames(
            image, deadline_ms, reading_ms, phi, top, priority, min_quality
        )
        answer = await self._ask(id, frames, self._wait_s(deadline_ms))
        assert isinstance(answer, Answer)
        return answer

    async def push_budget(
        self, budget_ms: float | None = None, *, max_phi: int | None = None, ttl_s: float = 1.0
    ) -> None:
        """Tell the daemon what may be spent for the next `ttl_s` seconds."""
        await self._ask(*self._budget_frames(budget_ms, max_phi, ttl_s), self.patience_s)

    async def push_policy(self, content: bytes, signature: bytes | None = None) -> None:
        """Offer the daemon a policy file's bytes; see `Client.push_policy`."""
        await self._ask(*self._policy_frames(content, signature), self.patience_s)

    async def hello(self) -> OkHeader:
        """Return who answers: version, ladder, policy, whether it is ready."""
        hello = await self._ask(*self._hello_frames(), self.patience_s)
        assert isinstance(hello, OkHeader)
        return hello

    async def _ask(self, id: int, frames: list[Any], wait_s: float) -> Answer | OkHeader:
        if self._pump is None:
            raise NoAnswer("the client is not connected", help="use it in an `async with`")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[id] = future
        try:
            if not self._pump.send(frames):
                raise self._no_answer(0)
            return await asyncio.wait_for(future, wait_s)
        except TimeoutError:
            raise self._no_answer(wait_s) from None
        finally:
            del self._waiting[id]

    def _on_message(self, frames: list[zmq.Frame]) -> None:
        about, what = _read(frames)
        future = self._waiting.get(about) if about is not None else None
        if future is None or future.done():
            return
        if isinstance(what, Exception):
            future.set_exception(what)
        else:
            future.set_result(what)
