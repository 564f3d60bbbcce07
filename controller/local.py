"""Where clients of this machine come in: ZeroMQ's protocol in the daemon's own loop, without more threads."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from .stream import Stream, address_of, tune
from .zmtp import Allocate, Broken, allocate

log = logging.getLogger("adaphi")

HANDSHAKE_S = 5.0
"""Who has not said by then who he is has to go."""
LINGER_S = 0.5
"""What was sent before the end may still leave in that time."""
BURST = 64
"""Messages of one client that are handled in a row."""
STALLED_S = 10.0
"""Who has begun a message and sends no more of it for so long, or for up to twice as long, has to go."""
FULL_PAUSE_S = 1.0
"""The pause before anybody else is let in, where there are too many already."""

OnMessage = Callable[["LocalPeer", list[Any]], None]


class LocalPeer:
    """One client's connection."""

    def __init__(
        self,
        plain: socket.socket,
        limit_bytes: int,
        allocate: Allocate,
        on_message: OnMessage,
        on_end: Callable[[LocalPeer], None],
    ) -> None:
        tune(plain)
        self._stream = Stream(plain, b"ROUTER", limit_bytes, allocate)
        self._on_message, self._on_end = on_message, on_end
        self._loop = asyncio.get_running_loop()
        self._writes = False
        self._gone = False
        self._progress: object = None
        self._loop.add_reader(plain, self._read)
        self._timer = self._loop.call_later(HANDSHAKE_S, self._check_handshake)
        self._loop.call_soon(self._write)

    def check_progress(self) -> None:
        """End the connection if its message is no further than when last asked."""
        before, self._progress = self._progress, self._stream.wire.progress
        if self._progress is not None and self._progress == before:
            self.close()

    def send(self, frames: list[Any]) -> bool:
        """Send without waiting; return False if the client is gone or does not keep up."""
        if self._gone or not self._stream.send(frames):
            return False
        if self._stream.is_behind:
            self._watch()
        return True

    def close(self, linger_s: float = 0.0) -> None:
        """End the connection; what is unsent may leave for `linger_s`, which waits."""
        if self._gone:
            return
        self._gone = True
        self._timer.cancel()
        self._loop.remove_reader(self._stream.socket)
        self._loop.remove_writer(self._stream.socket)
        if linger_s and self._stream.is_behind:
            self._stream.socket.settimeout(linger_s)
            with suppress(OSError):
                self._stream.flush()
        self._stream.close()
        self._on_end(self)

    def _read(self) -> None:
        try:
            messages = self._stream.receive()
        except (OSError, EOFError):
            self.close()
            return
        except Broken as error:
            log.debug("a client's connection was ended: %s", error)
            self.close()
            return
        self._handle(messages)
        if self._stream.is_behind:
            self._watch()

    def _handle(self, messages: list[list[Any]]) -> None:
        """Handle messages; of many, some after others had their turn, and before any more is read."""
        for message in messages[:BURST]:
            self._on_message(self, message)
        if len(messages) <= BURST or self._gone:
            return
        self._loop.remove_reader(self._stream.socket)
        self._loop.call_soon(self._go_on, messages[BURST:])

    def _go_on(self, messages: list[list[Any]]) -> None:
        if not self._gone:
            self._loop.add_reader(self._stream.socket, self._read)
            self._handle(messages)

    def _write(self) -> None:
        if self._gone:
            return
        try:
            self._stream.flush()
        except OSError:
            self.close()
            return
        self._watch()

    def _watch(self) -> None:
        """Look whether the client can be written to, exactly while something is unsent."""
        if self._gone or self._writes == self._stream.is_behind:
            return
        self._writes = self._stream.is_behind
        if self._writes:
            self._loop.add_writer(self._stream.socket, self._write)
        else:
            self._loop.remove_writer(self._stream.socket)

    def _check_handshake(self) -> None:
        if not self._stream.wire.is_open:
            self.close()


class LocalRouter:
    """Listens at one address and gives `on_message(peer, frames)` what arrives.

    A frame or a message of more than `limit_bytes`, or that stops on its way, ends its connection; long
    frames go where `allocate` says. Raises `OSError` if it cannot listen.
    """

    def __init__(
        self,
        address: str,
        limit_bytes: int,
        on_message: OnMessage,
        allocate: Allocate = allocate,
    ) -> None:
        family, where = address_of(address)
        self._new_peer = partial(
            LocalPeer,
            limit_bytes=limit_bytes,
            allocate=allocate,
            on_message=on_message,
            on_end=self._forget,
        )
        self._peers: set[LocalPeer] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._listener = socket.socket(family)
        try:
            self._listener.setblocking(False)
            if family == socket.AF_UNIX and not where.startswith("\0"):
                Path(where).unlink(missing_ok=True)  # of a daemon that is gone: it held a lock
            elif family != socket.AF_UNIX:
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(where)
            if family == socket.AF_UNIX and not where.startswith("\0"):
                # The group's part is the umask's; nobody else's it ever is.
                os.chmod(where, stat.S_IMODE(os.stat(where).st_mode) & 0o770)
            self._listener.listen()
        except OSError:
            self._listener.close()
            raise
        self._listen()
        self._watch = self._loop.call_later(STALLED_S, self._look_after)

    def close(self) -> None:
        """Listen no longer, and end the connections; what was sent may still leave within its linger."""
        self._watch.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for peer in list(self._peers):
            peer.close(LINGER_S)

    def _listen(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._let_in)

    def _let_in(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left: those who wait may come in later
                log.warning("no client can be let in: %s", error)
                self._loop.remove_reader(self._listener)
                self._timer = self._loop.call_later(FULL_PAUSE_S, self._listen)
                return
            self._peers.add(self._new_peer(plain))

    def _forget(self, peer: LocalPeer) -> None:
        self._peers.discard(peer)

    def _look_after(self) -> None:
        for peer in list(self._peers):
            peer.check_progress()
        self._watch = self._loop.call_later(STALLED_S, self._look_after)
