"""Requests answered together where the profile says that it pays.

The tiny ladder (benchmarks/tiny.py) is measured by `adaphi profile --batch` and served twice, with its
figures of batches and without; both daemons get the same Poisson streams in turn. The real ladder is measured
likewise, and must not start a batch that its profile does not recommend.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from adaphi.controller.batches import Batches
from adaphi.controller.client import AsyncClient
from adaphi.model_zoo import Profile
from adaphi.model_zoo.backends import Array

from . import tiny
from .daemon import MALLOC, Served, daemon
from .harness import Row
from .overload import CLIENTS, PICTURE, WAITING, Seen, capacity, flood
from .problems import ROOT

SMALL = np.full((tiny.SIDE, tiny.SIDE, 3), 90, np.uint8)
TIMES = 3
"""How many times more requests come than can be answered one by one."""


def run(quick: bool) -> list[Row]:
    """Return on-time answers a second with batches, beside those without, and what the real ladder does.

    The quick form leaves the real ladder out: measuring its batches takes minutes.
    """
    rounds, blocks, seconds = (4, 1, 2.0) if quick else (30, 5, 10.0)
    together = measured(tiny.NAME, rounds)
    with ExitStack() as stack:
        profiles = together, together.one_by_one()
        served = [stack.enter_context(daemon(profile)) for profile in profiles]
        seen = asyncio.run(_in_turn([s.zmq for s in served], SMALL, blocks, seconds))
        sizes = [batches(s) for s in served]
    rows = _compared(together, seen, sizes[0])
    if quick:
        return rows
    lite = measured("efficientnet-lite", rounds)
    with daemon(lite) as one:
        [asked] = asyncio.run(_in_turn([one.zmq], PICTURE, 1, seconds))
        started = sum(batches(one).values())
    paying = sum(map(len, _paying(lite)))
    print(f"the real ladder: {dict(asked.outcomes)}; batches that pay by its profile: {paying}")
    return [
        *rows,
        Row("the real ladder: sizes that pay by its profile", paying, "of 9", "more"),
        Row("the real ladder: batches started", started, "runs", "less", target="0 if none pays"),
    ]


def measured(ladder: str, rounds: int) -> Profile:
    """Return what `adaphi profile --batch` measures in a process of its own; what it says is printed."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        command = [
            "profile",
            "--ladder",
            ladder,
            "--batch",
            "--rounds",
            str(rounds),
            "-o",
            str(path),
        ]
        environment = {**os.environ, **MALLOC, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "adaphi", *command],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        print("\n".join(line for line in done.stdout.splitlines() if "in batches" in line))
        return Profile.load(path)


def batches(served: Served) -> dict[int, float]:
    """Return how many runs a daemon began for several requests, by how many."""
    with urllib.request.urlopen(f"http://{served.http}/metrics", timeout=10) as page:
        text = page.read().decode()
    counts: dict[int, float] = {}
    for size, count in re.findall(r'adaphi_batches_total\{size="(\d+)".*\} (\S+)', text):
        counts[int(size)] = counts.get(int(size), 0.0) + float(count)
    return counts


def _paying(profile: Profile) -> list[dict[int, float]]:
    return Batches(profile.costs(), profile.typical_ms(), profile.batch_ms()).paying


async def _in_turn(
    addresses: Sequence[str], picture: Array, blocks: int, seconds: float
) -> list[Seen]:
    """Return what each daemon made of the same floods, asked in turn; the last one says what is too much."""
    async with AsyncExitStack() as stack:
        crowds = [
            [
                await stack.enter_async_context(AsyncClient(address, patience_s=5.0))
                for _ in range(CLIENTS)
            ]
            for address in addresses
        ]
        seen = [Seen() for _ in addresses]
        for block in range(blocks):
            rate = TIMES * await capacity(crowds[-1][:WAITING], seconds / 4, picture)
            for clients, sum_of in zip(crowds, seen, strict=True):
                sum_of.add(await flood(clients, seconds, rate, picture, seed=block))
    return seen


def _compared(profile: Profile, seen: Sequence[Seen], sizes: dict[int, float]) -> list[Row]:
    together, alone = seen
    quality = {v.name: v.quality for v in profile.variants}

    def mean_quality(of: Seen) -> float:
        return sum(quality[name] * n for name, n in of.quality.items()) / of.quality.total()

    def late(of: Seen) -> float:
        return of.outcomes["late"] / of.outcomes.total()

    joined = sum(size * count for size, count in sizes.items()) / together.quality.total()
    print(
        f"with batches {dict(together.outcomes)}, by size {sizes}; without {dict(alone.outcomes)}"
    )
    one_by_one = "one by one"
    return [
        Row("offered", together.outcomes.total() / together.seconds, "1/s", "more"),
        Row(
            "answered on time",
            together.on_time_rate,
            "1/s",
            "more",
            one_by_one,
            alone.on_time_rate,
            "> 1 ×",
        ),
        Row("answered late", late(together), "share", "less", one_by_one, late(alone)),
        Row(
            "mean quality",
            mean_quality(together),
            "score",
            "more",
            one_by_one,
            mean_quality(alone),
        ),
        Row("of the answers, made in batches", joined, "share", "more"),
    ]
