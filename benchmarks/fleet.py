"""A device's day in a fleet, one core: drawn from the chain of a real trace, and replayed by each policy.

The days have 86,400 steps: their chains are fitted to those of the real traces that have a row every second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from adaphi.controller.step import Controller, Reading
from adaphi.policies import Objective
from adaphi.sim import Trace, import_raw
from adaphi.sim.cells import Candidate, Setting, replayed
from adaphi.sim.fleet import Day

from .harness import Row
from .policy import trace_folder
from .problems import ROOT, example_profile

POLICIES = ("static:0", "greedy", "table", "clairvoyant")
DAY_S, SCALES = 86_400.0, (0.5, 0.75, 1.0)
TARGET = "≥ 17: 10,000 in 5 minutes on 2 cores"


def run(quick: bool = False) -> list[Row]:
    """Return device-days a second, whole and by part; the peer is the readable loop with one policy."""
    profile, devices = example_profile(), 1 if quick else 200
    thresholds_ms = profile.costs().thresholds_ms
    parts = [trace.split() for trace in traces()]
    days = [Day.like(rest, thresholds_ms, DAY_S) for _, rest in parts]
    settings = [Setting.of(profile, "p95", Objective(), [first.budget_ms]) for first, _ in parts]

    def whole(names: tuple[str, ...]) -> Callable[[int], object]:
        candidates = [Candidate(name, name) for name in names]
        return lambda d: days[d % len(days)].play(settings[d % len(days)], candidates, (0, d))

    def readable(device: int) -> None:
        """Draw a twentieth of a day and replay one rule over it, step by step."""
        chain = days[device % len(days)].chain
        budgets = chain.sample(int(DAY_S) // 20, (0, device), compiled=False).tolist()
        candidate = Candidate("greedy", "greedy")
        controller = Controller(candidate.policy(settings[0], 0), profile.costs())
        for budget_ms in budgets:
            controller.step(Reading(budget_ms))

    for device in range(len(days)):  # every table is solved, every loop compiled
        whole(POLICIES)(device)
    loop = rate(readable, max(1, devices // 20)) / 20
    rows = [
        Row(
            f"{len(POLICIES)} policies: {', '.join(POLICIES)}",
            rate(whole(POLICIES), devices),
            "device-days/s",
            "more",
            "Python loop, one rule",
            loop,
            TARGET,
        )
    ]
    draw = rate(lambda d: days[d % len(days)].draw((0, d)), devices)
    rows.append(Row("a day drawn and checked, alone", draw, "device-days/s", "more"))
    for name in (*POLICIES, "hysteresis"):
        alone = rate(whole((name,)), max(1, devices // (20 if name == "hysteresis" else 1)))
        rows.append(Row(f"a day with {name} alone", alone, "device-days/s", "more"))
    rest = [trace for _, trace in parts]
    return rows + likeness(rest, days, settings, 1 if quick else 5)


def likeness(
    rest: Sequence[Trace], days: Sequence[Day], settings: Sequence[Setting], draws: int
) -> list[Row]:
    """Return how far the figures of drawn days lie from those of the traces they are drawn from."""
    candidates = [Candidate(name, name) for name in ("static:0", "greedy", "table")]
    off: dict[str, list[float]] = {"on_time_share": [], "switch_share": [], "mean_quality": []}
    for trace, day, setting in zip(rest, days, settings, strict=True):
        real = replayed(trace, setting, candidates, 0)
        drawn = [day.play(setting, candidates, (0, device)) for device in range(draws)]
        for name, found in off.items():
            for place, figures in enumerate(real):
                mean = np.mean([float(figures_[place][name]) for figures_ in drawn])
                found.append(abs(float(mean - figures[name])))
    return [
        Row(f"{name}, a day from its trace, {which}", float(of(found)), "share", "less")
        for name, found in off.items()
        for which, of in (("mean", np.mean), ("most", np.max))
    ]


def rate(function: Callable[[int], object], devices: int) -> float:
    """Return how many devices a second of processor time does."""
    began = time.process_time()
    for device in range(devices):
        function(device)
    return devices / (time.process_time() - began)


def traces() -> Iterator[Trace]:
    """Yield the real traces that were recorded once a second, as budgets at `SCALES`; else the example."""
    paths = sorted((trace_folder() / "budget").glob("*.csv"))
    found = [import_raw(path, "absolute") for path in paths if of_a_second(path)]
    for trace in found or [Trace.read(ROOT / "examples" / "trace.csv")]:
        for scale in SCALES:
            yield Trace(trace.time_s, trace.budget_ms * scale, name=trace.name)


def of_a_second(path: Path) -> bool:
    """Say whether a trace's middle step is a second, a twentieth more or less."""
    time_s = np.loadtxt(path, delimiter=",", skiprows=1, usecols=0, ndmin=1)
    return len(time_s) > 1 and abs(float(np.median(np.diff(time_s))) - 1.0) < 0.05
