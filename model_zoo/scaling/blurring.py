"""Photographs blurred by motion, and what variants still make of them, photograph by photograph.

A camera that moves by b pixels while its shutter is open sees the mean of b neighbours along the motion: a
box kernel along a line. Half of the photographs move sideways, half up or down. Needs the extra `plan`
(scipy).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingExtraError
from ..images import as_image
from ..variants import Variant
from .classifier import Classifier, Floats
from .labels import imagenet_index, rows

Picture = NDArray[np.uint8]
Tell = Callable[[int, int, str], None]


class Seen(msgspec.Struct, frozen=True):
    """One variant at one input side: for each blur, a text with 1 for a right answer and 0 for a wrong one.

    `same` says likewise whether the answer is the one to the photograph without blur.
    """

    name: str
    phi: int
    side_px: int
    seen_px: int
    """What the photograph's shorter side becomes before the centre is cropped."""
    right: tuple[str, ...]
    same: tuple[str, ...]


class Blurred(msgspec.Struct, frozen=True):
    """What was measured: `blur_px` (K,) are pixels of photographs whose shorter side has `short_px`."""

    machine: str
    date: str
    command: str
    photographs: int
    short_px: float
    blur_px: tuple[int, ...]
    seen: tuple[Seen, ...]

    def __post_init__(self) -> None:
        """Raise ValueError where parts do not fit together."""
        steps = np.diff(self.blur_px)
        if not (len(self.blur_px) and self.blur_px[0] == 0 and (steps > 0).all()):
            raise ValueError(f"blur of {list(self.blur_px)} px; expected 0 first, then ever more")
        sizes = {(len(t), *map(len, t)) for seen in self.seen for t in (seen.right, seen.same)}
        expected = (len(self.blur_px), *[self.photographs] * len(self.blur_px))
        if sizes != {expected} or not self.short_px > 0:
            raise ValueError("a variant needs a digit for each photograph at each blur")

    @classmethod
    def load(cls, path: Path) -> Blurred:
        """Read what `save` wrote; raise `InputError`."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        except msgspec.DecodeError as error:
            raise InputError(
                f"{path}: {error}", help="measure with `adaphi plan drone --images DIR -o FILE`"
            ) from None

    def save(self, path: Path) -> None:
        """Write the measurement as JSON; raise `InputError` where that is not possible."""
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None

    @property
    def shares(self) -> NDArray[np.float64]:
        """Return the blurs (K,) as shares of the shorter side."""
        return np.asarray(self.blur_px, np.float64) / self.short_px

    def kept(self) -> NDArray[np.float64]:
        """Return which part of its answers blur leaves each variant of the ladder, at each blur, (K, M).

        Counted are answers that stay those to the photograph without blur, right or wrong.
        """
        return np.stack([bits(seen.same).mean(axis=1) for seen in self.ladder()], axis=1)

    def ladder(self) -> tuple[Seen, ...]:
        """Return the variants at the sides they were trained for, by φ."""
        first: dict[int, Seen] = {}
        for seen in self.seen:
            first.setdefault(seen.phi, seen)
        return tuple(first[phi] for phi in sorted(first))


def bits(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Return (K, n) of K texts of n digits."""
    return np.array([[digit == "1" for digit in text] for text in texts])


def blurred(picture: Picture, length_px: int, axis: int) -> Picture:
    """Return a picture (height, width, 3) that moved by `length_px` along `axis` (0 down, 1 right)."""
    try:
        from scipy.ndimage import uniform_filter1d
    except ImportError:
        raise MissingExtraError("motion blur", "plan") from None
    if length_px <= 1:
        return picture
    mean = uniform_filter1d(picture.astype(np.float32), length_px, axis=axis, mode="nearest")
    return np.asarray(np.rint(mean), np.uint8)


def measure(
    folder: Path,
    variants: Sequence[Variant],
    blur_px: Sequence[int],
    sides: Sequence[int],
    *,
    most: int,
    threads: int = 1,
    command: str = "",
    tell: Tell = lambda done, total, what: None,
) -> Blurred:
    """Return what variants make of `most` photographs, evenly taken from a folder, at each blur.

    The smallest variant is shown at `sides`, too. The folder has `labels.csv` with the columns
    `file,imagenet_index`; `blur_px` begins with 0 and ascends. Raises `InputError`.
    """
    if not blur_px or blur_px[0] != 0 or any(np.diff(blur_px) <= 0):
        raise InputError(f"blur of {list(blur_px)} px; expected 0 first, then ever more")
    labels = folder / "labels.csv"
    found = rows(labels, "file", "imagenet_index", help="a folder with pictures and labels.csv")
    step = max(1, -(-len(found) // most))
    axes = [number // 2 % 2 for number in range(0, len(found), step)]
    found = found[::step]
    truth = np.array([imagenet_index(labels, line, index) for line, (_, index) in found])
    pictures = [as_image(folder / file) for _, (file, _) in found]
    seen = []
    for variant in variants:
        classifier = Classifier(variant, threads=threads)
        others = [s for s in sides if s != classifier.side] if variant.phi == 0 else []
        for side in (classifier.side, *others):
            answers = _answers(classifier, side, pictures, axes, blur_px, tell)
            right, same = answers == truth, answers == answers[0]
            texts = (_texts(right), _texts(same))
            seen_px = classifier.preprocessing(side).resize
            seen.append(Seen(variant.name, variant.phi, side, seen_px, *texts))
    short_px = float(np.median([min(picture.shape[:2]) for picture in pictures]))
    machine = f"{platform.machine()}, {threads} thread(s)"
    today = date.today().isoformat()
    return Blurred(machine, today, command, len(pictures), short_px, tuple(blur_px), tuple(seen))


def _answers(
    classifier: Classifier,
    side: int,
    pictures: Sequence[Picture],
    axes: Sequence[int],
    blur_px: Sequence[int],
    tell: Tell,
) -> NDArray[np.int64]:
    """Return the likeliest class, (K, n)."""
    answers = np.empty((len(blur_px), len(pictures)), np.int64)
    for n, (picture, axis) in enumerate(zip(pictures, axes, strict=True)):
        for k, length in enumerate(blur_px):
            logits: Floats = classifier.logits(blurred(picture, length, axis), side)
            answers[k, n] = int(logits.argmax())
        tell(n + 1, len(pictures), f"{side} px")
    return answers


def _texts(flags: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple("".join("1" if flag else "0" for flag in row) for row in flags)
