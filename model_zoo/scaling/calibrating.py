"""This machine's roofline, measured: synthetic layers are timed, and each kind's rates fitted to them.

No network takes part in the fit, so that a network's latency is then a prediction. Of every sample, eight
equal layers in a row, the lowest of many runs counts, and samples take turns, so that what else the machine
does falls on all alike; so do whole networks that plans are to be anchored at. The clock of one thread is its
processor time, which equals the wall clock on an idle core and leaves out that others ran meanwhile on a
shared one. Several threads wait for each other, so theirs is the wall clock, and the machine is to be left
alone meanwhile.

What comes in between, where unlike operators follow each other (Python, cold caches), shows in
single blocks of several kinds, and is taken to be the same for each operator.

Per kind, t = max(f·x₀, b·x₁) + x₂ is fitted with x ≥ 0 by least squares on relative errors. Given which of
the two binds in each sample this is linear (scipy's `nnls`); which does is then asked again, until it stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import nn

from ...errors import InputError, MissingExtraError
from ..allocator import tune_allocator
from ..profiling import device_name
from ..timm_import import import_timm
from .counting import count, input_shape
from .hardware import FLOAT_BYTES, KINDS, Device, Kind, Rate, Work, predict

Progress = Callable[[int, int, str], None]

CHAIN = 8
"""Layers of a sample, each fed by the one before."""
TURN_S = 0.2
"""A whole network's turn in each round: as it is spread like those of layers, no busy second spoils it."""
FASTEST = 1e-18
"""Seconds an operation or a byte where the fit finds none: it never binds."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A synthetic layer that maps `shape` (batch first) onto itself; of no kind if it is of several."""

    kind: Kind | None
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


class _Call(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _convolution(width: int, side: int, kernel: int, group: int | None = None) -> Layer:
    groups = 1 if group is None else width // group

    def build() -> nn.Module:
        return nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=groups, bias=False)

    return Layer("dense" if groups == 1 else "grouped", build, (1, width, side, side))


def _expansion(width: int, side: int) -> Layer:
    def build() -> nn.Module:
        wide = nn.Conv2d(width, 6 * width, 1, bias=False)
        return nn.Sequential(wide, nn.Conv2d(6 * width, width, 1, bias=False))

    return Layer("dense", build, (1, width, side, side))


def _linear(width: int, tokens: int) -> Layer:
    return Layer("dense", lambda: nn.Linear(width, width), (1, tokens, width))


def _elementwise(kind: Kind, function: Callable[[torch.Tensor], torch.Tensor]) -> list[Layer]:
    return [Layer(kind, lambda: _Call(function), (1, *shape)) for shape in _MAPS]


def _batch_norm(shape: tuple[int, int, int]) -> Layer:
    return Layer("normalising", lambda: nn.BatchNorm2d(shape[0]), (1, *shape))


def _layer_norm(width: int, tokens: int) -> Layer:
    return Layer("normalising", lambda: nn.LayerNorm(width), (1, tokens, width))


def _pooling(width: int, side: int) -> Layer:
    return Layer("pooling", lambda: nn.MaxPool2d(3, stride=1, padding=1), (1, width, side, side))


def _inverted(width: int, side: int, kernel: int) -> Layer:
    def build() -> nn.Module:
        import_timm()
        from timm.models._efficientnet_blocks import InvertedResidual

        block: nn.Module = InvertedResidual(width, width, dw_kernel_size=kernel, exp_ratio=6.0)
        return block

    return Layer(None, build, (1, width, side, side))


def _bottleneck(width: int, side: int) -> Layer:
    def build() -> nn.Module:
        import_timm()
        from timm.models.resnet import Bottleneck

        block: nn.Module = Bottleneck(width, width // 4)
        return block

    return Layer(None, build, (1, width, side, side))


_MAPS = ((32, 112, 112), (96, 56, 56), (240, 28, 28), (480, 14, 14), (1152, 7, 7), (64, 1, 1))
_POINTS = (
    (16, 112),
    (24, 56),
    (40, 28),
    (64, 56),
    (80, 28),
    (112, 14),
    (128, 28),
    (192, 14),
    (256, 14),
)
_DEEP_POINTS = ((320, 7), (512, 7), (1024, 7))
_EXPANSIONS = ((16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (192, 7))
_SQUARES = ((32, 56), (64, 56), (64, 28), (128, 28), (128, 14), (256, 14), (512, 7))
_DEPTHWISE = (
    *((32, 112, 3), (96, 56, 3), (144, 56, 5), (240, 28, 3), (240, 28, 5), (480, 14, 3)),
    *((672, 14, 5), (1152, 7, 3), (1152, 7, 5), (384, 14, 7), (96, 56, 7)),
)
_GROUPED = ((64, 56, 16), (128, 28, 16), (288, 14, 16), (672, 7, 16), (256, 28, 8))
_INVERTED = ((16, 56, 3), (24, 56, 3), (40, 28, 5), (80, 14, 3), (112, 14, 5), (192, 7, 5))
_LINEAR = ((192, 197), (384, 197), (768, 50), (1000, 1), (256, 49))

LAYERS: tuple[Layer, ...] = (
    *(_convolution(width, side, 1) for width, side in (*_POINTS, *_DEEP_POINTS)),
    *(_expansion(width, side) for width, side in _EXPANSIONS),
    *(_convolution(width, side, 3) for width, side in _SQUARES),
    *(_linear(width, tokens) for width, tokens in _LINEAR),
    *(_convolution(width, side, kernel, group=1) for width, side, kernel in _DEPTHWISE),
    *(_convolution(width, side, 3, group) for width, side, group in _GROUPED),
    *_elementwise("exponential", nn.functional.silu),
    *_elementwise("exponential", torch.sigmoid),
    *_elementwise("exponential", nn.functional.gelu),
    *_elementwise("pointwise", torch.relu),
    *_elementwise("pointwise", nn.functional.hardswish),
    *_elementwise("pointwise", lambda x: x + x),
    *_elementwise("pointwise", lambda x: x * x.mean((2, 3), keepdim=True)),
    *map(_batch_norm, _MAPS),
    *(_pooling(width, side) for width, side in ((64, 112), (64, 56), (128, 28), (256, 14))),
    *(_inverted(width, side, kernel) for width, side, kernel in _INVERTED),
    *(_bottleneck(width, side) for width, side in ((256, 56), (512, 28), (1024, 14))),
    *(_layer_norm(width, tokens) for width, tokens in ((192, 197), (384, 197), (64, 3136))),
)
"""What is timed: the shapes of image networks at 224 pixels, from their first layer to their last."""


@dataclass(slots=True)
class Sample:
    """Operators, of one kind or of several, and what they took together (s, the lowest of all runs)."""

    kind: Kind | None
    works: tuple[Work, ...]
    taken_s: float


@dataclass(slots=True)
class _Timed:
    model: nn.Module
    x: torch.Tensor
    taken_s: list[float] = field(default_factory=list)

    def turn(self, clock: Callable[[], float], seconds: float = 0.0) -> None:
        """Note what one run takes (s), and more while the turn lasts.

        What the first works on is no longer in the caches, as in a network.
        """
        until = time.monotonic() + seconds
        while True:
            began = clock()
            self.model(self.x)
            self.taken_s.append(clock() - began)
            if time.monotonic() >= until:
                return


def calibrate(
    threads: int = 1,
    *,
    rounds: int = 10,
    networks: Sequence[str] = (),
    progress: Progress | None = None,
) -> Device:
    """Return this machine as a device, measured with `threads` threads of torch, in half a minute.

    `networks` of timm, φ = 0 of ladders, are measured too. Raises `LadderError` where there is no such one.
    """
    _solver()  # what is missing is better said before than after
    samples, measured_ms = time_in_turn(
        threads, rounds=rounds, networks=networks, progress=progress
    )
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return Device(
        f"{device_name()}, {threads} thread{'s' * (threads > 1)}",
        f"measured {when}, torch {torch.__version__}, float32",
        fit(samples),
        FLOAT_BYTES,
        float(psutil.virtual_memory().total),
        measured_ms,
    )


def time_in_turn(
    threads: int,
    *,
    rounds: int = 10,
    layers: Sequence[Layer] = LAYERS,
    networks: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[list[Sample], dict[str, float]]:
    """Return what every layer takes, and by its name what each of timm's networks takes (ms).

    Raises `InputError` for fewer than one thread or round, `LadderError` where timm has no such network.
    """
    if threads < 1 or rounds < 1:
        raise InputError(f"{threads} threads, {rounds} rounds: expected at least 1 of each")
    shapes = {name: input_shape(name) for name in networks}
    with _computing(threads) as clock:
        rows = [_prepare(_row(layer), layer.shape) for layer in layers]
        whole = [
            _prepare(import_timm().create_model(x).eval(), shape) for x, shape in shapes.items()
        ]
        for number in range(rounds):
            if progress is not None:
                progress(number, rounds, "timing synthetic layers")
            for one in rows:
                one.turn(clock)
            for one in whole:
                one.turn(clock, TURN_S)
    samples = [
        Sample(layer.kind, count(partial(_row, layer), layer.shape), min(row.taken_s))
        for layer, row in zip(layers, rows, strict=True)
    ]
    taken_ms = [round(1e3 * min(one.taken_s), 3) for one in whole]
    return samples, dict(zip(shapes, taken_ms, strict=True))


@contextmanager
def _computing(threads: int) -> Iterator[Callable[[], float]]:
    """Have torch compute with so many threads; gives the clock (s) that tells what they take."""
    tune_allocator()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield time.thread_time if threads == 1 else time.perf_counter
    finally:
        torch.set_num_threads(before)


def _row(layer: Layer) -> nn.Module:
    return nn.Sequential(*(layer.build() for _ in range(CHAIN))).eval()


def _prepare(model: nn.Module, shape: Sequence[int]) -> _Timed:
    timed = _Timed(model, torch.randn(*shape))
    timed.model(timed.x)  # the first is to warm up
    return timed


def fit(samples: Sequence[Sample]) -> dict[Kind, Rate]:
    """Return each kind's rates; raise `InputError` where a kind has no sample."""
    rates: dict[Kind, Rate] = {}
    for kind in KINDS:
        some = [sample for sample in samples if sample.kind == kind]
        if not some:
            raise InputError(f"no sample of the kind {kind}")
        operation_s, byte_s, overhead_s = map(float, _fit_kind(some))
        rates[kind] = Rate(1 / max(operation_s, FASTEST), 1 / max(byte_s, FASTEST), overhead_s)
    between_s = _between_s([sample for sample in samples if sample.kind is None], rates)
    return {
        kind: Rate(rate.operations_per_s, rate.bytes_per_s, rate.overhead_s + between_s)
        for kind, rate in rates.items()
    }


def _between_s(samples: Sequence[Sample], rates: dict[Kind, Rate]) -> float:
    """Return what comes in between two operators of a network."""
    device = Device("", "", rates, FLOAT_BYTES, 0.0)
    more = [(s.taken_s - predict(s.works, device).latency_ms / 1e3) / len(s.works) for s in samples]
    return max(0.0, float(np.median(more))) if more else 0.0


def _fit_kind(samples: Sequence[Sample], steps: int = 50) -> NDArray[np.float64]:
    """Return seconds an operation, a byte and a call: the best that the alternation above comes by."""
    nnls = _solver()
    taken_s = np.array([s.taken_s for s in samples])
    operations, moved = (_table(samples, what) for what in ("operations", "moved_bytes"))
    calls = np.array([float(len(s.works)) for s in samples])
    best, least = np.zeros(3), np.inf
    computes = moves = np.ones(operations.shape, bool)  # at first both, one after the other
    for _ in range(steps):
        columns = ((operations * computes).sum(1), (moved * moves).sum(1), calls)
        x, _ = nnls(np.stack(columns, 1) / taken_s[:, None], np.ones(len(taken_s)))
        compute_s, memory_s = operations * x[0], moved * x[1]
        predicted_s = np.maximum(compute_s, memory_s).sum(1) + calls * x[2]
        error = float(np.square(predicted_s / taken_s - 1).sum())
        if error < least:
            best, least = x, error
        before, computes, moves = computes, compute_s >= memory_s, compute_s < memory_s
        if np.array_equal(before, computes):
            break
    return best


def _solver() -> Any:
    try:
        from scipy.optimize import nnls
    except ImportError:
        raise MissingExtraError("measuring this machine", "plan") from None
    return nnls


def _table(samples: Sequence[Sample], what: str) -> NDArray[np.float64]:
    """Return one row a sample, one column an operator; rows that are shorter end in zeros."""
    table = np.zeros((len(samples), max(len(s.works) for s in samples)))
    for row, sample in zip(table, samples, strict=True):
        row[: len(sample.works)] = [getattr(work, what) for work in sample.works]
    return table
