"""How much each variant did since the daemon started: what the inference protocol's statistics tell."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .protocol import AnswerHeader


@dataclass(slots=True)
class Tally:
    """One variant's answers: how many, and the sums of their times (ns); `last_ms` since the epoch.

    `runs` are how many runs there were, and the sum of their times (ns), by how many requests they were for.
    """

    done: int = 0
    failed: int = 0
    total_ns: int = 0
    failed_ns: int = 0
    queue_ns: int = 0
    inference_ns: int = 0
    last_ms: int = 0
    runs: dict[int, tuple[int, int]] = field(default_factory=lambda: {1: (0, 0)})

    def add_runs(self, runs: Iterable[tuple[int, float]]) -> None:
        """Count runs: for how many requests each was, and how long it took (ms)."""
        for size, inference_ms in runs:
            count, sum_ns = self.runs.get(size, (0, 0))
            self.runs[size] = count + 1, sum_ns + int(inference_ms * 1e6)

    def add_answers(self, answers: Sequence[AnswerHeader]) -> None:
        """Count answers: arrival to answer, of which in the queue and in the model."""
        self.done += len(answers)
        self.total_ns += sum(int(answer.latency_ms * 1e6) for answer in answers)
        self.queue_ns += sum(int(answer.queue_ms * 1e6) for answer in answers)
        self.inference_ns += sum(int(answer.inference_ms * 1e6) for answer in answers)
        self.last_ms = time.time_ns() // 1_000_000

    def add_failure(self, latency_s: float) -> None:
        """Count a run that gave no answer."""
        self.failed += 1
        self.failed_ns += int(latency_s * 1e9)
