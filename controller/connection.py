"""A client's connection to a daemon: a plain socket, or libzmq's where keys are used. Both speak ZeroMQ.

Either gives an `Asker` what arrives, and what becomes of the connection. A message is only taken while
there is one: what lay in a queue until the daemon is back would arrive with a deadline that says nothing.
"""

from __future__ import annotations

import asyncio
import errno
import math
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

import zmq

from ..errors import InvalidRequest
from .asking import EVENTS, Asker, Line
from .pump import is_readable, receive_now, send_now
from .security import ClientKeys
from .stream import Stream, address_of, tune
from .zmtp import Broken, Mismatch

MAX_ANSWER_BYTES = 1 << 30
"""A daemon has its own limit, and says so; what is longer is no answer of one."""
CONNECT_S = 2.0
"""A connection that is not there by then is begun again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
"""The pause before a connection that failed is begun again; each later one is twice as long."""
_numbers = count(1)


class Connection(Line, Protocol):
    """What both clients need: all of it but `wait` returns at once."""

    def has_news(self) -> bool:
        """Say whether there is something to take, at little cost."""
        ...

    def take(self, asker: Asker) -> None:
        """Give the asker what has arrived and what has happened."""
        ...

    def wait(self, asker: Asker, wait_s: float) -> None:
        """Wait for something, `wait_s` at most, and give it to the asker."""
        ...

    def listen(self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], object]) -> None:
        """Have the loop call `on_news` whenever there may be something to take."""
        ...

    def close(self) -> None:
        """End the connection for good."""
        ...


def connect(address: str, keys: ClientKeys | None = None) -> Connection:
    """Return a connection to a daemon, which is being made. Raises `InvalidRequest` for no address."""
    return PlainConnection(address) if keys is None else SecureConnection(address, keys)


class PlainConnection:
    """A socket to a daemon that asks for no key; one that fails is begun again after a pause."""

    secure = False

    def __init__(self, address: str) -> None:
        self.reached = False
        self._address = address
        self._stream: Stream | None = None
        self._connected = False
        self._pause_s = FIRST_PAUSE_S
        self._next_s = math.inf  # when it is begun, or given up where it is not open
        self._poll = select.poll()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_news: Callable[[], object] = lambda: None
        self._watched: tuple[socket.socket, bool] | None = None  # by the loop; also for writing
        self._timer: asyncio.TimerHandle | None = None
        try:
            address_of(address)
        except socket.gaierror:
            pass  # nobody knows the host now
        except OSError as error:
            raise InvalidRequest(f"{address!r} is not an address: {error.strerror}") from None
        self.dial()

    def send(self, frames: list[Any]) -> bool:
        """Send at once, or return False: there is no connection, or the daemon does not keep up."""
        stream = self._stream
        if stream is None or not stream.send(frames):
            return False
        if stream.is_behind:
            self._watch()
        return True

    def dial(self) -> None:
        """Make a new connection in the place of the present one."""
        self._pause_s = FIRST_PAUSE_S
        self._drop()
        self._begin()
        self._watch()

    def hang_up(self) -> None:
        """End the connection, and make none until `dial`."""
        self._drop()
        self._watch()

    def has_news(self) -> bool:
        """Say whether something arrived or ended, or the connection is still being made."""
        stream = self._stream
        return stream is None or not stream.wire.is_open or bool(self._poll.poll(0))

    def take(self, asker: Asker) -> None:
        """Give the asker what has arrived and what has happened."""
        stream = self._stream
        if stream is None:
            if time.monotonic() >= self._next_s:
                self._begin()
        elif stream.wire.is_open:
            self._take_messages(stream, asker)
        else:
            self._advance(stream, asker)
        self._watch()

    def wait(self, asker: Asker, wait_s: float) -> None:
        """Wait for something, `wait_s` at most, and give it to the asker."""
        stream = self._stream
        if stream is None or not stream.wire.is_open:
            wait_s = max(0.0, min(wait_s, self._next_s - time.monotonic()))
        if stream is None:
            time.sleep(wait_s)
        else:
            if not self._connected or stream.is_behind:
                self._poll.modify(stream.socket, select.POLLIN | select.POLLOUT)
                self._poll.poll(math.ceil(wait_s * 1e3))
                self._poll.modify(stream.socket, select.POLLIN)
            else:
                self._poll.poll(math.ceil(wait_s * 1e3))
        self.take(asker)

    def listen(self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], object]) -> None:
        """Have the loop call `on_news` whenever there may be something to take."""
        self._loop, self._on_news = loop, on_news
        self._watch()

    def close(self) -> None:
        """End the connection for good."""
        self.hang_up()

    def _take_messages(self, stream: Stream, asker: Asker) -> None:
        try:
            if stream.is_behind:
                stream.flush()
            messages = stream.receive()
        except (OSError, EOFError, Broken):
            self._fail()
            asker.on_event(zmq.EVENT_DISCONNECTED)
            return
        for message in messages:
            asker.on_message(message)

    def _advance(self, stream: Stream, asker: Asker) -> None:
        """Go on with a connection that is being made, as far as that goes."""
        try:
            if time.monotonic() >= self._next_s:
                raise TimeoutError(f"no connection within {CONNECT_S} s")
            if self._connected or self._has_connected(stream):
                stream.flush()
                stream.receive()  # a handshake; a daemon says nothing unasked
        except Mismatch:
            self._fail()
            asker.on_event(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        except (OSError, EOFError, Broken):
            self._fail()
        if self._stream is stream and stream.wire.is_open:
            self._pause_s = FIRST_PAUSE_S
            asker.on_event(zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def _has_connected(self, stream: Stream) -> bool:
        _, where = address_of(self._address)
        code = stream.socket.connect_ex(where)
        if code not in (0, errno.EISCONN, errno.EINPROGRESS, errno.EALREADY):
            self.reached = False
            raise OSError(code, "cannot connect")
        self._connected = code in (0, errno.EISCONN)
        self.reached = self.reached or self._connected
        return self._connected

    def _begin(self) -> None:
        self._next_s = time.monotonic() + CONNECT_S
        try:
            family, where = address_of(self._address)
            plain = socket.socket(family)
            tune(plain)
            self._stream = Stream(plain, b"DEALER", MAX_ANSWER_BYTES)
            self._poll.register(plain, select.POLLIN)
            code = plain.connect_ex(where)
            if code not in (0, errno.EINPROGRESS):
                self.reached = False
                raise OSError(code, "cannot connect")
        except OSError:
            self._fail()

    def _fail(self) -> None:
        """Begin again after a pause."""
        self._drop()
        self._next_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _drop(self) -> None:
        self._next_s, self._connected = math.inf, False
        stream, self._stream = self._stream, None
        if stream is None:
            return
        with suppress(KeyError):
            self._poll.unregister(stream.socket)
        self._unwatch()
        stream.close()

    def _watch(self) -> None:
        """Have the loop look at what matters now, if there is a loop."""
        loop, stream = self._loop, self._stream
        if loop is None:
            return
        watched = None
        if stream is not None:
            watched = stream.socket, not self._connected or stream.is_behind
        if watched != self._watched:
            self._unwatch()
            self._watched = watched
            if watched is not None:
                loop.add_reader(watched[0], self._on_news)
                if watched[1]:
                    loop.add_writer(watched[0], self._on_news)
        is_open = stream is not None and stream.wire.is_open
        if self._timer is not None and (is_open or self._timer.when() != self._next_s):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and not is_open and self._next_s < math.inf:
            self._timer = loop.call_at(self._next_s, self._on_news)

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, None
        if self._loop is not None and watched is not None:
            self._loop.remove_reader(watched[0])
            self._loop.remove_writer(watched[0])


class SecureConnection:
    """libzmq's DEALER with keys, and the monitor that tells what becomes of its connection."""

    secure = True
    reached = False  # libzmq does not say

    def __init__(self, address: str, keys: ClientKeys) -> None:
        self._address = address
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_news: Callable[[], object] = lambda: None
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = context.socket(zmq.DEALER)
        options = {
            zmq.LINGER: 0,
            zmq.IMMEDIATE: 1,
            zmq.SNDHWM: 256,
            zmq.RCVHWM: 256,
            zmq.MAXMSGSIZE: MAX_ANSWER_BYTES,
            zmq.RECONNECT_IVL: 20,
            zmq.RECONNECT_IVL_MAX: 500,
            zmq.CONNECT_TIMEOUT: 2000,
            zmq.HANDSHAKE_IVL: 2000,
            zmq.HEARTBEAT_IVL: 2000,
            zmq.HEARTBEAT_TIMEOUT: 6000,
        }
        for option, value in options.items():
            self._socket.setsockopt(option, value)
        self._socket.curve_publickey, self._socket.curve_secretkey = keys.own
        self._socket.curve_serverkey = keys.server
        # Not `get_monitor_socket`: its name is the socket's descriptor, which the system gives out again; and
        # a monitor that nobody reads for a while must not fill up, for ZeroMQ's thread would wait for it.
        events = f"inproc://adaphi-{next(_numbers)}"
        self._socket.monitor(events, EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.rcvhwm = 0
        self._monitor.connect(events)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise InvalidRequest(f"{address!r} is not an address: {error.strerror}") from None

    def send(self, frames: list[Any]) -> bool:
        """Send at once, or return False: there is no connection, or the daemon does not keep up."""
        try:
            send_now(self._socket, frames)
        except zmq.Again:
            return False
        if self._loop is not None and is_readable(self._socket):
            self._loop.call_soon(self._on_news)  # the descriptor would not say so any more
        return True

    def dial(self) -> None:
        """Make a new connection in the place of the present one."""
        self.hang_up()
        self._socket.connect(self._address)

    def hang_up(self) -> None:
        """End the connection; the socket makes no other until `dial`."""
        with suppress(zmq.ZMQError):  # refused once, ZeroMQ itself has forgotten the address
            self._socket.disconnect(self._address)

    def has_news(self) -> bool:
        """Say whether anything became of the connection."""
        return is_readable(self._monitor)

    def take(self, asker: Asker) -> None:
        """Give the asker all: messages first, for the last one on a connection that is lost still counts."""
        while (frames := _received(self._socket)) is not None:
            asker.on_message(frames)
        while (frames := _received(self._monitor)) is not None:
            is_readable(self._socket)  # so that it takes over what its thread has done
            asker.on_event(int.from_bytes(frames[0][:2], "little"))

    def wait(self, asker: Asker, wait_s: float) -> None:
        """Wait for a message or an event, `wait_s` at most, and give it to the asker."""
        if self._poller.poll(max(1, math.ceil(wait_s * 1e3))):
            self.take(asker)

    def listen(self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], object]) -> None:
        """Have the loop call `on_news` whenever there may be something to take."""
        self._loop, self._on_news = loop, on_news
        for one in (self._socket, self._monitor):
            loop.add_reader(one.FD, on_news)
        loop.call_soon(on_news)

    def close(self) -> None:
        """Close both sockets."""
        if self._socket.closed:
            return
        if self._loop is not None:
            for one in (self._socket, self._monitor):
                self._loop.remove_reader(one.FD)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close()


def _received(socket: zmq.Socket[bytes]) -> list[Any] | None:
    if socket.closed:
        return None
    try:
        return receive_now(socket)
    except zmq.Again:
        return None
