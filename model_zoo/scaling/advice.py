"""What the laws of scaling have to say of a task, each a line, for `adaphi plan ladder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .compound import PUBLISHED
from .drone import MEASURED


@dataclass(frozen=True, slots=True)
class Task:
    """The kept variants' inputs (`seen_px`: of a picture's shorter side), latency and limit; and the job.

    `blur_share` is the motion blur as a share of the shorter side; `cues` is what alone tells the pictures
    apart: shape, texture or "". With `training` the variants are still to be trained,
    on so many labelled `samples` of each class where that is not 0.
    """

    seen_px: Sequence[float]
    slowest_ms: float
    latency_ms: float
    blur_share: float = 0.0
    cues: str = ""
    training: bool = False
    samples: int = 0


def advice(task: Task) -> list[str]:
    """Return a line from each law that has something to say."""
    return [line for law in LAWS if (line := law(task))]


def left_by_blur(seen_px: float, blur_share: float) -> float:
    """Return the share of its quality that a variant keeps: |sinc| of the law in `drone`, as fitted."""
    return float(MEASURED.law.transfer(seen_px, blur_share))


def _motion_blur(task: Task) -> str:
    if not task.blur_share:
        return ""
    left = ", ".join(
        f"{left_by_blur(px, task.blur_share):.1%} at {px:.0f} px" for px in task.seen_px
    )
    return f"this blur leaves {left} of what is right without it (adaphi plan drone)"


def _texture_or_shape(task: Task) -> str:
    if task.cues == "texture":
        return "texture needs pixels: the same network goes by shape at 128 px twice as often as at 288 px"
    if task.cues == "shape":
        return (
            "a larger φ does not go more by shape, fewer pixels do (shape bias 0.46 at 128 px, 0.19 at 288), "
            "and then fewer pictures are named at all (adaphi plan bias)"
        )
    return ""


def _augmentation(task: Task) -> str:
    if not task.training or len(task.seen_px) < 2:
        return ""
    return (
        "augment all of them alike: 22 times the weights wanted 1.3 times the strength "
        "(adaphi plan augment)"
    )


def _few_samples(task: Task) -> str:
    if not task.samples:
        return ""
    if task.samples >= 8:
        return "fine-tuning was always best, of 8 samples a class (adaphi plan transfer)"
    return (
        "fine-tune, or try a linear probe too: of up to 4 samples a class it kept up where textures tell "
        "the classes apart (adaphi plan transfer)"
    )


def _room(task: Task) -> str:
    times = task.latency_ms / task.slowest_ms
    if times < PUBLISHED.operations(1) or task.blur_share:
        return ""  # under blur larger may be worse
    return (
        f"the limit is {times:.1f} times what the slowest kept takes: there is room for a larger φ, "
        "by a rule that suits the device (adaphi plan search)"
    )


LAWS: tuple[Callable[[Task], str], ...] = (
    _motion_blur,
    _texture_or_shape,
    _augmentation,
    _few_samples,
    _room,
)
"""One for each law: a line, or "" where it has nothing to say of this task."""
