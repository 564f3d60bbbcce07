"""What systemd wants to hear from a service (`sd_notify`): it is ready, it stops, it is still alive.

The protocol is one datagram of KEY=VALUE lines to the socket that `$NOTIFY_SOCKET` names. Where that is
unset, nothing is sent and nothing else changes.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

log = logging.getLogger("adaphi")

BEATS = 4
"""How often in systemd's watchdog time the worker is asked for a sign of life."""


class Notifier:
    """Tells the service manager what happens; `watchdog_s` is how often it wants to hear (None: never)."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path  # "@": an abstract socket
        self.watchdog_s: float | None = None
        if self._address and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            with suppress(KeyError, ValueError):
                self.watchdog_s = int(environ["WATCHDOG_USEC"]) / 1e6 or None

    def tell(self, **state: str | int) -> None:
        """Send `state`; a manager that does not listen is no reason to stop serving."""
        if not self._address:
            return
        lines = "\n".join(f"{key}={value}" for key, value in state.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as s:
                s.sendto(lines.encode(), self._address)
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", lines, error)


class Watchdog:
    """Feeds the manager's watchdog only while the loop that calls `beat` turns and the worker answers.

    `ask` sends the worker a question; whatever comes back from it is to be passed on as `heard`. A worker
    in a long run or in a start answers later, so the watchdog's time has to cover both.
    """

    def __init__(self, notifier: Notifier, ask: Callable[[], object]) -> None:
        self._notifier = notifier
        self._ask = ask
        self._next_s = 0.0
        self._heard = False

    def heard(self) -> None:
        """Note a sign of life from the worker."""
        self._heard = True

    def beat(self, now_s: float) -> None:
        """Feed the watchdog if the worker was heard since the last beat, and ask it again."""
        if self._notifier.watchdog_s is None or now_s < self._next_s:
            return
        self._next_s = now_s + self._notifier.watchdog_s / BEATS
        if self._heard:
            self._notifier.tell(WATCHDOG=1)
        self._heard = False
        self._ask()
