"""Asking a running daemon: `Client` for ordinary code, `AsyncClient` for asyncio.

    with Client() as client:
        answer = client.infer("cat.jpg", deadline_ms=30)

Every request is answered with an `Answer`, or raises the `RequestError` that says why not: at the latest
`patience_s` after its deadline. Until the deadline a request that was lost, or refused for a reason that
passes, is asked again, at most `retries` times (`asking`); the daemon answers it once.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
import uuid
from collections.abc import Callable
from operator import index
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..config import default_address
from ..errors import NoAnswer, TooLarge
from ..model_zoo.images import as_image
from . import protocol
from .asking import Asker, Call
from .connection import Connection, connect
from .protocol import Answer, BudgetHeader, HelloHeader, InferHeader, OkHeader, PolicyHeader
from .security import load_client_keys

PATIENCE_S = 0.9
"""How long after its deadline an answer is still waited for."""
DEFAULT_WAIT_S = 10.0
"""How long a request without a deadline waits."""
ORDER_WAIT_S = 2.0
"""How long a hello, a budget or a policy waits for its reply."""
RETRIES = 4
"""How often a request is asked again, if nothing else is said."""
MAX_MESSAGE_BYTES = 64_000_000
"""What a daemon accepts by default; until it has said more, a larger tensor is refused before it is sent."""

Picture = Any  # str | Path | PIL.Image.Image | array; see model_zoo.images.as_image


class _Talk:
    """What both clients share: forming requests and what is waited for."""

    _asker: Asker

    def __init__(
        self,
        address: str | None,
        patience_s: float,
        retries: int,
        server_key: str | Path | None,
        key_file: str | Path | None,
    ) -> None:
        self.address = address or default_address()
        self._keys = load_client_keys(server_key, key_file)
        self.patience_s = patience_s
        self.retries = retries

    def _connect(self) -> Connection:
        """Begin a connection, and a session: ids begin anew, and another's answers must not be theirs."""
        self._session = uuid.uuid4().hex
        connection = connect(self.address, self._keys)
        self._asker = Asker(self.address, self._session, self.retries, connection)
        return connection

    def _infer_call(
        self,
        image: Picture,
        deadline_ms: float | None,
        reading_ms: float | None,
        phi: int | None,
        top: int,
        priority: int,
        min_quality: float | None,
        blur_px: float | None,
        *,
        raw: bool,
        keep: bool = False,
    ) -> Call:
        began_s, deadline_ms = time.monotonic(), _number(deadline_ms)
        tensor = np.ascontiguousarray(image if raw else as_image(image))
        limit = self._asker.max_message_bytes or MAX_MESSAGE_BYTES
        if tensor.nbytes > limit:
            raise TooLarge(
                f"the {'array' if raw else 'image'} has {tensor.nbytes} bytes, at most {limit} can be sent",
                help="where [zmq] max_message_mb is more, ask the daemon first: `hello()`",
            )
        if keep and tensor.flags.writeable:
            tensor = tensor.copy()
        header = InferHeader(
            id=next(self._asker.ids),
            dtype=protocol.name_of(tensor.dtype),
            shape=tensor.shape,
            deadline_ms=deadline_ms,
            reading_ms=_number(reading_ms),
            phi=_whole(phi),
            top=index(top),
            priority=index(priority),
            min_quality=_number(min_quality),
            blur_px=_number(blur_px),
            session=self._session,
        )
        protocol.check_numbers(header)

        def frames(left_ms: float) -> list[Any]:
            header.deadline_ms = None if deadline_ms is None else max(0.0, left_ms)
            return protocol.encode(protocol.INFER, header, tensor)

        wait_s = DEFAULT_WAIT_S if deadline_ms is None else deadline_ms / 1e3
        return self._call(header.id, frames, began_s, wait_s, self.patience_s)

    def _budget_call(self, budget_ms: float | None, max_phi: int | None, ttl_s: float) -> Call:
        header = BudgetHeader(
            next(self._asker.ids), _number(budget_ms), _whole(max_phi), float(ttl_s)
        )
        return self._order(header.id, protocol.encode(protocol.BUDGET, header))

    def _policy_call(self, content: bytes, signature: bytes | None) -> Call:
        header = PolicyHeader(next(self._asker.ids), signature)
        return self._order(header.id, [*protocol.encode(protocol.POLICY, header), content])

    def _hello_call(self) -> Call:
        header = HelloHeader(next(self._asker.ids))
        return self._order(header.id, protocol.encode(protocol.HELLO, header))

    def _order(self, id: int, frames: list[Any]) -> Call:
        return self._call(id, lambda _: frames, time.monotonic(), ORDER_WAIT_S, 0.0)

    @staticmethod
    def _call(
        id: int,
        frames: Callable[[float], list[Any]],
        began_s: float,
        wait_s: float,
        patience_s: float,
    ) -> Call:
        return Call(id, frames, began_s, began_s + wait_s, began_s + wait_s + patience_s)


class Client(_Talk):
    """A connection to a daemon for one thread at a time; close it, or use it in a `with`.

    In a process that was forked from the one that made it, it makes a connection of its own.
    `retries` is how often a request is asked again within its deadline, `patience_s` how long after it an
    answer is waited for. A daemon on another machine asks for keys: `server_key` is its public key or the
    file that holds it, `key_file` the client's own secret one. Raises `InvalidRequest` for what is no
    address, `ConfigError` for what is no key.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        retries: int = RETRIES,
        server_key: str | Path | None = None,
        key_file: str | Path | None = None,
    ) -> None:
        super().__init__(address, patience_s, retries, server_key, key_file)
        self._open()

    def __repr__(self) -> str:
        return f"<Client(address={self.address!r})>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._connection.close()

    def _open(self) -> None:
        self._pid, self._closed = os.getpid(), False
        self._lock = threading.Lock()
        self._connection = self._connect()

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
        raw: bool = False,
        blur_px: float | None = None,
    ) -> Answer:
        """Return the answer for an image (a path, a PIL image, or an array height × width × 3 uint8).

        `deadline_ms` counts from this call (None: the daemon's default, from each arrival). In a frame
        loop, where the budget of the next frame is not known, pass the last one as `reading_ms`: the
        policy then decides on it. `phi` pins the variant; `top` asks for that many class names.
        `priority` 1 is served first (0: the default, 5); only variants of `min_quality` or more may
        answer. `blur_px` is how far the picture moved while it was taken, for a policy that knows motion
        blur. With `raw` the array is sent as it is, for ladders that take no images. Raises a `RequestError`.
        """
        answer = self._ask(
            lambda: self._infer_call(
                image, deadline_ms, reading_ms, phi, top, priority, min_quality, blur_px, raw=raw
            )
        )
        assert isinstance(answer, Answer)
        return answer

    def push_budget(
        self, budget_ms: float | None = None, *, max_phi: int | None = None, ttl_s: float = 1.0
    ) -> None:
        """Tell the daemon what may be spent for the next `ttl_s` seconds."""
        self._ask(lambda: self._budget_call(budget_ms, max_phi, ttl_s))

    def push_policy(self, content: bytes, signature: bytes | None = None) -> None:
        """Offer the daemon a policy file's bytes; raise `InvalidRequest` if it does not take them.

        What is taken decides in the shadow first, and takes over if its promise holds.
        """
        self._ask(lambda: self._policy_call(content, signature))

    def hello(self) -> OkHeader:
        """Return who answers: version, ladder, policy, whether it is ready."""
        hello = self._ask(self._hello_call)
        assert isinstance(hello, OkHeader)
        return hello

    def wait_until_ready(self, timeout_s: float = 120.0) -> OkHeader:
        """Return when the daemon's models are warm; raise `NoAnswer` if they are not in time."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                if (hello := self.hello()).ready:
                    return hello
                error = NoAnswer(f"the models at {self.address} are not warm after {timeout_s:g} s")
            except NoAnswer as nobody:
                error = nobody
            if self._closed or time.monotonic() >= until:
                raise error
            time.sleep(0.1)

    def _ask(self, form: Callable[[], Call]) -> Answer | OkHeader:
        if self._closed:
            raise NoAnswer("the client is closed", help="make another one")
        # After a fork the connection is the other process's, and so are its answers.
        if self._pid != os.getpid():
            self._open()
        call = form()
        with self._lock:
            if self._connection.has_news():  # what happened since the last call is not about this
                self._connection.take(self._asker)
            try:
                self._asker.ask(call)
                while call.result is None:
                    wait_s = self._asker.tick()
                    if call.result is None:
                        self._connection.wait(self._asker, wait_s)
            finally:
                self._asker.forget(call.id)
        if isinstance(call.result, Exception):
            raise call.result
        return call.result


class AsyncClient(_Talk):
    """A connection to a daemon for one event loop; any number of requests may be under way.

    Its arguments are those of `Client`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        retries: int = RETRIES,
        server_key: str | Path | None = None,
        key_file: str | Path | None = None,
    ) -> None:
        super().__init__(address, patience_s, retries, server_key, key_file)
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._connection = self._connect()
        self._connection.listen(self._loop, self._on_news)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; requests under way raise `NoAnswer`."""
        if self._connection is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._connection.close()
        self._connection = None
        self._asker.end(NoAnswer("the connection was closed"))

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
        raw: bool = False,
        blur_px: float | None = None,
    ) -> Answer:
        """Return the answer for an image; see `Client.infer`.

        The caller goes on while it is being sent, so an array that it could change is copied; one that is
        marked read-only (`array.flags.writeable = False`) is taken at its word.
        """
        answer = await self._ask(
            lambda: self._infer_call(
                image,
                deadline_ms,
                reading_ms,
                phi,
                top,
                priority,
                min_quality,
                blur_px,
                raw=raw,
                keep=True,
            )
        )
        assert isinstance(answer, Answer)
        return answer

    async def push_budget(
        self, budget_ms: float | None = None, *, max_phi: int | None = None, ttl_s: float = 1.0
    ) -> None:
        """Tell the daemon what may be spent for the next `ttl_s` seconds."""
        await self._ask(lambda: self._budget_call(budget_ms, max_phi, ttl_s))

    async def push_policy(self, content: bytes, signature: bytes | None = None) -> None:
        """Offer the daemon a policy file's bytes; see `Client.push_policy`."""
        await self._ask(lambda: self._policy_call(content, signature))

    async def hello(self) -> OkHeader:
        """Return who answers: version, ladder, policy, whether it is ready."""
        hello = await self._ask(self._hello_call)
        assert isinstance(hello, OkHeader)
        return hello

    async def _ask(self, form: Callable[[], Call]) -> Answer | OkHeader:
        if self._connection is None:
            raise NoAnswer("the client is not connected", help="use it in an `async with`")
        call = form()
        future: asyncio.Future[None] = self._loop.create_future()
        call.told = lambda: future.set_result(None) if not future.done() else None
        try:
            self._asker.ask(call)
            self._turn()
            await future
        finally:
            self._asker.forget(call.id)
        assert call.result is not None
        if isinstance(call.result, Exception):
            raise call.result
        return call.result

    def _on_news(self) -> None:
        if self._connection is not None:
            self._connection.take(self._asker)
            self._turn()

    def _turn(self) -> None:
        """Do what is due, and see to it that the asker is asked again in time."""
        if self._connection is None:
            return
        wait_s = self._asker.tick()
        when_s = self._loop.time() + wait_s
        if self._timer is not None and when_s < self._timer.when():
            self._timer.cancel()
            self._timer = None
        if self._timer is None and wait_s < math.inf:
            self._timer = self._loop.call_at(when_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._turn()


def _number(x: float | None) -> float | None:
    """Return a number as the protocol knows it, numpy's among them; raise `TypeError` for what is none."""
    return None if x is None else float(x)


def _whole(x: int | None) -> int | None:
    return None if x is None else index(x)
