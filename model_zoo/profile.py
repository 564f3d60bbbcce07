"""What a ladder costs on one device: the profile, its file, and the numbers that decisions need.

A profile is measured by `adaphi profile` or written by hand. Its file (schema 1) is JSON:

    {"schema": 1, "ladder": "efficientnet-lite", "device": "…", "backend": "torch",
     "variants": [{"phi": 0, "name": "…", "quality": 0.751,
                   "latency_ms": {"mean": 9.1, "p50": 9.0, "p95": 9.8, "p99": 11.0},
                   "memory_bytes": 61000000, "energy_mj": null}],
     "stall_ms": [[0]]}

`null` means: not known here. Nothing is ever invented in its place. A variant may also have `batch_ms`, what
a batch takes as a whole by its size, `{"2": 15.0, "4": 21.0}`: only sizes that stand there are ever run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import ProfileError
from .variants import Ladder, Variant, fingerprint

Floats = NDArray[np.float64]
Described: TypeAlias = tuple[np.dtype[Any], tuple[int, ...]]
"""An array's dtype and shape."""
LatencyName: TypeAlias = Literal["mean", "p50", "p95", "p99"]
"""A figure of latency to plan with."""
LATENCY_NAMES = get_args(LatencyName)
_ROUNDING = 1e-13  # relative: above a few units in the last place, below any edge's tolerance


def distinct(needs: Floats) -> Floats:
    """Return the different values of `needs` (> 0), ascending; those that differ only by rounding are one."""
    ascending = np.unique(needs)
    return np.asarray(ascending[np.diff(ascending, prepend=0.0) > _ROUNDING * ascending])


class Latency(msgspec.Struct, frozen=True, omit_defaults=False):
    """A latency distribution in milliseconds; a quantile that is not known is None."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Latency:
        """Return the distribution of measured samples (milliseconds)."""
        p50, p95, p99 = np.percentile(samples_ms, [50, 95, 99])
        return cls(*(round(float(x), 4) for x in (np.mean(samples_ms), p50, p95, p99)))


class VariantProfile(msgspec.Struct, frozen=True):
    """What one variant costs: latency (ms), resident memory (bytes), energy (mJ per answer).

    `batch_ms` is what a batch mostly takes as a whole, by its size; None where that is not known.
    """

    phi: int
    name: str
    quality: float
    latency_ms: Latency
    memory_bytes: int | None = None
    energy_mj: float | None = None
    batch_ms: dict[int, float] | None = None


@dataclass(frozen=True)
class Costs:
    """The numbers a decision needs, for M variants: one latency each, stalls, quality.

    `latency_ms` (M,), `stall_ms` (M, M) with row = active and column = chosen, `quality` (M,).
    """

    latency_ms: Floats
    stall_ms: Floats
    quality: Floats

    @cached_property
    def need_ms(self) -> Floats:
        """Return (M, M): what choosing column a with row m active needs, L_a + S_ma."""
        return self.latency_ms[None, :] + self.stall_ms

    @cached_property
    def thresholds_ms(self) -> Floats:
        """Return every distinct budget at which some choice begins to be on time, ascending."""
        return distinct(self.need_ms)

    def __len__(self) -> int:
        return len(self.latency_ms)


@dataclass(frozen=True)
class MemoryCosts:
    """What it costs to keep variants resident, or not to.

    `memory_bytes` (M,) of each resident variant; `cold_stall_ms` (M, M): what choosing column a with row m
    active takes on top of the run if a has to be loaded first, also where a itself was active and evicted.
    """

    memory_bytes: NDArray[np.int64]
    cold_stall_ms: Floats


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a ladder costs on this device, measured: see the module's docstring for the file."""

    schema: int = 1
    ladder: str
    device: str = ""
    backend: str = "torch"
    variants: tuple[VariantProfile, ...]
    stall_ms: tuple[tuple[float, ...], ...]
    cold_stall_ms: tuple[tuple[float, ...], ...] | None = None
    conditions: dict[str, str | int | float] = {}
    """How it was measured (threads, rounds, input, output), in words and numbers."""
    origin: dict[str, str] = {}
    """Where each kind of figure comes from: measured, published, modelled or stated."""

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.variants)

    @property
    def input(self) -> Described | None:
        """Return dtype and shape of what the ladder was measured on, None where that is not known."""
        return read_description(self.conditions.get("input"))

    @property
    def output(self) -> Described | None:
        """Return dtype and shape of what φ = 0 made of it, None where that is not known."""
        return read_description(self.conditions.get("output"))

    @property
    def ladder_fingerprint(self) -> str:
        """Return a digest of the variants' names in order: what a policy is bound to."""
        return fingerprint(v.name for v in self.variants)

    @property
    def fingerprint(self) -> str:
        """Return a digest of everything that is in the profile."""
        return fingerprint([msgspec.json.encode(self).decode()])

    def costs(self, latency: str = "p95") -> Costs:
        """Return the numbers for decisions, with `latency` one of mean, p50, p95, p99.

        Raises `ProfileError` if a variant has no such figure.
        """
        if latency not in LATENCY_NAMES:
            raise ProfileError(
                f"latency {latency!r} is not one of {', '.join(LATENCY_NAMES)}",
            )
        chosen = [getattr(v.latency_ms, latency) for v in self.variants]
        for variant, value in zip(self.variants, chosen, strict=True):
            if value is None:
                raise ProfileError(
                    f"variant {variant.name!r} of profile {self.ladder!r} has no latency_ms.{latency}",
                    help="choose another figure with --latency",
                )
        return Costs(
            latency_ms=np.array(chosen, dtype=np.float64),
            stall_ms=np.array(self.stall_ms, dtype=np.float64),
            quality=np.array([v.quality for v in self.variants], dtype=np.float64),
        )

    def memory_costs(self) -> MemoryCosts:
        """Return what planning the resident set needs; raise `ProfileError` where it was not measured."""
        for variant in self.variants:
            if not variant.memory_bytes:
                raise ProfileError(
                    f"variant {variant.name!r} of profile {self.ladder!r} has no memory_bytes",
                    help="measure the ladder with `adaphi profile`, or write the figure by hand",
                )
        if self.cold_stall_ms is None:
            raise ProfileError(
                f"profile {self.ladder!r} has no cold_stall_ms",
                help="measure the ladder with `adaphi profile`, or write the figures by hand",
            )
        cold = np.array(self.cold_stall_ms, dtype=np.float64)
        np.fill_diagonal(
            cold, cold.max(axis=0)
        )  # the file's is 0: from a variant to itself, resident
        return MemoryCosts(
            memory_bytes=np.array([v.memory_bytes for v in self.variants], dtype=np.int64),
            cold_stall_ms=cold,
        )

    def joules(self) -> Floats:
        """Return (M,): the energy of an answer (J); raise `ProfileError` where it is not known."""
        for variant in self.variants:
            if variant.energy_mj is None:
                raise ProfileError(
                    f"variant {variant.name!r} of profile {self.ladder!r} has no energy_mj",
                    help="it cannot be measured everywhere: write what you know of the device by hand",
                )
        return np.array([v.energy_mj for v in self.variants], dtype=np.float64) / 1e3

    def typical_ms(self, latency: str = "p95") -> list[float]:
        """Return the middle latency of each variant: what running slower is measured against."""
        costs = self.costs(latency)
        return [
            v.latency_ms.p50 or v.latency_ms.mean or float(costs.latency_ms[v.phi])
            for v in self.variants
        ]

    def batch_ms(self) -> list[dict[int, float]]:
        """Return what a batch of each variant takes as a whole, by its size; {} where that is not known."""
        return [v.batch_ms or {} for v in self.variants]

    def one_by_one(self) -> Profile:
        """Return the profile as if nothing were known of batches."""
        variants = tuple(msgspec.structs.replace(v, batch_ms=None) for v in self.variants)
        return msgspec.structs.replace(self, variants=variants)

    def as_ladder(self) -> Ladder:
        """Return the variants alone, without their costs."""
        return Ladder(self.ladder, tuple(Variant(v.phi, v.name, v.quality) for v in self.variants))

    def to_json(self) -> str:
        """Return the profile as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"

    def save(self, path: str | Path) -> None:
        """Write the profile to `path`."""
        Path(path).write_text(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile; raise `ProfileError` naming the file and the place in it."""
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except OSError as error:
            raise ProfileError(f"{path}: {error.strerror}") from None
        except (msgspec.DecodeError, ProfileError) as error:
            raise ProfileError(f"{path}: {error}") from None


def describe(array: NDArray[Any]) -> str:
    """Return an array's shape and dtype in words, such as 480×640×3 uint8."""
    return "×".join(map(str, array.shape)) + f" {array.dtype}"


def read_description(words: object) -> Described | None:
    """Return what `describe` was given, None for what it did not write."""
    found = re.fullmatch(r"((?:\d+×)*\d+)? (\w+)", str(words))
    if found is None:
        return None
    try:
        dtype = np.dtype(found[2])
    except TypeError:
        return None
    return dtype, tuple(map(int, found[1].split("×"))) if found[1] else ()


def _check(profile: Profile) -> None:
    """Raise `ProfileError` where the parts of a profile do not fit together."""

    def fail(what: str) -> None:
        raise ProfileError(what)

    if profile.schema != 1:
        fail(f"schema {profile.schema} is not known; this version reads schema 1 - at `$.schema`")
    if not profile.variants:
        fail("a profile needs at least one variant - at `$.variants`")
    for place, variant in enumerate(profile.variants):
        path = f"$.variants[{place}]"
        if variant.phi != place:
            fail(f"phi is {variant.phi} at place {place}; phi counts 0, 1, 2, … - at `{path}.phi`")
        if not np.isfinite(variant.quality):
            fail(f"quality must be a finite number - at `{path}.quality`")
        figures = [x for x in msgspec.structs.astuple(variant.latency_ms) if x is not None]
        if not figures or not all(np.isfinite(x) and x > 0 for x in figures):
            fail(f"needs at least one figure, all above 0 - at `{path}.latency_ms`")
        for name in ("memory_bytes", "energy_mj"):
            value = getattr(variant, name)
            if value is not None and not (np.isfinite(value) and value >= 0):
                fail(f"{name} is {value}; expected a finite number ≥ 0 - at `{path}.{name}`")
        for size, value in (variant.batch_ms or {}).items():
            where = f"at `{path}.batch_ms`"
            if size < 2:
                fail(f"{size} is no size of a batch; one alone is latency_ms - {where}")
            if not (np.isfinite(value) and value > 0):
                fail(f"a batch of {size} takes {value}; expected milliseconds above 0 - {where}")
    _check_stalls(profile.stall_ms, len(profile.variants), "$.stall_ms")
    if profile.cold_stall_ms is not None:
        _check_stalls(profile.cold_stall_ms, len(profile.variants), "$.cold_stall_ms")


def _check_stalls(stalls: Any, variants: int, path: str) -> None:
    if [len(row) for row in stalls] != [variants] * variants:
        raise ProfileError(f"expected {variants} rows of {variants} numbers - at `{path}`")
    for m, row in enumerate(stalls):
        for a, stall in enumerate(row):
            if not np.isfinite(stall) or stall < 0 or (m == a and stall != 0):
                raise ProfileError(
                    f"a stall is a finite number ≥ 0, and 0 from a variant to itself, "
                    f"not {stall} - at `{path}[{m}][{a}]`"
                )
