"""The roofline of a device, layer by layer: what a network takes, which resource binds, what fits.

A layer with f operations that moves b bytes takes on a device

    t = max(f ÷ peak, b ÷ bandwidth) + overhead

(Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785, with what one call costs added), and a
network the sum of its layers. So depth (more calls), width (more weights, quadratically more operations) and
resolution (more activations) load a device differently, and "twice the operations" is not twice the time.

A ladder's score over a set of devices H is the performance portability of Pennycook, Sewall and Lee (2016,
arXiv:1611.07409): the harmonic mean of its efficiencies there, |H| ÷ Σ 1/e, and 0 if it does not run on one.
The efficiency here is the architectural one: the share of the device's peak that is reached.

A family's errors are alike, so its ratios are told better than its amounts. Where φ = 0 was measured on a
device, the ladder's predictions are scaled to that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import msgspec

from ...errors import InputError

Kind: TypeAlias = Literal["dense", "grouped", "exponential", "normalising", "pooling", "pointwise"]
"""Of operator: products of matrices and whole convolutions; convolutions in groups, depthwise among them;
those that take an exponential of each value; batch and layer norms; maxima of windows; and all else."""

KINDS: tuple[Kind, ...] = get_args(Kind)
FLOAT_BYTES = 4
"""Of a value as `Work` counts it; a device with a narrower one moves less."""


class Work(msgspec.Struct, frozen=True):
    """One operator: its operations (a multiply-add is two) and the bytes it moves, values as float32."""

    kind: Kind
    operations: float
    weight_bytes: float
    activation_bytes: float

    @property
    def moved_bytes(self) -> float:
        """Return all bytes that go in or out."""
        return self.weight_bytes + self.activation_bytes


class Rate(msgspec.Struct, frozen=True):
    """What a device does with one kind of operator; infinite where that never binds."""

    operations_per_s: float
    bytes_per_s: float
    overhead_s: float

    def __post_init__(self) -> None:
        if not (self.operations_per_s > 0 and self.bytes_per_s > 0 and self.overhead_s >= 0):
            raise InputError(f"{self}: rates are above 0, and the overhead is not below")


class Device(msgspec.Struct, frozen=True):
    """A device: its rates by kind, the bytes of its values, its memory, and where the figures come from.

    `measured_ms` is what networks, by name, were measured to take there: the first of ladders.
    """

    name: str
    source: str
    rates: dict[Kind, Rate]
    value_bytes: int
    memory_bytes: float
    measured_ms: dict[str, float] = {}

    def __post_init__(self) -> None:
        if missing := [kind for kind in KINDS if kind not in self.rates]:
            raise InputError(f"device {self.name!r}: no rate for {', '.join(missing)}")


class Prediction(msgspec.Struct, frozen=True):
    """What a network takes on a device: `latency_ms`, its parts by what binds, and the bytes it needs.

    `efficiency` is the share of the device's highest peak that its operations reach.
    """

    latency_ms: float
    compute_ms: float
    memory_ms: float
    overhead_ms: float
    memory_bytes: float
    efficiency: float

    @property
    def binds(self) -> str:
        """Return what most of the time goes to: compute, memory or overhead."""
        parts = ("compute", "memory", "overhead")
        return max(parts, key=lambda part: float(getattr(self, f"{part}_ms")))


class Anchor(msgspec.Struct, frozen=True):
    """What φ = 0 of a ladder was measured to take, and what the roofline alone had told (ms)."""

    measured_ms: float
    predicted_ms: float

    @property
    def factor(self) -> float:
        """Return what every prediction of the ladder is multiplied by."""
        return self.measured_ms / self.predicted_ms


def predict(works: Sequence[Work], device: Device) -> Prediction:
    """Return what the network of these operators takes on `device`, one input at a time."""
    narrow = device.value_bytes / FLOAT_BYTES
    spent = {"compute": 0.0, "memory": 0.0, "overhead": 0.0}
    for work in works:
        rate = device.rates[work.kind]
        compute_s = work.operations / rate.operations_per_s
        memory_s = work.moved_bytes * narrow / rate.bytes_per_s
        spent["compute" if compute_s > memory_s else "memory"] += max(compute_s, memory_s)
        spent["overhead"] += rate.overhead_s
    latency_s = sum(spent.values())
    operations = sum(work.operations for work in works if work.kind in ("dense", "grouped"))
    peak = max(device.rates[kind].operations_per_s for kind in ("dense", "grouped"))
    return Prediction(
        latency_ms=1e3 * latency_s,
        **{f"{part}_ms": 1e3 * seconds for part, seconds in spent.items()},
        memory_bytes=narrow * memory_bytes(works),
        efficiency=operations / peak / latency_s if latency_s else 0.0,
    )


def memory_bytes(works: Sequence[Work]) -> float:
    """Return what a network needs at least: all its weights, and the activations of its largest operator."""
    return sum(w.weight_bytes for w in works) + max(
        (w.activation_bytes for w in works), default=0.0
    )


def largest_fitting(
    predictions: Sequence[Prediction], latency_ms: float, memory_bytes: float = math.inf
) -> int | None:
    """Return the largest φ that meets both limits, `predictions` being in order of φ; None if none does."""
    fitting = [
        phi
        for phi, p in enumerate(predictions)
        if p.latency_ms <= latency_ms and p.memory_bytes <= memory_bytes
    ]
    return max(fitting, default=None)


def predict_ladder(
    first: str,
    works: Sequence[Sequence[Work]],
    device: Device,
    *,
    first_ms: float | None = None,
    anchor: bool = True,
) -> tuple[list[Prediction], Anchor | None]:
    """Return what a ladder's networks, `first` before all, take on `device`, and what that is anchored at.

    φ = 0 takes `first_ms`, or else, with `anchor`, what the device knows of it; if neither, the roofline
    tells alone.
    """
    predictions = [predict(some, device) for some in works]
    if first_ms is None and anchor:
        first_ms = device.measured_ms.get(first)
    if first_ms is None:
        return predictions, None
    return anchored(predictions, first_ms), Anchor(first_ms, predictions[0].latency_ms)


def anchored(predictions: Sequence[Prediction], first_ms: float) -> list[Prediction]:
    """Return predictions scaled so that φ = 0 takes `first_ms`, which was measured: their ratios are kept.

    Raises `InputError` where `first_ms` is not above 0.
    """
    if not (math.isfinite(first_ms) and first_ms > 0):
        raise InputError(f"φ = 0 took {first_ms} ms: expected a number above 0")
    scale = first_ms / predictions[0].latency_ms
    parts = ("latency_ms", "compute_ms", "memory_ms", "overhead_ms")
    return [
        msgspec.structs.replace(
            p,
            **{part: scale * getattr(p, part) for part in parts},
            efficiency=p.efficiency / scale,
        )
        for p in predictions
    ]


def portability(efficiencies: Iterable[float | None]) -> float:
    """Return the harmonic mean of efficiencies over devices, 0 where one is None or 0: it does not run there.

    Raises `InputError` for no device or a negative efficiency.
    """
    known = [0.0 if e is None else e for e in efficiencies]
    if not known or min(known) < 0:
        raise InputError(f"efficiencies {known}: expected one for each device, none below 0")
    return 0.0 if min(known) == 0 else len(known) / sum(1 / e for e in known)


def load_device(path: str | Path) -> Device:
    """Return the device in a file of `save_device`; raise `InputError` for any other file."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Device)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise InputError(
            f"{path}: {error}", help="write one with `adaphi plan hardware --here --save FILE`"
        ) from None


def save_device(device: Device, path: str | Path) -> None:
    """Write a device as JSON."""
    try:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(device)) + b"\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _data_sheet(
    name: str,
    source: str,
    *,
    operations_per_s: float,
    bytes_per_s: float,
    overhead_s: float,
    value_bytes: int,
    memory_bytes: float,
) -> Device:
    rate = Rate(operations_per_s, bytes_per_s, overhead_s)
    return Device(name, source, dict.fromkeys(KINDS, rate), value_bytes, memory_bytes)


DATA_SHEETS: Mapping[str, Device] = MappingProxyType(
    {
        "server-gpu": _data_sheet(
            "server-gpu",
            "NVIDIA A100 40 GB PCIe data sheet: 312 TFLOP/s in FP16, 1,555 GB/s; 5 µs a call assumed",
            operations_per_s=312e12,
            bytes_per_s=1555e9,
            overhead_s=5e-6,
            value_bytes=2,
            memory_bytes=40e9,
        ),
        "edge-cpu": _data_sheet(
            "edge-cpu",
            "Raspberry Pi 5 product brief: 4 Cortex-A76 at 2.4 GHz (2 × 4 multiply-adds a cycle each), "
            "32-bit LPDDR4X-4267; 10 µs a call assumed",
            operations_per_s=4 * 2.4e9 * 2 * 4 * 2,
            bytes_per_s=4267e6 * 4,
            overhead_s=10e-6,
            value_bytes=4,
            memory_bytes=8e9,
        ),
        "npu": _data_sheet(
            "npu",
            "Rockchip RK3588 data sheet: 6 TOP/s in int8, 34 GB/s; 20 µs a call assumed",
            operations_per_s=6e12,
            bytes_per_s=34e9,
            overhead_s=20e-6,
            value_bytes=1,
            memory_bytes=4e9,
        ),
    }
)
"""Devices as their makers describe them: nothing gets faster than that, most things stay far slower."""
