"""Few labelled samples: which φ, and whether to fine-tune it or to train a linear probe on its features.

For each way of training, the error at n samples is a representation term and a generalisation gap,

    T(φ, n) = b · ρ(φ) + c(φ) / n,

ρ(φ) being the variant's error on the task that it comes from (published), which falls with φ, and c(φ) the
capacity that training uses, counted in samples. The gap is that of bounds by capacity where training errors
vanish, as they do for few samples (Mohri, Rostamizadeh and Talwalkar 2018, chapter 2, the consistent case).
There c grows with what is trained; as the number of parameters says little of what a network uses (Zhang et
al. 2017, arXiv:1611.03530), it is fitted to each variant. Fine-tuning adapts the features, so its b is the
smaller; if its c is the larger, the less capable choice wins where n is small.

Few samples bring the sum beyond what guessing has, e₀ = 1 − 1/classes, so it is bounded: the error is E with
1 / E = 1 / e₀ + 1 / T, which is T where T is small. b and c are fitted for each task and way of training to
measured errors, by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from ...errors import InputError, MissingExtraError
from .augment import reach
from .measured import Share

Mode = Literal["probe", "fine-tune"]
MODES: tuple[Mode, ...] = ("probe", "fine-tune")

DATA = Path(__file__).with_name("transfer.json")
"""What `adaphi plan transfer --full` measured."""

Key = tuple[str, Mode, int, int]


class TransferCell(msgspec.Struct, frozen=True):
    """A variant trained in one way on n samples of a task, a seed each: its errors on samples not trained on.

    `capacity` is how many parameters were trained, `representation` ρ(φ).
    """

    task: str
    classes: Annotated[int, msgspec.Meta(ge=2)]
    mode: Mode
    phi: int
    samples: Annotated[int, msgspec.Meta(gt=0)]
    capacity: Annotated[int, msgspec.Meta(gt=0)]
    representation: Share
    errors: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)]

    @property
    def key(self) -> Key:
        """Return what was measured: the task, the way, φ, and the samples of each class."""
        return self.task, self.mode, self.phi, self.samples // self.classes

    @property
    def chance(self) -> float:
        """Return the error of guessing, 1 − 1 / classes."""
        return 1 - 1 / self.classes

    @property
    def error(self) -> float:
        """Return the mean error over the seeds."""
        return sum(self.errors) / len(self.errors)


@dataclass(frozen=True, slots=True)
class TransferLaw:
    """E = 1 / (1 / e₀ + 1 / (b · ρ(φ) + c(φ) / n)), for one way of training on one task.

    `capacities` is c by φ, in samples.
    """

    b: float
    capacities: dict[int, float]

    def error(self, cell: TransferCell, samples: float | None = None) -> float:
        """Return the error of what `cell` is about, at its own number of samples or another."""
        n = cell.samples if samples is None else samples
        terms = self.b * cell.representation + self.capacities[cell.phi] / n
        return cell.chance * terms / (cell.chance + terms)

    @classmethod
    def fit(cls, cells: Sequence[TransferCell]) -> TransferLaw:
        """Return the law of least squared error, to first order, neither b nor any c below 0.

        The terms are linear in b and c (non-negative least squares, Lawson and Hanson), and each cell counts
        by what its terms change its error.
        Raises `InputError` for fewer than two numbers of samples, `MissingExtraError` without scipy.
        """
        if len({cell.samples for cell in cells}) < 2:
            raise InputError("a law of transfer needs two numbers of samples, or more")
        try:
            from scipy.optimize import nnls
        except ImportError:
            raise MissingExtraError("fits", "plan") from None
        phis = sorted({cell.phi for cell in cells})
        gaps = [[(cell.phi == phi) / cell.samples for phi in phis] for cell in cells]
        columns = np.column_stack(([cell.representation for cell in cells], gaps))
        chance = np.array([cell.chance for cell in cells])
        left = 1 - np.minimum([cell.error for cell in cells] / chance, 0.98)
        terms, slope = chance * (1 - left) / left, left**2
        (b, *capacities), _ = nnls(columns * slope[:, None], terms * slope)
        return cls(float(b), {phi: float(c) for phi, c in zip(phis, capacities, strict=True)})


Laws = dict[Mode, TransferLaw]


def fit_task(cells: Sequence[TransferCell]) -> Laws:
    """Return the law of each way of training on one task; raise as `TransferLaw.fit`."""
    return {mode: TransferLaw.fit([c for c in cells if c.mode == mode]) for mode in MODES}


def fit_tasks(cells: Sequence[TransferCell]) -> dict[str, Laws]:
    """Return the laws of each task, by its name; raise as `TransferLaw.fit`."""
    names = dict.fromkeys(cell.task for cell in cells)
    return {name: fit_task([cell for cell in cells if cell.task == name]) for name in names}


def choose(laws: Laws, cells: Sequence[TransferCell], samples: float) -> TransferCell:
    """Return the cell whose variant and way the laws expect the least error of at so many samples."""
    return min(cells, key=lambda cell: laws[cell.mode].error(cell, samples))


@dataclass(frozen=True)
class Way:
    """Probe or fine-tuning for one φ at n samples: what was predicted, and what was measured.

    `harm` is the error of fine-tuning less that of the probe, `reach` half of its 95 % interval, by Student's
    t, as both were trained on the same samples, a seed each (a paired t-test).
    """

    phi: int
    predicted: Mode
    harm: float
    reach: float

    @classmethod
    def of(cls, laws: Laws, probe: TransferCell, tuned: TransferCell) -> Way:
        """Return what `laws` say of two cells that differ in the way alone."""
        predicted = choose(laws, (probe, tuned), probe.samples)
        return cls(probe.phi, predicted.mode, *_paired(tuned, probe))

    @property
    def right(self) -> bool:
        """Return whether the predicted way had the smaller error, however close the two were."""
        return (self.predicted == "probe") == (self.harm > 0)

    @property
    def decided(self) -> bool:
        """Return whether the measured winner can be told from chance: the interval has not 0 within."""
        return abs(self.harm) > self.reach


@dataclass(frozen=True)
class Choice:
    """What was predicted for a task at n samples by laws that had not seen that n, and what was measured."""

    task: str
    samples: int
    predicted: TransferCell
    best: TransferCell
    ways: tuple[Way, ...]
    """One for each φ."""

    @property
    def loss(self) -> float:
        """Return the measured error of the predicted choice less that of the best."""
        return self.predicted.error - self.best.error

    @property
    def near_best(self) -> bool:
        """Return whether the predicted choice is the best, or cannot be told from it by chance."""
        harm, reach = _paired(self.predicted, self.best)
        return harm <= reach


@dataclass(frozen=True, slots=True)
class Score:
    """How often the better of probe and fine-tuning was predicted, of so many ways."""

    ways: int
    right: int
    decided: int
    right_of_decided: int

    @classmethod
    def of(cls, ways: Sequence[Way]) -> Score:
        """Return the counts of some ways."""
        decided = [way for way in ways if way.decided]
        return cls(
            len(ways), sum(w.right for w in ways), len(decided), sum(w.right for w in decided)
        )

    @property
    def not_wrong(self) -> int:
        """Return how many were right or undecided: those that the measurement does not refute."""
        return self.ways - self.decided + self.right_of_decided


def cross_validate(cells: Sequence[TransferCell]) -> list[Choice]:
    """Predict, for each task, each number of samples from the others.

    Raises `InputError` where a task has fewer than three numbers of samples, or not both ways everywhere with
    the same number of seeds, `MissingExtraError` without scipy.
    """
    choices = []
    for task in dict.fromkeys(cell.task for cell in cells):
        mine = [cell for cell in cells if cell.task == task]
        phis = sorted({cell.phi for cell in mine})
        for n in sorted({cell.samples for cell in mine}):
            here = {(cell.mode, cell.phi): cell for cell in mine if cell.samples == n}
            _check_whole(f"task {task}, {n} samples", list(here.values()), len(MODES) * len(phis))
            laws = fit_task([cell for cell in mine if cell.samples != n])
            ways = tuple(Way.of(laws, here["probe", p], here["fine-tune", p]) for p in phis)
            best = min(here.values(), key=lambda cell: cell.error)
            choices.append(Choice(task, n, choose(laws, list(here.values()), n), best, ways))
    return choices


def _check_whole(where: str, cells: Sequence[TransferCell], choices: int) -> None:
    if len(cells) != choices:
        raise InputError(f"{where}: not all choices were measured", help="go on with --full")
    if len({len(cell.errors) for cell in cells}) > 1:
        raise InputError(f"{where}: some choices have more seeds", help="measure them anew")


def _paired(one: TransferCell, other: TransferCell) -> tuple[float, float]:
    """Return by how much `one` errs more, seed by seed, and half of the 95 % interval of that."""
    more = np.subtract(one.errors, other.errors)
    if len(more) < 2:
        return float(more.mean()), math.inf
    return float(more.mean()), reach(float(more.std(ddof=1)) / math.sqrt(len(more)), len(more))


def always(ways: Sequence[Way], mode: Mode) -> list[Way]:
    """Return what would have been predicted by someone who says the same everywhere."""
    return [replace(way, predicted=mode) for way in ways]


def loss_of_always(cells: Sequence[TransferCell], mode: Mode, phi: int) -> float:
    """Return the mean loss of choosing one way and φ whatever the task and the number of samples."""
    groups: dict[tuple[str, int], list[TransferCell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, cell.samples), []).append(cell)
    losses = [
        cell.error - min(other.error for other in group)
        for group in groups.values()
        for cell in group
        if (cell.mode, cell.phi) == (mode, phi)
    ]
    return sum(losses) / len(losses)
