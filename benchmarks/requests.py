"""The request-level simulation, beside SimPy and a hand-written loop on the same model, one core.

All serve one queue in the order of deadlines, drop what has expired, and take the largest variant that the
time left allows; the peers have neither admission, priorities, stalls nor a slow-down.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np

from adaphi.sim import request_kernels
from adaphi.sim.requests import serve
from adaphi.sim.service_times import draw
from adaphi.sim.workload import Workload

from .harness import Row, seconds
from .problems import example_profile


def run(quick: bool = False) -> list[Row]:
    """Return thousands of requests a second; what each model answered on time is printed by the tests."""
    profile = example_profile()
    requests = 5_000 if quick else 200_000
    workload = Workload.poisson(40.0, requests, 60.0, seed=0)
    service_ms = draw(profile, requests, seed=0)
    few = requests // 20
    latency_ms = profile.costs().latency_ms.tolist()
    part = Workload(workload.arrived_s[:few], 60.0)

    def ours(compiled: bool, of: Workload = workload) -> None:
        serve(of, profile, "greedy", service_ms=service_ms[: len(of)], compiled=compiled)

    simpy_s, loop_s, readable_s = seconds(
        lambda: by_simpy(part, service_ms, latency_ms),
        lambda: by_loop(part, service_ms, latency_ms),
        lambda: ours(False, part),
        repeat=3,
    )
    thousand = few / 1e3
    rows = [("readable loop, the daemon's own scheduler", thousand / readable_s, "")]
    if request_kernels.COMPILED:
        fast_s = seconds(lambda: ours(True), repeat=3)[0]
        rows.insert(0, ("compiled loop", requests / 1e3 / fast_s, "≥ 20 ×, ≥ 200"))
    peers = (("SimPy", thousand / simpy_s), ("loop over a heap", thousand / loop_s))
    return [
        Row(what, rate, "k requests/s", "more", peer, peer_rate, target if peer == "SimPy" else "")
        for what, rate, target in rows
        for peer, peer_rate in peers
    ]


def by_simpy(workload: Workload, service_ms: np.ndarray, latency_ms: list[float]) -> int:
    """Return how many are on time: the model as SimPy's examples would write it."""
    import simpy

    environment = simpy.Environment()
    worker = simpy.PriorityResource(environment)
    on_time = 0

    def request(number: int, deadline_s: float):
        nonlocal on_time
        with worker.request(priority=deadline_s) as turn:
            yield turn
            slack_ms = (deadline_s - environment.now) * 1e3
            if slack_ms <= 0:
                return
            fits = [phi for phi, ms in enumerate(latency_ms) if ms <= slack_ms]
            yield environment.timeout(service_ms[number, fits[-1] if fits else 0] / 1e3)
            on_time += environment.now <= deadline_s

    def source():
        for number, arrived_s in enumerate(workload.arrived_s.tolist()):
            yield environment.timeout(arrived_s - environment.now)
            deadline_s = arrived_s + float(workload.deadline_ms[number]) / 1e3
            environment.process(request(number, deadline_s))

    environment.process(source())
    environment.run()
    return on_time


def by_loop(workload: Workload, service_ms: np.ndarray, latency_ms: list[float]) -> int:
    """Return how many are on time: the same model in a loop over a heap of waiting requests."""
    arrived = workload.arrived_s.tolist()
    waits = workload.deadline_ms.tolist()
    queue: list[tuple[float, int]] = []
    now_s, number, on_time = 0.0, 0, 0
    while number < len(arrived) or queue:
        if not queue:
            now_s = max(now_s, arrived[number])
        while number < len(arrived) and arrived[number] <= now_s:
            heappush(queue, (arrived[number] + waits[number] / 1e3, number))
            number += 1
        deadline_s, first = heappop(queue)
        slack_ms = (deadline_s - now_s) * 1e3
        if slack_ms <= 0:
            continue
        fits = [phi for phi, ms in enumerate(latency_ms) if ms <= slack_ms]
        now_s += float(service_ms[first, fits[-1] if fits else 0]) / 1e3
        on_time += now_s <= deadline_s
    return on_time
