"""What other policies would have done with the requests of a recording, beside what was done.

The recording says when each request could begin, how long it had and how much slower than profiled the
device was; with it every policy is replayed as on any trace. **What is a model**, since nobody ran it:

* the time of an answer by another variant: its profiled time, as much slower as the run that was made;
* what a switch costs where the recording shows too few of its kind: the profile's stall;
* what answering takes beside the run: as much as explains how many were late;
* that requests come when they came, whatever the answers before took.

How far it goes is seen from what was done: that is scored both as it happened and as the model has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..controller.flight import OUTCOMES, Header
from ..errors import InputError
from ..model_zoo.profile import Latency, Profile
from ..policies.frame import Objective
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from .compare import Comparison, compare
from .importing import read_decisions, slowdowns, switched, to_requests
from .replay import Replay, score
from .scoring import Figures, figures

Floats = NDArray[np.float64]
LEAST_SWITCHES = 5
"""From so many switches on a recording's own stall counts, the median of them."""


@dataclass(frozen=True)
class Counterfactual:
    """A comparison on the part of a recording, made with `policy`, that nothing learned from.

    `table` is the one that learned. `happened` are the figures of the recorded answers, `modelled` the same
    decisions as the model has them. `stall_ms` (M, M) are the stalls reckoned with, `switches` (M, M) how
    many of each the recording shows, `beside_ms` what answering takes beside the run.
    """

    policy: str
    comparison: Comparison
    table: TablePolicy
    happened: Figures
    modelled: Replay
    stall_ms: Floats
    switches: NDArray[np.int64]
    beside_ms: float

    def summary(self) -> dict[str, object]:
        """Return all figures."""
        return {
            **self.comparison.summary(),
            "recorded": {
                "policy": self.policy,
                "happened": self.happened._asdict(),
                "modelled": self.modelled.summary(),
            },
            "stall_ms": self.stall_ms.tolist(),
            "switches": self.switches.tolist(),
            "beside_ms": self.beside_ms,
        }


def compare_flight(
    folder: str | Path,
    profile: Profile,
    train: list[Trace],
    *,
    objective: Objective | None = None,
) -> Counterfactual:
    """Return what every policy would have scored on a recording of the daemon.

    Tables learn from `train`; where it is empty, from the recording's first half, and the second is scored.
    Raises `InputError` where the recording is of another ladder, `TraceError` where it is too short.
    """
    objective = objective or Objective()
    header, rows = read_decisions(folder)
    if header.ladder_fingerprint != profile.ladder_fingerprint:
        raise InputError(
            f"{folder}: recorded with the variants {', '.join(header.variants)}; the profile is of "
            f"{', '.join(v.name for v in profile.variants)}",
            help="give the profile that the daemon ran with",
        )
    stall_ms, switches = recorded_stalls(header, rows, np.array(profile.stall_ms))
    real = _as_recorded(profile, header, stall_ms)
    trace = to_requests(header, rows, Path(folder).name)
    first = 0 if train else len(trace) // 2
    beside_ms = time_beside(rows[:first] if first else rows)
    left_ms = trace.budget_ms - beside_ms / slowdowns(header, rows)
    trace = Trace(trace.time_s, np.maximum(left_ms, 0.0), trace.columns, trace.name)
    scored, rows = trace[first:], rows[first:]
    learned = train or [trace[:first]]
    table = TablePolicy.solve(
        real, [t.budget_ms for t in learned], objective=objective, latency="p50"
    )
    comparison = compare(learned, scored, real, objective=objective, latency="p50", policy=table)
    decisions = rows["phi"][1:].astype(np.uint8)
    return Counterfactual(
        header.policy,
        comparison,
        table,
        _happened(rows[1:], real.costs("p50").quality, objective),
        score(scored, real.costs("p50"), objective, decisions, "recorded"),
        stall_ms,
        switches,
        beside_ms,
    )


def time_beside(rows: NDArray[np.void]) -> float:
    """Return what answering takes beside the run (ms), as far as answers were late for it.

    A recording does not tell it apart from waiting, but how many were late: it is what makes as many of the
    runs too long for what was left when they began.
    """
    spare_ms = (rows["slack_ms"] - rows["inference_ms"])[np.isfinite(rows["inference_ms"])]
    late = np.isfinite(rows["inference_ms"]) & (rows["outcome"] == OUTCOMES.index("late"))
    if not late.any():
        return 0.0
    return max(0.0, float(np.quantile(spare_ms, late.sum() / len(spare_ms))))


def recorded_stalls(
    header: Header, rows: NDArray[np.void], profiled_ms: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    """Return what switching from m to a cost in the profile's time, (M, M), and how many such switches ended.

    The median of what a run after a switch took beyond its variant's typical time; `profiled_ms` where there
    were fewer than `LEAST_SWITCHES`.
    """
    stall_ms, typical_ms = profiled_ms.copy(), np.array(header.typical_ms)
    switches = np.zeros(stall_ms.shape, np.int64)
    extra_ms = rows["inference_ms"] / slowdowns(header, rows) - typical_ms[rows["phi"]]
    ended = switched(rows) & np.isfinite(extra_ms)
    for m, a in np.ndindex(*switches.shape):
        shown = extra_ms[ended & (rows["previous"] == m) & (rows["phi"] == a)]
        switches[m, a] = len(shown)
        if len(shown) >= LEAST_SWITCHES:
            stall_ms[m, a] = max(float(np.median(shown)), 0.0)
    return stall_ms, switches


def _as_recorded(profile: Profile, header: Header, stall_ms: Floats) -> Profile:
    """Return the profile with the latencies that the recording's slow-downs are measured against."""
    variants = tuple(
        msgspec.structs.replace(v, latency_ms=Latency(p50=ms))
        for v, ms in zip(profile.variants, header.typical_ms, strict=True)
    )
    stalls = tuple(map(tuple, stall_ms.tolist()))
    return msgspec.structs.replace(profile, variants=variants, stall_ms=stalls)


def _happened(rows: NDArray[np.void], quality: Floats, objective: Objective) -> Figures:
    on_time = rows["outcome"] == 0
    gained = float(quality[rows["phi"][on_time]].sum())
    return figures(objective, len(rows), int(on_time.sum()), int(switched(rows).sum()), gained)
