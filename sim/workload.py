"""Requests that arrive by themselves: when, with which deadline, of which priority.

Drawn from a process (Poisson, Markov-modulated, regular) or from recorded counts; the same seed gives the
same arrivals on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, TraceError
from ..policies.trace import read_csv

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Workload:
    """N requests: `arrived_s` (N,) ascending, `deadline_ms` (N,) from arrival, `priority` (N,).

    One number stands for all. `priority` is the scheduler's: 1 is served first, 0 stands for its default.
    Raises `InputError` naming the first request that is wrong.
    """

    arrived_s: Floats
    deadline_ms: Floats
    priority: NDArray[np.int64]
    name: str = "workload"

    def __init__(
        self,
        arrived_s: ArrayLike,
        deadline_ms: ArrayLike,
        priority: ArrayLike = 0,
        name: str = "workload",
    ) -> None:
        arrived = np.asarray(arrived_s, dtype=np.float64)
        if arrived.ndim != 1 or not len(arrived):
            raise InputError(f"{name}: arrived_s has shape {arrived.shape}; expected (N,), N ≥ 1")
        deadlines = _spread(deadline_ms, len(arrived), np.float64, f"{name}: deadline_ms")
        priorities = _spread(priority, len(arrived), np.int64, f"{name}: priority")
        _check(name, arrived, deadlines, priorities)
        for field, value in (
            ("arrived_s", arrived),
            ("deadline_ms", deadlines),
            ("priority", priorities),
            ("name", name),
        ):
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.arrived_s)

    def __repr__(self) -> str:
        return f"<Workload(name={self.name!r}, requests={len(self)})>"

    def until(self, seconds: float) -> Workload:
        """Return the requests that arrive before `seconds`; raise `InputError` if there is none."""
        count = int(np.searchsorted(self.arrived_s, seconds))
        if not count:
            raise InputError(f"{self.name}: nothing arrives within {seconds:g} s")
        return Workload(
            self.arrived_s[:count], self.deadline_ms[:count], self.priority[:count], self.name
        )

    @classmethod
    def poisson(
        cls, rate_per_s: float, requests: int, deadline_ms: ArrayLike = np.inf, *, seed: int = 0
    ) -> Workload:
        """Return a Poisson process: independent exponential gaps of mean 1 ÷ rate."""
        _positive(rate_per_s=rate_per_s, requests=requests)
        gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, requests)
        return cls(np.cumsum(gaps), deadline_ms, name=f"poisson:{rate_per_s:g}")

    @classmethod
    def regular(cls, rate_per_s: float, requests: int, deadline_ms: ArrayLike = np.inf) -> Workload:
        """Return requests at even distances, as a camera sends them."""
        _positive(rate_per_s=rate_per_s, requests=requests)
        return cls(np.arange(requests) / rate_per_s, deadline_ms, name=f"regular:{rate_per_s:g}")

    @classmethod
    def markov_modulated(
        cls,
        rates_per_s: Sequence[float],
        mean_stay_s: Sequence[float],
        seconds: float,
        deadline_ms: ArrayLike = np.inf,
        *,
        seed: int = 0,
    ) -> Workload:
        """Return a Poisson process whose rate jumps: it stays in level i for an exponential time of mean
        `mean_stay_s[i]`, then moves to one of the others, each as likely.
        """
        _positive(seconds=seconds)
        if len(rates_per_s) != len(mean_stay_s) or len(rates_per_s) < 2:
            raise InputError(
                "a modulated process needs at least two rates, and a mean stay for each"
            )
        if not (np.min(rates_per_s) >= 0 and np.min(mean_stay_s) > 0):
            raise InputError("rates are at least 0, mean stays above 0")
        rng = np.random.default_rng(seed)
        level, now_s, arrived = 0, 0.0, []
        while now_s < seconds:
            stay_s = rng.exponential(mean_stay_s[level])
            count = rng.poisson(rates_per_s[level] * stay_s)
            arrived.append(now_s + np.sort(rng.random(count)) * stay_s)
            now_s += stay_s
            level = (level + int(rng.integers(1, len(rates_per_s)))) % len(rates_per_s)
        times = np.concatenate(arrived)
        return cls(times[times < seconds], deadline_ms, name="markov-modulated")

    @classmethod
    def read_counts(
        cls,
        path: str | Path,
        deadline_ms: ArrayLike = np.inf,
        *,
        speed: float = 1.0,
        thin: float = 1.0,
        seed: int = 0,
    ) -> Workload:
        """Return requests from a CSV `time_s,count`: those of a row are spread evenly at random over its bin.

        The last bin is as long as the middle one. `speed` plays the trace that many times faster, of each
        request only a share `thin` is kept. Raises `TraceError` naming file and line.
        """
        path = Path(path)
        time_s, count = read_counts(path)
        return cls.from_counts(
            time_s, count, deadline_ms, speed=speed, thin=thin, seed=seed, name=path.stem
        )

    @classmethod
    def from_counts(
        cls,
        time_s: Floats,
        count: Floats,
        deadline_ms: ArrayLike = np.inf,
        *,
        speed: float = 1.0,
        thin: float = 1.0,
        seed: int = 0,
        name: str = "workload",
    ) -> Workload:
        """Return what `read_counts` does, from the columns of the file, two rows or more."""
        _positive(speed=speed, thin=thin)
        width_s = np.diff(time_s, append=time_s[-1] + np.median(np.diff(time_s)))
        rng = np.random.default_rng(seed)
        kept = rng.binomial(count.astype(np.int64), min(thin, 1.0))
        offset = rng.random(int(kept.sum())) * np.repeat(width_s, kept)
        arrived = np.sort(np.repeat(time_s, kept) + offset) / speed
        return cls(arrived, deadline_ms, name=name)


@dataclass(frozen=True)
class Source:
    """How requests come, before any is drawn: at `rate_per_s` (`kind` poisson or regular), or as counted.

    `time_s`, `count` are the columns of a recording where there is one.
    """

    name: str
    kind: str
    rate_per_s: float = 0.0
    time_s: Floats | None = None
    count: Floats | None = None

    @classmethod
    def read(cls, spec: str, folder: Path | None = None) -> Source:
        """Return what poisson:RATE, regular:RATE or the name of a CSV (in `folder`) means.

        Raises `InputError`.
        """
        kind, colon, rate = spec.partition(":")
        if not (colon and kind in ("poisson", "regular")):
            return cls(Path(spec).stem, "counts", 0.0, *read_counts((folder or Path()) / spec))
        try:
            rate_per_s = float(rate)
        except ValueError:
            raise InputError(
                f"arrivals {spec!r}: {rate!r} is not a number",
                help="write poisson:30 or regular:30, or name a file",
            ) from None
        _positive(rate_per_s=rate_per_s)
        return cls(spec, kind, rate_per_s)

    def draw(
        self,
        requests: int,
        deadline_ms: ArrayLike = np.inf,
        *,
        speed: float = 1.0,
        thin: float = 1.0,
        seed: int = 0,
    ) -> Workload:
        """Return `requests` of them where they are a rate, else those counted, at `speed` and thinned."""
        if self.time_s is not None and self.count is not None:
            return Workload.from_counts(
                self.time_s,
                self.count,
                deadline_ms,
                speed=speed,
                thin=thin,
                seed=seed,
                name=self.name,
            )
        if self.kind == "poisson":
            return Workload.poisson(self.rate_per_s, requests, deadline_ms, seed=seed)
        return Workload.regular(self.rate_per_s, requests, deadline_ms)


def read_counts(path: Path) -> tuple[Floats, Floats]:
    """Return the columns time_s and count of a recording; raise `TraceError` naming file and line."""
    columns = read_csv(path)
    if list(columns)[:2] != ["time_s", "count"]:
        raise TraceError(f"{path}:1: expected time_s,count; found {', '.join(columns)}")
    time_s, count = columns["time_s"], columns["count"]
    wrong = (count < 0) | (count != np.floor(count))
    if wrong.any():
        row = int(wrong.argmax())
        raise TraceError(f"{path}:{row + 2}: count is {count[row]:g}; expected a whole number ≥ 0")
    if len(time_s) < 2:
        raise TraceError(f"{path}: counts need two rows, for the length of a bin")
    return time_s, count


def _spread(value: ArrayLike, length: int, kind: type, name: str) -> NDArray[Any]:
    given: NDArray[Any] = np.asarray(value, dtype=kind)
    if given.shape not in ((), (length,)):
        raise InputError(f"{name} has shape {given.shape}; expected one number or ({length},)")
    return np.broadcast_to(given, (length,)).copy()


def _check(name: str, arrived: Floats, deadlines: Floats, priorities: NDArray[np.int64]) -> None:
    for what, wrong, why in (
        ("arrived_s", ~np.isfinite(arrived), "is not a finite number"),
        ("arrived_s", np.diff(arrived, prepend=arrived[0]) < 0, "is before the one of the last"),
        ("deadline_ms", ~(deadlines >= 0), "is not a number ≥ 0"),
        ("priority", priorities < 0, "is below 0"),
    ):
        if wrong.any():
            raise InputError(f"{name}: request {int(wrong.argmax())}: {what} {why}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; expected a number above 0")
