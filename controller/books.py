"""What is counted about decisions, runs and answers: in bulk, so that no request waits for its bookkeeping.

An entry costs an append; `settle` counts them all, twenty milliseconds later or as soon as somebody asks.
What is done for many in a row costs a fraction of what it costs between two requests, with cold caches.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from ..model_zoo.profile import Profile
from .history import History
from .metrics import Metrics
from .protocol import AnswerHeader
from .statistics import Tally

Entry = TypeVar("Entry")


class Books:
    """The counts of one ladder: metrics, the last minutes, and how much each variant did.

    Whoever reads any of them finds them settled.
    """

    def __init__(self, profile: Profile, metrics: Metrics) -> None:
        self._metrics = metrics
        self._history = History()
        self._tallies = [Tally() for _ in profile.variants]
        self._decisions: list[float] = []
        self._runs: list[tuple[int, int, float]] = []
        self._answers: list[AnswerHeader] = []
        metrics.before_reading(self.settle)

    @property
    def history(self) -> History:
        """Return the last minutes."""
        self.settle()
        return self._history

    @property
    def tallies(self) -> list[Tally]:
        """Return what each variant did, by φ."""
        self.settle()
        return self._tallies

    def decided(self, seconds: float) -> None:
        """Put down how long it took to schedule and decide."""
        self._decisions.append(seconds)

    def ran(self, phi: int, size: int, inference_ms: float, answers: list[AnswerHeader]) -> None:
        """Put down a run of φ for so many requests, and the answers that it gave to those still there."""
        self._runs.append((phi, size if answers else 0, inference_ms))
        self._answers += answers

    def settle(self) -> None:
        """Count what was put down."""
        metrics, tallies = self._metrics, self._tallies
        outcomes = Counter[tuple[str, int]]()
        for seconds in _taken(self._decisions):
            metrics.decision.observe(seconds)
        for phi, size, inference_ms in _taken(self._runs):
            metrics.inference_seconds.observe(inference_ms / 1e3, phi)
            if size:
                tallies[phi].add_run(size, inference_ms)
        for answer in _taken(self._answers):
            latency_s, queue_s = answer.latency_ms / 1e3, answer.queue_ms / 1e3
            tallies[answer.phi].add(latency_s, queue_s, answer.inference_ms)
            self._history.answer(late=answer.late)
            outcomes["late" if answer.late else "ok", answer.phi] += 1
            metrics.request_seconds.observe(latency_s)
            metrics.queue_seconds.observe(queue_s)
        for (outcome, phi), amount in outcomes.items():
            metrics.count(outcome, phi, amount)


def _taken(entries: list[Entry]) -> list[Entry]:
    """Empty a list and return what was in it."""
    taken = entries.copy()
    entries.clear()
    return taken
