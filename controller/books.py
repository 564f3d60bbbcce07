"""What is counted about decisions, runs and answers: in bulk, so that no request waits for its bookkeeping.

An entry costs an append; `settle` counts them all, twenty milliseconds later or as soon as somebody asks.
What is done for many in a row costs a fraction of what it costs between two requests, with cold caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter, itemgetter
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
        self._refused = metrics.turned_away
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
        self._metrics.decision.observe(_taken(self._decisions))
        refused, self._refused = self._refused, self._metrics.turned_away
        self._history.refuse(self._refused - refused)
        for phi, runs in _by_phi(self._runs, itemgetter(0)):
            self._metrics.inference_seconds.observe([ms / 1e3 for _, _, ms in runs], phi)
            self._tallies[phi].add_runs((size, ms) for _, size, ms in runs if size)
        for phi, answers in _by_phi(self._answers, attrgetter("phi")):
            late = sum(answer.late for answer in answers)
            self._metrics.count("ok", phi, len(answers) - late)
            self._metrics.count("late", phi, late)
            self._metrics.request_seconds.observe([a.latency_ms / 1e3 for a in answers])
            self._metrics.queue_seconds.observe([a.queue_ms / 1e3 for a in answers])
            self._tallies[phi].add_answers(answers)
            self._history.answer(len(answers), late)


def _by_phi(
    entries: list[Entry], phi_of: Callable[[Entry], int]
) -> Iterator[tuple[int, list[Entry]]]:
    """Empty a list and yield what was in it, variant by variant."""
    taken = _taken(entries)
    for phi in {phi_of(entry) for entry in taken}:
        yield phi, [entry for entry in taken if phi_of(entry) == phi]


def _taken(entries: list[Entry]) -> list[Entry]:
    """Empty a list and return what was in it."""
    taken = entries.copy()
    entries.clear()
    return taken
