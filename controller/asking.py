"""Asking a daemon until there is an answer, an error, or no time left. No sockets and no waiting here.

Both clients drive one `Asker` with what arrives and with the time, so that they retry alike:

- An error that passes (`RequestError.retries`) is followed by another attempt after a growing, jittered
  pause; while the daemon says that it is not ready, not before it is.
- A new connection begins with a hello that names what was asked on the last one. What the daemon still
  works on stays there, and its answer comes here; anything else is asked again. A hello is also sent where
  nothing was heard for `PROBE_S`, and a connection that stays silent for `SILENT_S` is replaced.
- Each attempt carries the request's identity, so that the daemon answers it once, and the time left. There
  are at most 1 + `retries` of them, and none begins after the deadline.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, TypeAlias

import zmq

from ..errors import Busy, NoAnswer, NotAllowed, ProtocolError, RequestError, from_code
from . import protocol
from .protocol import Answer, AnswerHeader, ErrorHeader, HelloHeader, OkHeader

PAUSE_S = 0.02
"""The pause before the first retry; each later one is twice as long, give or take a half."""
PROBE_S = 0.2
"""A daemon that was not heard for so long is greeted, while something is asked of it."""
SILENT_S = 1.0
"""A connection on which nothing was heard for so long, greetings notwithstanding, is replaced."""
CUT_HANDSHAKES = 3
"""So many encrypted handshakes in a row that just end mean that the keys do not fit."""

Result: TypeAlias = Answer | OkHeader | Exception

EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)
"""What an `Asker` wants to know of its socket's monitor."""


@dataclass(slots=True, eq=False)
class Call:
    """One request, and how far it is. Times in seconds of the monotonic clock.

    `frames(left_ms)` is its message; no attempt begins after `deadline_s`, and after `until_s` no answer is
    waited for. `told` is called once, when there is a `result`: an answer or an error.
    """

    id: int
    frames: Callable[[float], list[Any]]
    began_s: float
    deadline_s: float
    until_s: float
    told: Callable[[], object] = lambda: None
    result: Result | None = None
    attempts: int = 0
    asked: bool = False  # the last attempt may still be answered
    due_s: float = 0.0
    error: RequestError | None = None  # what the last attempt heard
    handed_s: float = 0.0  # when it was formed, and could first be sent


class Line(Protocol):
    """What an `Asker` talks through; nothing here waits. With `secure` the daemon's key is known.

    `reached` says whether somebody listens at the address, daemon or not.
    """

    secure: bool
    reached: bool

    def send(self, frames: list[Any]) -> bool:
        """Send at once, or return False."""
        ...

    def dial(self) -> None:
        """Make a new connection in the place of the present one."""
        ...

    def hang_up(self) -> None:
        """End the connection, and make none until `dial`."""
        ...


class Asker:
    """The state of one client: its calls, and what it knows of the daemon and of the connection."""

    def __init__(
        self,
        address: str,
        session: str,
        retries: int,
        line: Line,
        *,
        now: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.ids = count(1)
        self.max_message_bytes: int | None = None  # what the daemon takes, once it was asked
        self._address, self._session, self._retries = address, session, retries
        self._line, self._now, self._draw = line, now, draw
        self._calls: dict[int, Call] = {}
        self._connected = self._refused = False
        self._ready = True  # until the daemon says otherwise
        self._lost_s: float | None = None
        self._heard_s = self._probed_s = self._next_s = -math.inf
        self._probe = 0
        self._probed: dict[int, int] = {}  # the attempts of each call that the last hello named
        self._cut = 0

    # ---------------------------------------------------------------------------- what the client does

    def ask(self, call: Call) -> None:
        """Begin a call: it is sent now, or as soon as there is a connection."""
        now_s = self._now()
        if not self._calls:
            self._heard_s = now_s
        if self._refused:
            self._redial(now_s)
        call.handed_s = now_s
        self._calls[call.id] = call
        self._next_s = min(self._next_s, call.deadline_s, now_s + PROBE_S)
        self._attempt(call, now_s)

    def forget(self, id: int) -> None:
        """Drop a call that nobody waits for any more."""
        self._calls.pop(id, None)

    def end(self, error: Exception) -> None:
        """Give every call this error."""
        for call in list(self._calls.values()):
            self._finish(call, error)

    def tick(self) -> float:
        """Do what is due by now; return after how many seconds to come again, at the latest."""
        now_s = self._now()
        if now_s >= self._next_s:
            for call in list(self._calls.values()):
                self._look_at(call, now_s)
            self._look_after_connection(now_s)
            times = [now_s + PROBE_S]
            for call in self._calls.values():
                times += [call.until_s, call.deadline_s, call.due_s]
            self._next_s = min(t for t in times if t > now_s) if self._calls else math.inf
        return self._next_s - now_s

    def on_message(self, frames: list[Any]) -> None:
        """Take what the daemon sent."""
        about, what = read(frames)
        now_s = self._now()
        self._heard_s = now_s
        if isinstance(what, OkHeader) and about == self._probe:
            self._on_probe_answered(what, now_s)
            return
        if about is None and len(self._calls) == 1:
            about = next(iter(self._calls))  # it cannot be about anything else
        call = self._calls.get(about) if about is not None else None
        if call is None:
            return  # given up, or answered already
        if isinstance(what, OkHeader):
            self.max_message_bytes = what.max_message_bytes
        if isinstance(what, RequestError) and what.retries:
            self._ready = self._ready and isinstance(what, Busy)
            self._again(call, what, now_s)
        else:
            self._finish(call, what)

    def on_event(self, event: int) -> None:
        """Take what became of the connection: one of `EVENTS`."""
        now_s = self._now()
        self._next_s = now_s
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            known, self._connected, self._refused, self._cut = self._connected, True, False, 0
            if known:
                return  # something was sent on it before the event came
            self._ready, self._heard_s = True, now_s
            if any(call.asked for call in self._calls.values()):
                self._greet(now_s)
        elif event == zmq.EVENT_DISCONNECTED:
            if self._connected:
                self._lost_s = now_s
            self._connected = False
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refuse(
                "the daemon does not know this client's key", "have it added to client_keys"
            )
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._refuse(*_MISMATCH[self._line.secure])
        elif self._line.secure:
            self._cut += 1
            if self._cut >= CUT_HANDSHAKES:
                self._refuse("the daemon's key is another, or it uses none", "check server_key")

    # ---------------------------------------------------------------------------- calls

    def _attempt(self, call: Call, now_s: float) -> None:
        held = call.attempts and not self._ready
        if not held and self._line.send(call.frames((call.deadline_s - now_s) * 1e3)):
            call.asked = self._connected = True
            call.attempts += 1

    def _look_at(self, call: Call, now_s: float) -> None:
        hopeless = now_s >= call.deadline_s and not (call.asked and self._connected)
        if hopeless or now_s >= call.until_s:
            self._finish(call, call.error or self._no_answer(call, now_s))
        elif not call.asked and now_s >= call.due_s:
            self._attempt(call, now_s)

    def _again(self, call: Call, error: RequestError | None, now_s: float) -> None:
        """Let a call be asked once more, if that is allowed: after `error`, or because it was lost."""
        limit = self._retries if error is None else min(self._retries, error.retries)
        growth = 2.0 ** (call.attempts - 1) * (0.5 + self._draw())
        call.asked, call.error = False, error or call.error
        call.due_s = now_s if error is None else now_s + PAUSE_S * growth
        if call.attempts > limit or call.due_s >= call.deadline_s:
            self._finish(call, error or self._no_answer(call, now_s))
        self._next_s = min(self._next_s, call.due_s)

    def _finish(self, call: Call, what: Result) -> None:
        if self._calls.pop(call.id, None) is not None:
            call.result = what
            call.told()

    def _no_answer(self, call: Call, now_s: float) -> NoAnswer:
        if self._lost_s is not None and (self._lost_s >= call.began_s or not self._connected):
            seen = f"the connection was lost {now_s - self._lost_s:.1f} s ago"
        elif self._connected:
            seen = "connected, but nothing comes"
        elif call.deadline_s <= call.handed_s:
            seen = "the deadline left no time"
        elif self._line.reached:
            seen = "somebody listens there who says nothing as a daemon does: it hangs, or is none"
        else:
            seen = "nothing listens there"
        attempts = f"{call.attempts} attempt{'s' * (call.attempts != 1)}"
        return NoAnswer(
            f"no answer from {self._address} within {now_s - call.began_s:.2f} s: {seen}; {attempts}",
            help="start a daemon with `adaphi serve`, or check the address",
        )

    # ---------------------------------------------------------------------------- the connection

    def _look_after_connection(self, now_s: float) -> None:
        """Greet a daemon that was not heard for a while, and replace a connection that stays silent."""
        if not self._connected or not any(call.attempts for call in self._calls.values()):
            return
        if now_s - self._heard_s >= SILENT_S:
            self._lost_s = now_s
            self._redial(now_s)
        elif now_s - max(self._heard_s, self._probed_s) >= PROBE_S:
            self._greet(now_s)

    def _greet(self, now_s: float) -> None:
        self._probe, self._probed_s = next(self.ids), now_s
        self._probed = {call.id: call.attempts for call in self._calls.values() if call.asked}
        header = HelloHeader(self._probe, self._session, tuple(self._probed))
        self._line.send(protocol.encode(protocol.HELLO, header))

    def _on_probe_answered(self, ok: OkHeader, now_s: float) -> None:
        self._ready, self.max_message_bytes = ok.ready, ok.max_message_bytes
        for id, attempts in self._probed.items():
            call = self._calls.get(id)
            if call is None or not call.asked or call.attempts != attempts:
                continue
            if id not in ok.waiting:
                self._again(call, None, now_s)
        self._probed = {}
        self._next_s = now_s

    def _redial(self, now_s: float) -> None:
        self._connected, self._refused, self._cut, self._heard_s = False, False, 0, now_s
        self._line.dial()

    def _refuse(self, why: str, help: str) -> None:
        self._connected, self._refused = False, True
        self._line.hang_up()
        self.end(NotAllowed(f"{self._address}: {why}", help=help))


_MISMATCH = {
    False: (
        "the daemon takes only clients with a key",
        "give server_key and key_file (--server-key, --key-file)",
    ),
    True: (
        "the daemon uses no keys here",
        "leave out server_key and key_file, or check the address",
    ),
}


def read(frames: list[Any]) -> tuple[int | None, Result]:
    """Return (id, what came back); errors as the exception to raise, the id None if unreadable."""
    try:
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
        raise ProtocolError(f"the daemon sent a message of the kind {kind!r}")
    except RequestError as error:
        return None, error
