"""Measuring a ladder on this machine: latency, memory, hot and cold stalls, energy.

Hot stalls come from one interleaved series: a walk that takes every ordered pair (previous, now)
once a round, so that drift of the machine's speed falls on all pairs alike. The stall of a pair is
the median of `now` after `previous` minus the median of `now` after itself, never below 0. Where memory
does not admit the whole ladder, each pair has a series of its own; two variants that do not fit together
never switch hot, and their stall is written as 0. Cold stalls are load + first run minus the median warm
run, measured by evicting and loading again.

What a batch takes is measured in rounds of one single run and one of each size, in turn, and noted as
the typical latency times the median ratio of the two: so it stands to `latency_ms` as batch to single run.

Of a ladder of candidates every one is measured; the profile holds those that no other one beats. An int8
variant's quality is a published figure, so how often it names fp32's first class is counted beside it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np

from ..errors import LadderError
from .backends import Array
from .calibration import calibration_pictures
from .choosing import Measured
from .energy import RaplMeter
from .frontier import undominated
from .ladders import fitted
from .pool import WarmPool
from .profile import Latency, Profile, VariantProfile, describe

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being measured)."""


BATCH_SIZES = (2, 4, 8)
"""Which batches are measured; the size that pays best is among them or near."""

LEAST_AGREEMENT = 0.75
"""With fp32's first class, on calibration pictures: below it, int8 is not to be trusted on this processor."""


def measure(
    pool: WarmPool,
    *,
    rounds: int = 30,
    cold_rounds: int = 3,
    batch_rounds: int = 0,
    conditions: dict[str, str | int | float] | None = None,
    compared: Sequence[Measured] = (),
    meter: RaplMeter | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure the pool's ladder; every variant is resident afterwards, as far as the limit admits.

    Each round runs every ordered pair of variants once: M² runs. Each of `batch_rounds` runs every variant
    on 15 inputs, where it takes several at once; otherwise, or for none, `batch_ms` is None. `conditions`
    goes into the profile beside what is added here, and so does what was `compared` to choose the backend.
    Energy is None where `meter` finds no counter. Of candidates, the profile has fewer variants than the
    pool: `pool_of` makes one that fits.
    """
    count = len(pool.ladder)
    meter = RaplMeter() if meter is None else meter
    total = 1 + count * (cold_rounds + batch_rounds + meter.available) + rounds
    done = 0

    def step(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, what)
        done += 1

    step("loading")
    inputs = [_example(pool, phi) for phi in range(count)]
    groups = _groups(pool)
    total += rounds * (len(groups) - 1)
    samples: dict[tuple[int, int], list[float]] = {}
    outputs: dict[int, Array] = {}
    for group in groups:
        for number in range(-1, rounds):  # the first is to warm up
            if number >= 0:
                step(f"warm runs, round {number + 1} of {rounds}")
            for previous, now in _pairs(group):
                run = pool.run(now, inputs[now])
                outputs[now] = run.output
                if number >= 0:
                    samples.setdefault((previous, now), []).append(run.latency_ms)
    steady = [median(samples[phi, phi]) for phi in range(count)]

    batches: list[dict[int, float] | None] = [None] * count
    for phi in range(count if batch_rounds else 0):
        rows = _batch_rounds(pool, phi, inputs[phi], batch_rounds, step)
        typical_ms = median(s for (_, now), some in samples.items() if now == phi for s in some)
        batches[phi] = {k: round(typical_ms * x, 4) for k, x in _ratios(rows).items()} or None

    cold: list[list[float]] = [[] for _ in range(count)]
    for _ in range(cold_rounds):
        for phi in range(count):
            step(f"cold start of {pool.ladder.variants[phi].name}")
            pool.evict(phi)
            cold[phi].append(pool.run(phi, inputs[phi]).latency_ms - steady[phi])
    energy: list[float | None] = [None] * count
    if meter.available:
        for phi in range(count):
            step(f"energy of {pool.ladder.variants[phi].name}")
            energy[phi] = _energy_mj(pool, phi, inputs[phi], meter)
    agreement = _agreement(pool)
    pool.load_all()
    if progress is not None:
        progress(total, total, "done")

    profile = Profile(
        ladder=pool.ladder.name,
        device=device_name(),
        backend=pool.backend.name,
        variants=tuple(
            VariantProfile(
                phi=v.phi,
                name=v.name,
                quality=v.quality,
                latency_ms=Latency.of(
                    [s for (_, now), some in samples.items() if now == v.phi for s in some]
                ),
                memory_bytes=pool.memory_bytes(v.phi),
                energy_mj=energy[v.phi],
                batch_ms=batches[v.phi],
            )
            for v in pool.ladder.variants
        ),
        stall_ms=_matrix(count, lambda m, a: median(samples.get((m, a), [0.0])) - steady[a]),
        cold_stall_ms=_matrix(count, lambda _, a: median(cold[a])) if cold_rounds else None,
        conditions={
            "rounds": rounds,
            "input": describe(inputs[0]),
            "output": describe(outputs[0]),
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            **({"compared": "; ".join(map(str, compared))} if compared else {}),
            **agreement,
            **(conditions or {}),
        },
        origin={
            "latency_ms": "measured",
            "memory_bytes": "measured",
            "energy_mj": "measured" if meter.available else "not measurable here",
            "stall_ms": "measured",
            **({"batch_ms": "measured"} if batch_rounds else {}),
            "quality": "/".join(sorted({v.quality_origin for v in pool.ladder.variants})),
        },
    )
    return undominated(profile) if pool.ladder.candidates else profile


def pool_of(profile: Profile, pool: WarmPool) -> WarmPool:
    """Return a pool of the profile's variants: `pool` itself, or a new one where candidates were dropped."""
    if not pool.ladder.candidates:
        return pool
    for phi in pool.resident:
        pool.evict(phi)
    return WarmPool(
        fitted(pool.ladder, profile), pool.backend, memory_limit_bytes=pool.memory_limit_bytes
    )


def _agreement(pool: WarmPool) -> dict[str, str]:
    """Return on how many pictures each int8 variant names the class that its network names in fp32.

    Raises `LadderError` where it is less than `LEAST_AGREEMENT`.
    """
    whole = {v.network: v.phi for v in pool.ladder.variants if v.precision == "fp32"}
    said = []
    for variant in pool.ladder.variants:
        trained = variant.weights != "none"
        if variant.precision == "fp32" or variant.network not in whole or not trained:
            continue
        pictures = calibration_pictures(variant.calibration)
        int8, fp32 = (
            [int(pool.run(phi, picture).output.argmax()) for picture in pictures]
            for phi in (variant.phi, whole[variant.network])
        )
        same = sum(a == b for a, b in zip(int8, fp32, strict=True))
        if same < LEAST_AGREEMENT * len(pictures):
            raise LadderError(
                f"{variant.name} agrees with fp32 on {same} of {len(pictures)} pictures alone",
                help="use another backend, or a ladder without int8",
            )
        said.append(f"{variant.name} on {same} of {len(pictures)}")
    return {"agreement_with_fp32": "; ".join(said)} if said else {}


def _example(pool: WarmPool, phi: int) -> Array:
    pool.load(phi)
    return pool.runner(phi).example


def _batch_rounds(
    pool: WarmPool, phi: int, x: Array, rounds: int, step: Callable[[str], None]
) -> list[dict[int, float]]:
    """Return what a single run and each batch took (ms) in every round, by size; {} where there are none."""
    pool.load(phi)
    stacks = {} if pool.runner(phi).batch is None else {k: np.stack([x] * k) for k in BATCH_SIZES}
    rows = []
    for number in range(-1, rounds):  # the first is to warm up
        if number >= 0:
            step(f"batches of {pool.ladder.variants[phi].name}, round {number + 1} of {rounds}")
        row = {k: pool.run(phi, xs, batched=True).latency_ms for k, xs in stacks.items()}
        if number >= 0 and row:
            rows.append(row | {1: pool.run(phi, x).latency_ms})
    return rows


def _ratios(rows: list[dict[int, float]]) -> dict[int, float]:
    """Return how many single runs a batch takes, by its size: the median over rounds."""
    return {k: median(row[k] / row[1] for row in rows) for k in BATCH_SIZES} if rows else {}


def _groups(pool: WarmPool) -> list[tuple[int, ...]]:
    """Return the sets whose pairs are measured together: the ladder, or what memory admits."""
    ladder = tuple(range(len(pool.ladder)))
    if pool.memory_limit_bytes is None:
        return [ladder]
    limit = pool.memory_limit_bytes
    sizes = [pool.memory_bytes(phi) for phi in ladder]
    if sum(sizes) <= limit:
        return [ladder]
    pairs = [pair for pair in combinations(ladder, 2) if sum(sizes[p] for p in pair) <= limit]
    return [*pairs, *((phi,) for phi in ladder if not any(phi in pair for pair in pairs))]


def _pairs(group: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return every ordered pair of a group once, each beginning with the end of the one before."""
    walk = [group[place] for place in _pairs_walk(len(group))]
    return list(zip([walk[-1], *walk], walk, strict=False))


def _pairs_walk(count: int) -> list[int]:
    """Return M² variants whose neighbours, read in a circle, are every ordered pair once.

    The shortest such circle is the de Bruijn sequence of order 2: 0 0 1 0 2 1 1 2 2 for M = 3.
    """
    return [
        visit
        for a in range(count)
        for visit in (a, *(x for b in range(a + 1, count) for x in (a, b)))
    ]


def _matrix(count: int, entry: Callable[[int, int], float]) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(0.0 if m == a else round(max(0.0, entry(m, a)), 4) for a in range(count))
        for m in range(count)
    )


def _energy_mj(pool: WarmPool, phi: int, x: Array, meter: RaplMeter, runs: int = 20) -> float:
    before = meter.total_mj()
    for _ in range(runs):
        pool.run(phi, x)
    return round((meter.total_mj() - before) / runs, 3)


def device_name() -> str:
    """Return the board's or processor's name as the system gives it, with its cores."""
    import psutil

    name = platform.processor() or platform.machine()
    board = Path("/proc/device-tree/model")
    if board.exists():
        name = board.read_text().strip("\0\n ")
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {psutil.cpu_count()} cores"
