"""Few labelled samples: which φ, and whether to fine-tune it or to train a linear probe on its features.

For each way of training, the error at n samples is a representation term and a generalisation gap,

    E(φ, n) = b · ρ(φ) + g · (C(φ) / n)^q,

ρ(φ) being the variant's error on the task that it comes from (published), which falls with φ, and C(φ) the
number of parameters that are trained: the classifier's alone for a probe, all of them for fine-tuning. The
form is that of bounds by capacity (Mohri, Rostamizadeh and Talwalkar 2018, chapter 3: q = 1/2; fast rates: q
= 1); measured learning curves have any q (Hestness et al. 2017, arXiv:1712.00409). Fine-tuning adapts the
features, so its b is the smaller and its gap the larger; where n is small, the less capable choice wins.

Few samples bring the sum beyond what guessing has, e₀ = 1 − 1/classes, so it is bounded: the error is e₀ · (1
− exp(−E / e₀)), which is E where E is small. b, g and q are fitted for each task and way of training to
measured errors, by least squares.

The experiment trains the variants of the default ladder on small tasks, a few samples of each class, with
inputs whose sides grow with φ as the ladder's own do.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingExtraError
from ..images import as_image
from ..ladders import DEFAULT, get_ladder
from ..timm_import import import_timm
from .measured import Share

if TYPE_CHECKING:
    import torch

Mode = Literal["probe", "fine-tune"]
MODES: tuple[Mode, ...] = ("probe", "fine-tune")

DATA = Path(__file__).with_name("transfer.json")
"""What `adaphi plan transfer --full` measured."""

SIDE = 64
"""Pixels of the input's side for φ = 0: a twelfth of the operations of its own 224."""
PER_CLASS = (1, 2, 4, 8)
PROBE_SEEDS = 10
TUNE_SEEDS = 2
EPOCHS = 6
LEAST_STEPS = 16
BATCH = 16
LEARNING_RATE = 1e-3
MOST_DIGITS = 500
VARIANTS = get_ladder(DEFAULT).variants

Floats = NDArray[np.float64]
Key = tuple[str, Mode, int, int]
Split = tuple[NDArray[np.int64], NDArray[np.int64]]


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
    """E = e₀ · (1 − exp(−(b · ρ + g · (C / n)^q) / e₀)), for one way of training on one task."""

    b: float
    g: float
    q: float

    def error(self, cell: TransferCell, samples: float | None = None) -> float:
        """Return the error of what `cell` is about, at its own number of samples or another."""
        n = cell.samples if samples is None else samples
        terms = self.b * cell.representation + self.g * math.pow(cell.capacity / n, self.q)
        return -cell.chance * math.expm1(-terms / cell.chance)

    @classmethod
    def fit(cls, cells: Sequence[TransferCell]) -> TransferLaw:
        """Return the law of least squared error, to first order, none of b, g and q below 0.

        For a given q the two terms are linear in b and g (non-negative least squares, Lawson and Hanson), and
        each cell counts by what its terms change its error; q is searched.
        Raises `InputError` for fewer than two numbers of samples, `MissingExtraError` without scipy.
        """
        if len({cell.samples for cell in cells}) < 2:
            raise InputError("a law of transfer needs two numbers of samples, or more")
        try:
            from scipy.optimize import minimize_scalar, nnls
        except ImportError:
            raise MissingExtraError("fits", "plan") from None
        rho = np.array([cell.representation for cell in cells])
        ratio = np.array([cell.capacity / cell.samples for cell in cells])
        chance = np.array([cell.chance for cell in cells])
        slope = 1 - np.minimum([cell.error for cell in cells] / chance, 0.98)
        terms, scale = -chance * np.log(slope), float(ratio.max())

        def at(q: float) -> tuple[Floats, float]:
            columns = np.stack((rho, (ratio / scale) ** q), axis=1)
            factors, left = nnls(columns * slope[:, None], terms * slope)
            return factors, float(left)

        q = float(minimize_scalar(lambda q: at(q)[1], bounds=(0.02, 2), method="bounded").x)
        b, g = at(q)[0]
        return cls(float(b), float(g) / math.pow(scale, q), q)


Laws = dict[Mode, TransferLaw]


def fit_task(cells: Sequence[TransferCell]) -> Laws:
    """Return the law of each way of training on one task; raise as `TransferLaw.fit`."""
    return {mode: TransferLaw.fit([c for c in cells if c.mode == mode]) for mode in MODES}


def choose(laws: Laws, cells: Sequence[TransferCell], samples: float) -> TransferCell:
    """Return the cell whose variant and way the laws expect the least error of at so many samples."""
    return min(cells, key=lambda cell: laws[cell.mode].error(cell, samples))


@dataclass(frozen=True)
class Choice:
    """What was predicted for a task at n samples by laws that had not seen that n, and what was measured."""

    task: str
    samples: int
    predicted: TransferCell
    best: TransferCell
    ways_right: int
    """For how many φ the better of probe and fine-tuning was predicted."""
    phis: int

    @property
    def loss(self) -> float:
        """Return the measured error of the predicted choice less that of the best."""
        return self.predicted.error - self.best.error


def cross_validate(cells: Sequence[TransferCell]) -> list[Choice]:
    """Predict, for each task, each number of samples from the others.

    Raises `InputError` where a task has fewer than three numbers of samples, or not both ways everywhere.
    """
    choices = []
    for task in dict.fromkeys(cell.task for cell in cells):
        mine = [cell for cell in cells if cell.task == task]
        phis = {cell.phi for cell in mine}
        for n in sorted({cell.samples for cell in mine}):
            here = [cell for cell in mine if cell.samples == n]
            if {(c.mode, c.phi) for c in here} != {(mode, phi) for mode in MODES for phi in phis}:
                raise InputError(
                    f"task {task}, {n} samples: not all choices were measured",
                    help="go on with --full",
                )
            laws = fit_task([cell for cell in mine if cell.samples != n])
            right = sum(_way_is_right(laws, [c for c in here if c.phi == phi], n) for phi in phis)
            best = min(here, key=lambda cell: cell.error)
            choices.append(Choice(task, n, choose(laws, here, n), best, right, len(phis)))
    return choices


def _way_is_right(laws: Laws, both: Sequence[TransferCell], samples: int) -> bool:
    return choose(laws, both, samples) is min(both, key=lambda cell: cell.error)


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


# The experiment: real trainings, of which every figure is made.
@dataclass(frozen=True)
class Task:
    """Labelled pictures: `images` are (height, width, 3) uint8, `labels` (N,) count from 0."""

    name: str
    images: tuple[NDArray[np.uint8], ...]
    labels: NDArray[np.int64]

    @property
    def classes(self) -> int:
        """Return how many classes there are."""
        return int(self.labels.max()) + 1

    def split(self, per_class: int, seed: int) -> Split:
        """Return the places of some samples of each class, drawn by `seed`, and those of all others.

        Raises `InputError` where a class has no more than those.
        """
        if np.bincount(self.labels).min() <= per_class:
            raise InputError(f"task {self.name}: a class has no more than {per_class} pictures")
        draws = np.random.default_rng(seed)
        members = [np.flatnonzero(self.labels == label) for label in range(self.classes)]
        known = np.concatenate([draws.permutation(places)[:per_class] for places in members])
        return known, np.setdiff1d(np.arange(len(self.labels)), known)


def get_task(name: str) -> Task:
    """Return the task called `digits` (scikit-learn's), or `LABELS.csv:COLUMN`.

    The latter is a table with a column `file`, whose pictures lie beside it, and the column of labels.
    Raises `InputError` where it cannot be read, `MissingExtraError` without scikit-learn.
    """
    if name == "digits":
        pictures, digits = _sklearn("datasets").load_digits(return_X_y=True)
        chosen = np.random.default_rng(0).permutation(len(digits))[:MOST_DIGITS]
        grey = np.rint(pictures[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        return Task(name, tuple(as_image(picture) for picture in grey), digits[chosen])
    table, _, column = name.rpartition(":")
    try:
        with open(table, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"task {name!r}: {error}", help="name `digits`, or LABELS.csv:COLUMN"
        ) from None
    if not rows or not {"file", column} <= set(rows[0]):
        raise InputError(f"task {name!r}: the table needs rows, and columns `file` and {column!r}")
    names, labels = np.unique([row[column] for row in rows], return_inverse=True)
    if len(names) < 2:
        raise InputError(f"task {name!r}: all pictures have the label {str(names[0])!r}")
    images = tuple(as_image(Path(table).parent / row["file"]) for row in rows)
    return Task(column, images, labels)


class Trainer:
    """Trains the default ladder's variants on tasks, by name; a call measures one cell."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._features = cache(self._features_of)
        self._pictures = cache(self._pictures_of)

    def __call__(self, key: Key) -> TransferCell:
        """Train on some samples of each class, once a seed, and return the errors on the rest.

        A seed means the same samples for every variant and both ways.
        """
        name, mode, phi, per_class = key
        task = self._tasks[name]
        train = self._probe if mode == "probe" else self._tune
        seeds = range(PROBE_SEEDS if mode == "probe" else TUNE_SEEDS)
        trained = [train(task, phi, task.split(per_class, seed), seed) for seed in seeds]
        return TransferCell(
            name,
            task.classes,
            mode,
            phi,
            per_class * task.classes,
            capacity=trained[0][0],
            representation=round(1 - VARIANTS[phi].quality, 4),
            errors=tuple(round(error, 5) for _, error in trained),
        )

    def _probe(self, task: Task, phi: int, split: Split, seed: int) -> tuple[int, float]:
        features, (known, unknown) = self._features(task.name, phi), split
        probe = _sklearn("linear_model").LogisticRegression(max_iter=1000)
        probe.fit(features[known], task.labels[known])
        error = 1 - probe.score(features[unknown], task.labels[unknown])
        return (features.shape[1] + 1) * task.classes, float(error)

    def _tune(self, task: Task, phi: int, split: Split, seed: int) -> tuple[int, float]:
        import torch
        from torch.nn.functional import cross_entropy

        pictures, labels = self._pictures(task.name, phi), torch.from_numpy(task.labels)
        known, unknown = (torch.from_numpy(places) for places in split)
        net = _network(phi, task.classes, seed)
        optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, fused=True)
        steps = max(LEAST_STEPS, EPOCHS * len(known) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        draws = torch.Generator().manual_seed(seed)
        rounds = math.ceil(steps * BATCH / len(known))
        order = torch.cat([torch.randperm(len(known), generator=draws) for _ in range(rounds)])
        # Batch norms keep ImageNet's statistics: a batch of so few samples has none worth having.
        for batch in order[: steps * BATCH].split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = cross_entropy(net(pictures[known[batch]]), labels[known[batch]])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        wrong = _outputs(net, pictures[unknown]).argmax(1) != labels[unknown]
        return _capacity(net), float(wrong.float().mean())

    def _features_of(self, name: str, phi: int) -> NDArray[np.float32]:
        return np.asarray(_outputs(_network(phi, 0), self._pictures(name, phi)).numpy())

    def _pictures_of(self, name: str, phi: int) -> torch.Tensor:
        """Return (N, 3, side, side), in the range that the variants know, squeezed to a square."""
        import torch
        from PIL import Image

        side = _side(phi)
        resized = [
            np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
            for image in self._tasks[name].images
        ]
        scaled = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 127.5 - 1
        return scaled.contiguous(memory_format=torch.channels_last)


def _network(phi: int, classes: int, seed: int = 0) -> Any:
    """Return variant φ with ImageNet's weights and a new classifier; with 0 classes it gives features."""
    import torch

    from ..backends.torch_eager import load_timm

    net: Any = load_timm(VARIANTS[phi])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net.reset_classifier(classes)
    return net.to(memory_format=torch.channels_last)


def _capacity(net: torch.nn.Module) -> int:
    return sum(int(p.numel()) for p in net.parameters())


def _side(phi: int) -> int:
    """Return the side of variant φ's input: smaller than its own by the factor that makes φ = 0's `SIDE`."""
    config = import_timm().models.get_pretrained_cfg
    smallest, own = (config(VARIANTS[v].name).input_size[1] for v in (0, phi))
    side: int = round(SIDE * own / smallest)
    return side


def _outputs(net: Any, pictures: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        batches = pictures.split(32)  # type: ignore[no-untyped-call]
        return torch.cat([net(batch) for batch in batches])


def _sklearn(module: str) -> Any:
    try:
        return import_module(f"sklearn.{module}")
    except ImportError:
        raise MissingExtraError("training on few samples", "plan") from None
