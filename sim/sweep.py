"""Sweeps: every combination of a sweep's file, played once on as many processors as there are.

`planning.plan` says which cells there are; `run` plays those that the journal does not hold yet. Cells depend
on nothing but themselves, so neither where nor in which order they run changes a figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil

from .cells import Candidate, Case, Label, Task, play
from .executor import each
from .journal import Journal

Tell = Callable[[int, int, str], None]

_BLOCKS, _TOGETHER = 256, 64
"""A sweep is sent out in so many blocks, or in blocks of so many cases: few enough to lose to a kill, for a
block is kept when all of it is done, and enough to hide what sending one costs."""


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep in their order: `cases()` one after the other, in each the `candidates`.

    `over` are the labels that a summary runs over, as those of a fleet's devices; the others it keeps apart.
    """

    candidates: tuple[Candidate, ...]
    cases: Callable[[], Iterator[Case]]
    length: int
    over: tuple[str, ...]

    def __len__(self) -> int:
        return self.length * len(self.candidates)

    def rows(self, journal: Journal) -> Iterator[dict[str, Label]]:
        """Yield the row of each cell, labels first; all of them are in the journal."""
        for case in self.cases():
            for candidate in self.candidates:
                figures = journal.cells[case.cell(candidate)]
                yield {**case.labels, "policy": candidate.name, **figures}


def run(
    planned: Plan, journal: Journal, *, jobs: int = -1, ray: str | None = None, tell: Tell
) -> int:
    """Play what is not in the journal yet, and put it there; return how many cells were.

    `jobs` processes (−1: one a processor); with `ray`, on the cluster at that address (`executor.each`).
    `tell` is called with (cells done, all cells, what). What was done before an error or Ctrl-C stays.
    """
    missing = [task for case in planned.cases() if (task := _missing(case, planned, journal))[1]]
    left = sum(len(candidates) for _, candidates in missing)
    done = known = len(planned) - left
    tell(done, len(planned), "cells")
    if missing:
        blocks = _blocks(missing)
        for cells in each(play, blocks, jobs=jobs, ray=ray):
            journal.add(cells)
            done += len(cells)
            tell(done, len(planned), "cells")
    return known


def _missing(case: Case, planned: Plan, journal: Journal) -> Task:
    return case, [c for c in planned.candidates if case.cell(c) not in journal.cells]


def _blocks(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Yield tasks in blocks, the smaller the fewer there are."""
    size = min(_TOGETHER, ceil(len(tasks) / _BLOCKS))
    source = iter(tasks)
    while block := list(islice(source, size)):
        yield block
