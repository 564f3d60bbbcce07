"""Which variants to keep warm: what fits the device, and is worth its memory when budgets move.

A set of variants K is worth the quality of the best that a budget affords, averaged over budgets between the
fastest candidate's latency and the limit, all ratios alike likely:

    value(K) = ∫ max{q_k : L_k ≤ B, k ∈ K} d ln B ÷ ln(limit ÷ L_first), 0 where nothing is afforded

Of all sets that memory holds together the most valuable is taken, of equal ones the smallest; all are tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from ...errors import InputError

MOST = 12
"""Candidates; every set of them is tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant as the device is expected, or was measured, to run it."""

    name: str
    quality: float
    latency_ms: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """The places of those to be kept, in order of latency, their value, and a reason for every candidate."""

    kept: tuple[int, ...]
    value: float
    reasons: tuple[str, ...]


def worth(some: Sequence[Candidate], first_ms: float, limit_ms: float) -> float:
    """Return what a set of variants is worth for budgets from `first_ms` to `limit_ms`."""
    if limit_ms <= first_ms:
        return max((c.quality for c in some if c.latency_ms <= limit_ms), default=0.0)
    edges = sorted({first_ms, limit_ms, *(c.latency_ms for c in some if c.latency_ms < limit_ms)})
    total = 0.0
    for low, high in pairwise(edges):
        best = max((c.quality for c in some if c.latency_ms <= low), default=0.0)
        total += best * math.log(high / low)
    return total / math.log(limit_ms / first_ms)


def propose(
    candidates: Sequence[Candidate], latency_ms: float, memory_bytes: float = math.inf
) -> Proposal:
    """Return which candidates to keep; raise `InputError` where none fits, or there are more than `MOST`."""
    if len(candidates) > MOST:
        raise InputError(f"{len(candidates)} variants: expected at most {MOST} to choose from")
    reasons = [_obstacle(one, candidates, latency_ms, memory_bytes) for one in candidates]
    able = [place for place, reason in enumerate(reasons) if not reason]
    if not able:
        raise InputError(
            "no variant fits: " + "; ".join(r.removeprefix("left out: ") for r in reasons),
            help="allow more, or name a smaller one",
        )
    first_ms = min(candidates[place].latency_ms for place in able)
    sets = (some for size in range(1, len(able) + 1) for some in combinations(able, size))
    fitting = (s for s in sets if sum(candidates[k].memory_bytes for k in s) <= memory_bytes)

    def value(places: Sequence[int]) -> float:
        return worth([candidates[k] for k in places], first_ms, latency_ms)

    best = max(fitting, key=lambda some: (round(value(some), 9), -len(some)))
    for place in able:
        one = candidates[place]
        if place in best:
            less = value([k for k in best if k != place])
            reasons[place] = f"kept: {one.name} adds {value(best) - less:.3f} to the mean quality"
        else:
            reasons[place] = f"left out: {one.name} does not fit beside what is worth more"
    kept = sorted(best, key=lambda place: candidates[place].latency_ms)
    return Proposal(tuple(kept), value(best), tuple(reasons))


def _obstacle(
    one: Candidate, all_of_them: Sequence[Candidate], latency_ms: float, memory_bytes: float
) -> str:
    """Return why a candidate cannot be kept, or is not worth it beside any one other; "" if it can."""
    if one.latency_ms > latency_ms:
        return f"left out: {one.name} takes {one.latency_ms:.3g} ms, allowed are {latency_ms:g}"
    if one.memory_bytes > memory_bytes:
        return (
            f"left out: {one.name} needs {one.memory_bytes / 1e6:.0f} MB, "
            f"allowed are {memory_bytes / 1e6:.0f}"
        )
    for other in all_of_them:
        no_worse = (
            other.quality >= one.quality
            and other.latency_ms <= one.latency_ms
            and other.memory_bytes <= one.memory_bytes
        )
        if (
            no_worse
            and (other != one)
            and (other.quality, other.latency_ms) != (one.quality, one.latency_ms)
        ):
            return f"left out: {one.name} is no better than {other.name}, which costs no more"
    return ""
