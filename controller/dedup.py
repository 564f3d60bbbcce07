"""One answer for each request, however often it is sent: what is under way, and what was answered lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .routers import Peer

Key: TypeAlias = tuple[str, int]
"""A request's identity: the client's session and the number of the request in it."""


@dataclass(slots=True, eq=False)
class Asked:
    """A request under way; `client` is where its answer goes, None as `key`: it is never repeated."""

    key: Key | None
    client: Peer


class Ledger:
    """Knows the requests that may come again.

    Answers are remembered for `keep_s` seconds, the newest `max_answers` of at most `max_bytes` together. A
    request that comes again after that runs again, and its answer is as right as the first.
    """

    def __init__(
        self,
        *,
        keep_s: float = 30.0,
        max_answers: int = 4096,
        max_bytes: int = 16_000_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bytes = 0
        self._keep_s, self._max_answers, self._max_bytes = keep_s, max_answers, max_bytes
        self._now = now
        self._asked: dict[Key, Asked] = {}
        self._answers: dict[Key, list[Any]] = {}
        self._kept = deque[tuple[float, int, Key]]()  # when, and how many bytes; oldest first

    def __len__(self) -> int:
        return len(self._answers)

    def join(self, key: Key, client: Peer) -> bool:
        """Let the answer of a request under way go to `client`; return False if it is not under way."""
        asked = self._asked.get(key)
        if asked is not None:
            asked.client = client
        return asked is not None

    def recall(self, key: Key) -> list[Any] | None:
        """Return the frames that answered a request, None if they are not remembered."""
        if key not in self._answers:
            return None
        self._drop(self._now())
        return self._answers.get(key)

    def begin(self, key: Key | None, client: Peer) -> Asked:
        """Note that a request is under way."""
        asked = Asked(key, client)
        if key is not None:
            self._asked[key] = asked
        return asked

    def end(self, asked: Asked, answer: list[Any] | None = None) -> None:
        """Note that a request is answered; with `answer`, remember its frames."""
        key = asked.key
        if key is None:
            return
        del self._asked[key]
        if answer is None or (size := sum(map(len, answer))) > self._max_bytes:
            return
        now_s = self._now()
        self._drop(now_s, size, 1)
        self._answers[key] = answer
        self._kept.append((now_s, size, key))
        self.bytes += size

    def _drop(self, now_s: float, size: int = 0, count: int = 0) -> None:
        """Forget what is too old, and the oldest until so much more fits."""
        kept, oldest_s = self._kept, now_s - self._keep_s
        most, most_bytes = self._max_answers - count, self._max_bytes - size
        while kept and (kept[0][0] < oldest_s or len(kept) > most or self.bytes > most_bytes):
            _, its_size, key = kept.popleft()
            del self._answers[key]
            self.bytes -= its_size
