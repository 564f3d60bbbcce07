"""How much each variant did since the daemon started: what the inference protocol's statistics tell."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


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

    def add_run(self, size: int, inference_ms: float) -> None:
        """Count a run for `size` requests."""
        count, sum_ns = self.runs.get(size, (0, 0))
        self.runs[size] = count + 1, sum_ns + int(inference_ms * 1e6)

    def add(self, latency_s: float, queue_s: float, inference_ms: float) -> None:
        """Count an answer: arrival to answer, of which in the queue and in the model."""
        self.done += 1
        self.total_ns += int(latency_s * 1e9)
        self.queue_ns += int(queue_s * 1e9)
        self.inference_ns += int(inference_ms * 1e6)
        self.last_ms = time.time_ns() // 1_000_000

    def add_failure(self, latency_s: float) -> None:
        """Count a run that gave no answer."""
        self.failed += 1
        self.failed_ns += int(latency_s * 1e9)
