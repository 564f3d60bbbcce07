"""The laws of graph networks held against real runs: operations counted, memory and time measured."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import profiler
from torch.utils.flop_counter import FlopCounterMode

from .citations import Citations
from .graph import Case, GraphNetwork, GraphSize, TimeLaw
from .graph_network import Gcn2, Trained, train

Progress = Callable[[int, int, str], None]

ROUNDS, WARM_UP_ROUNDS = 15, 2
NODE_SHARES, STEPS, WIDTHS, FEATURE_SHARES = (0.5, 1.0), (2, 4, 8), (16, 24, 32, 48), (0.25, 0.5, 1)
"""The grid that the law of time is fitted to and held against."""


def counted_operations(network: Gcn2) -> int:
    """Return the multiply-adds that torch counts in one run."""
    entries = network.neighbours.values().numel()

    def sparse(_: object, __: object, x: Sequence[int], **___: object) -> int:
        return 2 * entries * x[1]

    known = {torch.ops.aten._sparse_addmm: sparse}  # torch itself knows dense products only
    with FlopCounterMode(display=False, custom_mapping=known) as counter, torch.inference_mode():
        network()
    return int(counter.get_total_flops() // 2)


def measured_activation_bytes(network: Gcn2) -> int:
    """Return the most that one run has allocated at once, by torch's profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it announces itself on stderr
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        network()
        with profiler.profile(
            activities=[profiler.ProfilerActivity.CPU], profile_memory=True
        ) as recorded:
            network()
        trace = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    steps = [event["args"] for event in events if event.get("name") == "[memory]"]
    begun = steps[0]["Total Allocated"] - steps[0]["Bytes"]
    return int(max(step["Total Allocated"] for step in steps) - begun)


def kept_bytes(network: Gcn2) -> int:
    """Return what a network's tensors take."""
    matrix = network.neighbours
    parts = (matrix.crow_indices(), matrix.col_indices(), matrix.values(), network.features)
    return sum(x.numel() * x.element_size() for x in (*parts, *network.parameters()))


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """What runs took (ms of processor time, one thread) and what a law says that was fitted to others."""

    cases: tuple[Case, ...]
    measured_ms: NDArray[np.float64]
    predicted_ms: NDArray[np.float64]
    law: TimeLaw

    @property
    def errors(self) -> NDArray[np.float64]:
        """Return |predicted ÷ measured − 1| of each case."""
        error: NDArray[np.float64] = np.abs(self.predicted_ms / self.measured_ms - 1)
        return error


def time_grid(
    graph: Citations,
    ladder: Sequence[GraphNetwork],
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> Timed:
    """Time a grid of networks and `ladder`, whole graph and part; fit on the grid's half, tell the rest.

    Held out are every other network of the grid, and those of the ladder, which come last and are never
    fitted to. Each round runs each network once, so that what else the machine does falls on all alike; a
    figure is the median.
    """
    told = progress or (lambda done, total, what: None)
    graphs = [graph if share == 1 else graph.part(share) for share in NODE_SHARES]
    grid = [
        (g, GraphNetwork(steps, width, max(1, round(share * graph.size.features))))
        for g, (i, steps), (j, width), (k, share) in product(
            graphs, enumerate(STEPS), enumerate(WIDTHS), enumerate(FEATURE_SHARES)
        )
        if (i + j + k) % 2 == 0  # half of them: they need memory
    ]
    fitted = [case for case in grid[::2] if case[1] not in ladder]
    told_only = grid[1::2] + [(graph, network) for network in ladder]
    every = fitted + told_only
    taken_ms = _in_turn([Gcn2(g, network).eval() for g, network in every], rounds, told)
    cases: list[tuple[GraphSize, GraphNetwork]] = [(g.size, network) for g, network in every]
    law = TimeLaw.fit(cases[: len(fitted)], taken_ms[: len(fitted)])
    held_out = tuple(cases[len(fitted) :])
    measured = np.asarray(taken_ms[len(fitted) :])
    return Timed(held_out, measured, law.predict_ms(held_out), law)


def _in_turn(networks: Sequence[Gcn2], rounds: int, told: Progress) -> list[float]:
    """Return what each network takes (ms of this thread): the median over rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken: list[list[float]] = [[] for _ in networks]
    try:
        with torch.inference_mode():
            for number in range(-WARM_UP_ROUNDS, rounds):
                told(max(0, number), rounds, "timing")
                for network, some in zip(networks, taken, strict=True):
                    began = time.thread_time()
                    network()
                    if number >= 0:
                        some.append((time.thread_time() - began) * 1e3)
    finally:
        torch.set_num_threads(threads)
    return [median(some) for some in taken]


def train_ladder(
    graph: Citations,
    ladder: Sequence[GraphNetwork],
    seeds: int,
    epochs: int,
    progress: Progress | None = None,
) -> list[list[Trained]]:
    """Return what training each network makes of seeds 0, 1, …: one list for each φ. One thread."""
    told = progress or (lambda done, total, what: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trained: list[list[Trained]] = [[] for _ in ladder]
    try:
        for done, (seed, phi) in enumerate(product(range(seeds), range(len(ladder)))):
            told(done, seeds * len(ladder), f"training φ={phi}, seed {seed}")
            trained[phi].append(train(graph, ladder[phi], seed, epochs))
    finally:
        torch.set_num_threads(threads)
    return trained


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Return a mean and half the width of its 95 % interval (Student's t), infinite for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return float(np.mean(values)), float("inf")
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)
