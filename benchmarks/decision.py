"""One decision, from Python: a table's look-up, and the whole step of the controller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from time import thread_time

import numpy as np

from adaphi.controller import flight
from adaphi.controller.scheduler import Limits, Request, Scheduler
from adaphi.controller.step import Controller, Reading
from adaphi.policies import Committee, Objective, TablePolicy
from adaphi.policies.choose import choose
from adaphi.policies.lookup import Policy

from .harness import Row, seconds
from .problems import example_profile, wandering_trace

Batches = Sequence[Mapping[int, float]]
"""What batches of each variant take (ms), by their size."""


def run(quick: bool = False) -> list[Row]:
    """Return the figures in microseconds; the peer is numpy's own way to do the same."""
    profile = example_profile()
    trace = wandering_trace(4000)
    lookup = TablePolicy.solve(profile, [trace.budget_ms]).bind(profile)
    controller = Controller(lookup, profile.costs())
    count = 2_000 if quick else 100_000
    readings = np.resize(trace.budget_ms, count).tolist()
    wrapped = [Reading(budget) for budget in readings]
    edges, table = lookup.edges_ms, lookup.table

    def look_up() -> None:
        decide, active = lookup.decide, 0
        for reading in readings:
            active = decide(reading, active)

    def numpy_look_up() -> None:
        active = 0
        for reading in readings:
            active = int(table[np.searchsorted(edges, reading, side="right"), active])

    def step() -> None:
        decide = controller.step
        for reading in wrapped:
            decide(reading)

    solved = TablePolicy.solve(profile, [trace.budget_ms[:1000]])
    learning = choose(solved, profile, adapt=True)
    readable = Committee(profile.costs(), Objective(), solved.history, compiled=False)
    some = readings[: 200 if quick else 4000]

    def learn(policy: Policy) -> None:
        policy.reset()
        active = 0
        for reading in some:
            active = policy.decide(reading, active)

    def scheduled_p99(policy: Policy, waiting: int = 2, batches: Batches = ()) -> float:
        """Return the p99 of admitting, choosing and deciding one request, others waiting: µs of CPU."""
        costs = profile.costs()
        scheduler = Scheduler(Controller(policy, costs), costs, batch_ms=batches)
        taken, now_s, limits = [], 0.0, Limits(slowdown=1.1)
        for number, reading in enumerate(some):
            request = Request(number, now_s, now_s + 0.3 + reading / 1e3)
            began = thread_time()
            scheduler.admit(request, now_s, limits)
            middle = thread_time()
            scheduler.controller.prepare()  # while the worker works
            again = thread_time()
            if len(scheduler) > waiting:
                scheduler.next(now_s + 0.3, limits)
            taken.append((thread_time() - again + middle - began) * 1e6)
        return float(np.quantile(taken[len(taken) // 10 :], 0.99))

    def record(folder: str) -> None:
        header = flight.Header(
            boot_id="", ladder="", ladder_fingerprint="", policy="", variants=(), typical_ms=()
        )
        recorder = flight.FlightRecorder(folder, header)
        for reading in some:
            recorder.add(flight.DECISION, phi=1, reading_ms=reading, resident=frozenset({0, 1}))
            recorder.flush()
        recorder.close()

    paying = [{2: 1.1 * ms, 4: 1.3 * ms, 8: 1.7 * ms} for ms in profile.typical_ms()]
    ours, theirs, whole = (s / count * 1e6 for s in seconds(look_up, numpy_look_up, step))
    learned, read = (
        s / len(some) * 1e6
        for s in seconds(lambda: learn(learning), lambda: learn(readable), repeat=3)
    )
    with TemporaryDirectory() as folder:
        recorded = seconds(lambda: record(folder))[0] / len(some) * 1e6
    return [
        Row("bin and look-up", ours, "µs", "less", "searchsorted, array", theirs, "< 0.25 µs"),
        Row("Controller.step", whole, "µs", "less", target="< 2 µs"),
        Row(
            "a learning policy's, its refreshes included",
            learned,
            "µs",
            "less",
            "not compiled",
            read,
        ),
        Row(
            "scheduling and deciding, table: p99",
            scheduled_p99(lookup),
            "µs",
            "less",
            target="< 50 µs",
        ),
        Row("the same, 12 waiting: p99", scheduled_p99(lookup, 12), "µs", "less"),
        Row("the same with batches that pay: p99", scheduled_p99(lookup, 12, paying), "µs", "less"),
        Row(
            "two waiting, learning policy: p99",
            scheduled_p99(learning),
            "µs",
            "less",
            "not compiled",
            scheduled_p99(readable),
            "< 50 µs",
        ),
        Row("recording it", recorded, "µs", "less", target="< 1 % of a request"),
    ]
