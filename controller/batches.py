"""When it pays to answer several requests with one run: figures from a profile, pure.

A batch makes its first request wait for the others' work, so it has to save much: it pays where it takes at
most `WORTH` of as many single runs, both by the profile's typical latencies. Sizes that the profile does not
know are never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..model_zoo.profile import Costs

WORTH = 0.75
"""What a batch may take at most, as a share of what its requests would take one by one."""


class Batches:
    """The batches of each variant that pay, and what they take.

    `typical_ms` (M,) is what a single run mostly takes, `batch_ms` (M,) what batches do, by their sizes;
    nothing at all: no batches.
    """

    def __init__(
        self,
        costs: Costs,
        typical_ms: Sequence[float],
        batch_ms: Sequence[Mapping[int, float]] = (),
    ) -> None:
        self._typical_ms = typical_ms
        self._stall_ms: list[list[float]] = costs.stall_ms.tolist()
        self._caution: list[float] = (costs.latency_ms / typical_ms).tolist()
        self.paying: list[dict[int, float]] = [
            {size: ms for size, ms in _best_first(known) if ms <= WORTH * size * single_ms}
            for known, single_ms in zip(batch_ms or [{}] * len(costs), typical_ms, strict=True)
        ]
        """By φ: what each size that pays mostly takes (ms); first the one that costs each request least."""
        shares = [ms / size for known in self.paying for size, ms in known.items()]
        self.least_ms = min([*typical_ms, *shares])
        """The least that one request can cost."""

    def takes_ms(self, phi: int, size: int) -> float:
        """Return what a run of `phi` for `size` requests mostly takes."""
        return self._typical_ms[phi] if size == 1 else self.paying[phi][size]

    def need_ms(self, previous: int, phi: int, size: int) -> float:
        """Return what to plan with: as cautious as the policy is with single runs, and with the stall."""
        return self.paying[phi][size] * self._caution[phi] + self._stall_ms[previous][phi]


def _best_first(batch_ms: Mapping[int, float]) -> list[tuple[int, float]]:
    return sorted(batch_ms.items(), key=lambda known: (known[1] / known[0], -known[0]))
