"""What stays warm: the plan beside the usual eviction rules, on a real trace of memory and processor.

The measured profile of examples/ and one day of a cluster (`cpu_alibaba2018_day1`, `mem_alibaba2018_day1`:
one row in 10 s, the same hours). Memory headroom is scaled to a median of five shares of what the whole
ladder takes; time is constant (1.3 times what φ = 2 needs) or processor headroom scaled to three medians: 20
cells. The first half is learned from, 4000 rows of the second are scored. Without the traces
(`$ADAPHI_TRACES`) two random walks stand in, which show that everything runs and nothing else.

    python -m benchmarks resident
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adaphi.policies.trace import read_csv
from adaphi.sim import Trace
from adaphi.sim.resident import EVICTIONS, compare_resident

from .harness import Row
from .policy import trace_folder
from .problems import example_profile

MEMORY_SHARES = (0.35, 0.5, 0.65, 0.8, 1.0)
MEDIANS_MS = (25.0, 30.0, 40.0)
SCORED_ROWS = 4001


def headroom() -> tuple[np.ndarray, np.ndarray]:
    """Return the processor's and the memory's, row by row."""
    names = ("cpu_alibaba2018_day1", "mem_alibaba2018_day1")
    files = [trace_folder() / "budget" / f"{name}.csv" for name in names]
    if not all(file.exists() for file in files):
        walk = np.random.default_rng(0).normal(0, 0.1, (2, 1200)).cumsum(axis=1)
        processor, memory = np.exp(np.sin(walk))
        return processor, memory
    processor, memory = (100.0 - read_csv(file)["value"] for file in files)
    return processor, memory


def cells(quick: bool) -> Iterator[tuple[Trace, Trace]]:
    """Yield what to learn from and what to score."""
    processor, memory = headroom()
    profile = example_profile()
    whole = sum(v.memory_bytes or 0 for v in profile.variants)
    rows = np.arange(len(memory), dtype=np.float64)
    constant = np.full(len(rows), 1.3 * profile.costs().latency_ms[-1])
    times = [constant, *(processor / np.median(processor) * median for median in MEDIANS_MS)]
    for share in MEMORY_SHARES[1:2] if quick else MEMORY_SHARES:
        for budget_ms in times[1:2] if quick else times:
            space = {"memory_bytes": memory / np.median(memory) * share * whole}
            train, test = Trace(rows, budget_ms, space)[: 600 if quick else None].split()
            yield train, test[:SCORED_ROWS]


def run(quick: bool = False) -> list[Row]:
    """Return mean scores over all cells."""
    profile = example_profile()
    outcomes = [compare_resident([train], test, profile) for train, test in cells(quick)]
    names = [outcome.planner for outcome in outcomes[0]]
    mean = {n: float(np.mean([o[i].mean_score for o in outcomes])) for i, n in enumerate(names)}
    plan, bound = mean["resident"], mean["clairvoyant"]
    rows = []
    for evict in EVICTIONS:
        best = max((n for n in names if n.startswith(f"{evict}, ")), key=mean.__getitem__)
        rows.append(
            Row(f"plan, mean score, beside {evict}", plan, "score", "more", best, mean[best])
        )
    rows.append(
        Row("plan, mean score, beside the bound", plan, "score", "more", "clairvoyant", bound)
    )
    hindsight = float(np.mean([max(o.mean_score for o in some[1:-1]) for some in outcomes]))
    captured = (plan - hindsight) / (bound - hindsight)
    rows.append(Row("headroom captured over the best rule of each cell", captured, "share", "more"))
    return rows
