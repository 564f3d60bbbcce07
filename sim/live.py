"""Real time: a workload and a budget trace, played to a running daemon by an ordinary client.

Open loop: every request is sent when its time has come, whatever became of those before, and once. How late
the client itself was is part of the result: where that is much, it says more of the machine that asked than
of the daemon. Times of queue and model are the daemon's own, from the arrival of a request.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..controller.client import AsyncClient
from ..controller.protocol import Answer, OkHeader
from ..errors import Busy, Expired, InputError, NotReady, RequestError, Shed
from ..model_zoo.images import as_image
from ..model_zoo.profile import Profile
from ..policies.trace import Trace
from .requests import BUSY, EXPIRED, LATE, OK, OUTCOMES, SHED, Served
from .workload import Workload

Floats = NDArray[np.float64]
Progress = Callable[[int, int, str], object]

FAILED = len(OUTCOMES)
"""The outcome of a request that got another error, or none: only in real time."""
HEAD_START_S = 0.2
"""Between the first budget and the time 0 of the workload."""
MARGIN_S = 1.0
"""How much longer than until the next row a budget holds."""
_REFUSALS = {Shed: SHED, Expired: EXPIRED, Busy: BUSY}


@dataclass(frozen=True)
class Live(Served):
    """What a daemon really made of N requests; `workload` has the times at which they were really sent.

    `late_ms` (N,) is how long after its time each was sent, `seen_ms` (N,) how long its answer took as the
    client saw it, NaN where there was none; `overhead_ms` (N,) what the daemon's front took of that.
    """

    late_ms: Floats
    seen_ms: Floats
    overhead_ms: Floats

    @property
    def inference_ms(self) -> Floats:
        """Return how long each run took the model itself (N,), NaN where there was none."""
        return np.asarray((self.done_s - self.began_s) * 1e3 - self.overhead_ms)

    def summary(self) -> dict[str, float | int | str]:
        """Return the figures of a simulation, and those of real time."""
        late = np.percentile(self.late_ms, [50, 99, 100])
        figures = super().summary()
        figures["failed_share"] = float((self.outcome == FAILED).mean())
        figures |= {
            f"client_late_{name}_ms": float(value)
            for name, value in zip(("p50", "p99", "max"), late, strict=True)
        }
        if np.isfinite(self.seen_ms).any():
            figures["seen_p95_ms"] = float(np.nanpercentile(self.seen_ms, 95))
            figures["overhead_p50_ms"] = float(np.nanmedian(self.overhead_ms))
        return figures

    def write_csv(self, path: str | Path) -> None:
        """Write a line for each request: when it was sent, what became of it, and how long it took (ms)."""
        names = (*OUTCOMES, "failed")
        with Path(path).open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["sent_s", "outcome", "phi", "queue_ms", "latency_ms", "seen_ms"])
            for sent_s, outcome, phi, *times in zip(
                self.workload.arrived_s.tolist(),
                self.outcome.tolist(),
                self.phi.tolist(),
                self.wait_ms.tolist(),
                self.latency_ms.tolist(),
                self.seen_ms.tolist(),
                strict=True,
            ):
                shown = ("" if t != t else f"{t:.3f}" for t in times)  # not a number: no answer
                lines.writerow([f"{sent_s:.6f}", names[outcome], phi if phi >= 0 else "", *shown])


def play(
    workload: Workload,
    profile: Profile,
    picture: Any,
    *,
    address: str | None = None,
    budget: Trace | None = None,
    progress: Progress = lambda done, total, what: None,
    **keys: Any,
) -> Live:
    """Send `picture` for every request of a workload to the daemon at `address`, and return what came.

    `budget` is pushed row by row: its `budget_ms`, and `max_phi` where it has that column. `profile` is the
    daemon's own; `keys` are `AsyncClient`'s. Raises `InputError` if the daemon serves another ladder or does
    not take budgets, `NoAnswer` if there is none, `NotReady` if it is not warm.
    """
    image = as_image(picture)
    image.flags.writeable = False  # or every request would copy it
    return asyncio.run(_Player(workload, profile, image, budget, progress).run(address, keys))


class _Player:
    """One performance."""

    def __init__(
        self,
        workload: Workload,
        profile: Profile,
        image: NDArray[np.uint8],
        budget: Trace | None,
        progress: Progress,
    ) -> None:
        self.workload, self.profile, self.image = workload, profile, image
        self.budget, self.progress = budget, progress
        requests = len(workload)
        self.sent_s, self.seen_s = np.full(requests, np.nan), np.full(requests, np.nan)
        self.answers: list[Answer | RequestError | None] = [None] * requests
        self.done = 0

    async def run(self, address: str | None, keys: dict[str, Any]) -> Live:
        """Play all of it, wait for the last answer, and return what came."""
        async with AsyncClient(address, retries=0, **keys) as self.client:
            hello = await self.client.hello()
            self._check(hello)
            self.loop = asyncio.get_running_loop()
            self.zero_s = self.loop.time() + HEAD_START_S
            beside = [self.loop.create_task(self._tell())]
            if self.budget is not None:
                beside.append(self.loop.create_task(self._push(self.budget)))
            try:
                await self._send_all()
            finally:
                for task in beside:
                    task.cancel()
            for ended in await asyncio.gather(*beside, return_exceptions=True):
                if isinstance(ended, Exception):  # not that it was cancelled
                    raise ended
        return self._result(hello.policy)

    def _check(self, hello: OkHeader) -> None:
        names = tuple(variant.name for variant in self.profile.variants)
        if not hello.ready:
            raise NotReady(
                "the daemon's models are not warm yet", help="wait until /readyz says so"
            )
        if hello.variants != names:
            raise InputError(
                f"the daemon serves {', '.join(hello.variants)}; the profile has {', '.join(names)}",
                help="give the profile that the daemon was started with",
            )

    async def _send_all(self) -> None:
        """Begin every request at its time."""
        waiting = set()
        for number, arrived_s in enumerate(self.workload.arrived_s.tolist()):
            wait_s = self.zero_s + arrived_s - self.loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            task = self.loop.create_task(self._ask(number))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.gather(*waiting)

    async def _ask(self, number: int) -> None:
        deadline_ms = float(self.workload.deadline_ms[number])
        self.sent_s[number] = self.loop.time() - self.zero_s
        try:
            self.answers[number] = await self.client.infer(
                self.image,
                deadline_ms=deadline_ms if np.isfinite(deadline_ms) else None,
                priority=int(self.workload.priority[number]),
            )
            self.seen_s[number] = self.loop.time() - self.zero_s
        except RequestError as error:
            self.answers[number] = error
        self.done += 1

    async def _push(self, budget: Trace) -> None:
        """Push every row at its time; the first holds from the beginning."""
        caps = budget.columns.get("max_phi", np.full(len(budget), np.nan))
        next_s = np.append(budget.time_s[1:], np.inf)
        for time_s, budget_ms, cap, until_s in zip(
            budget.time_s.tolist(),
            budget.budget_ms.tolist(),
            caps.tolist(),
            next_s.tolist(),
            strict=True,
        ):
            await asyncio.sleep(self.zero_s + time_s - self.loop.time() if time_s > 0 else 0)
            if until_s <= 0:
                continue
            await self.client.push_budget(
                budget_ms,
                max_phi=int(cap) if np.isfinite(cap) else None,
                ttl_s=min(until_s - max(time_s, 0.0), 1e6) + MARGIN_S,
            )

    async def _tell(self) -> None:
        while True:
            total = len(self.answers)
            self.progress(self.done, total, f"{self.done} of {total} requests")
            await asyncio.sleep(0.5)

    def _result(self, policy: str) -> Live:
        requests, planned_s = len(self.workload), self.workload.arrived_s
        outcome, phi = np.full(requests, FAILED, np.uint8), np.full(requests, -1, np.int8)
        began_s, done_s = np.full(requests, np.nan), np.full(requests, np.nan)
        overhead_ms = np.full(requests, np.nan)
        for number, answer in enumerate(self.answers):
            if isinstance(answer, Answer):
                outcome[number], phi[number] = LATE if answer.late else OK, answer.phi
                began_s[number] = self.sent_s[number] + answer.queue_ms / 1e3
                done_s[number] = self.sent_s[number] + answer.latency_ms / 1e3
                overhead_ms[number] = answer.latency_ms - answer.queue_ms - answer.inference_ms
            elif answer is not None:
                outcome[number] = _REFUSALS.get(type(answer), FAILED)
        really = Workload(
            self.sent_s, self.workload.deadline_ms, self.workload.priority, self.workload.name
        )
        return Live(
            policy,
            really,
            self.profile.costs().quality,
            outcome,
            phi,
            began_s,
            done_s,
            switches(phi, began_s),
            (self.sent_s - planned_s) * 1e3,
            (self.seen_s - self.sent_s) * 1e3,
            overhead_ms,
        )


def switches(phi: NDArray[np.int8], began_s: Floats) -> int:
    """Return how often the variant changed from one run to the next; which was active before is not known."""
    ran = np.isfinite(began_s)
    order = np.argsort(began_s[ran], kind="stable")
    return int((np.diff(phi[ran][order]) != 0).sum())
