"""The experiment of `transfer`: real trainings on a few samples of each class, of which every figure is made.

The variants of the default ladder are probed and fine-tuned on small tasks, with inputs whose sides grow with
φ as the ladder's own do.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingExtraError
from ..images import as_image
from ..ladders import DEFAULT, get_ladder
from ..timm_import import import_timm
from .transfer import Key, TransferCell

if TYPE_CHECKING:
    import torch

SIDE = 64
"""Pixels of the input's side for φ = 0: a twelfth of the operations of its own 224."""
PER_CLASS = (1, 2, 4, 8)
SEEDS = 7
EPOCHS = 6
LEAST_STEPS = 48
"""With fewer, fine-tuning is cut short where samples are few, and the law then seems wrong."""
BATCH = 16
LEARNING_RATE = 1e-3
MOST_DIGITS = 500
VARIANTS = get_ladder(DEFAULT).variants

Split = tuple[NDArray[np.int64], NDArray[np.int64]]


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
        trained = [train(task, phi, task.split(per_class, seed), seed) for seed in range(SEEDS)]
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
