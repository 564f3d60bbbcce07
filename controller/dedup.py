"""One answer for each request, however often it is sent: what is under way, and what was answered lately."""

from __future__ import annotations

import time
from collections import OrderedDict
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
        # Oldest first. A plain dict would look through all that were ever dropped to find its first.
        self._answers: OrderedDict[Key, tuple[float, int, list[Any]]] = OrderedDict()

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
        found = self._answers.get(key)
        if found is None or found[0] < self._now() - self._keep_s:
            return None
        return found[2]

    def begin(self, key: Key | None, client: Peer) -> Asked:
        """Note that a request is under way."""
        asked = Asked(key, client)
        if key is not None:
            self._asked[key] = asked
        return asked

    def end(self, asked: Asked, answer: list[Any] | None = None) -> None:
        """Note that a request is answered; with `answer`, remember its frames."""
        if asked.key is None:
            return
        del self._asked[asked.key]
        if answer is not None:
            now_s, size = self._now(), sum(map(len, answer))
            self._answers[asked.key] = (now_s, size, answer)
            self.bytes += size
            self._drop_old(now_s - self._keep_s)

    def _drop_old(self, oldest_s: float) -> None:
        answers = self._answers
        while answers:
            at_s, size, _ = answers[next(iter(answers))]
            within = len(answers) <= self._max_answers and self.bytes <= self._max_bytes
            if within and at_s >= oldest_s:
                return
            answers.popitem(last=False)
            self.bytes -= size
