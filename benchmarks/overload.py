"""Three times more requests than can be answered, from many clients, arriving whether answered or not.

The daemon serves the real ladder. Capacity is what clients that wait for their answers get from the smallest
variant, before and after: no policy could answer more. In between, requests come in a Poisson stream at three
times that rate.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import numpy as np

from adaphi.controller.client import AsyncClient
from adaphi.errors import NoAnswer, RequestError
from adaphi.model_zoo.backends import Array
from adaphi.model_zoo.images import example_image

from .daemon import daemon
from .harness import Row
from .problems import example_profile

CLIENTS, WAITING = 24, 3
DEADLINE_MS, PATIENT_MS = 150.0, 5000.0
PICTURE = example_image(224, 224)


@dataclass
class Seen:
    """What became of requests; `told_ms` is how long after its sending each was answered, error or not."""

    outcomes: Counter[str] = field(default_factory=Counter)
    told_ms: list[float] = field(default_factory=list)
    queue_ms: list[float] = field(default_factory=list)
    quality: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def on_time_rate(self) -> float:
        """Return answers on time a second."""
        return self.outcomes["on time"] / self.seconds

    def add(self, other: Seen) -> None:
        """Count what became of others, too."""
        self.outcomes += other.outcomes
        self.told_ms += other.told_ms
        self.queue_ms += other.queue_ms
        self.quality += other.quality
        self.seconds += other.seconds

    async def ask(
        self,
        client: AsyncClient,
        picture: Array,
        deadline_ms: float,
        phi: int | None = None,
    ) -> None:
        """Send one request and note what comes back."""
        began = time.perf_counter()
        try:
            answer = await client.infer(picture, deadline_ms=deadline_ms, phi=phi)
        except NoAnswer:
            self.outcomes["no answer"] += 1
            return
        except RequestError as error:
            self.outcomes[error.code] += 1
        else:
            self.outcomes["late" if answer.late else "on time"] += 1
            self.queue_ms.append(answer.queue_ms)
            self.quality[answer.name] += 1
        self.told_ms.append((time.perf_counter() - began) * 1e3)


def run(quick: bool) -> list[Row]:
    """Return the shares that were aimed at."""
    with daemon(example_profile() if quick else "efficientnet-lite") as served:
        return asyncio.run(_measure(served.zmq, 2.0 if quick else 60.0))


async def _measure(address: str, seconds: float) -> list[Row]:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(address, patience_s=5.0))
            for _ in range(CLIENTS)
        ]
        before = await capacity(clients[:WAITING], seconds / 4)
        seen = await flood(clients, seconds, 3 * before)
        after = await capacity(clients[:WAITING], seconds / 4)
    most = (before + after) / 2
    print(f"at three times capacity: {dict(seen.outcomes)}, answered by {dict(seen.quality)}")
    asked = sum(seen.outcomes.values())
    return [
        Row("capacity, the smallest variant", most, "1/s", "more"),
        Row("offered", asked / seen.seconds, "1/s", "more"),
        Row("on time ÷ capacity", seen.on_time_rate / most, "×", "more", target="≥ 0.9"),
        Row("answered late", seen.outcomes["late"] / asked, "share", "less"),
        Row(
            "longest wait in the queue",
            max(seen.queue_ms),
            "ms",
            "less",
            target=f"≤ {DEADLINE_MS:g}",
        ),
        Row("last word, latest", max(seen.told_ms), "ms", "less"),
        Row("without any answer", seen.outcomes["no answer"], "requests", "less", target="0"),
    ]


async def capacity(clients: list[AsyncClient], seconds: float, picture: Array = PICTURE) -> float:
    """Return how many answers a second of the smallest variant clients get that wait for them."""
    seen, until = Seen(seconds=seconds), time.perf_counter() + seconds

    async def ask(client: AsyncClient) -> None:
        while time.perf_counter() < until:
            await seen.ask(client, picture, PATIENT_MS, phi=0)

    await asyncio.gather(*map(ask, clients))
    return seen.on_time_rate


async def flood(
    clients: list[AsyncClient],
    seconds: float,
    rate: float,
    picture: Array = PICTURE,
    seed: int = 0,
) -> Seen:
    """Let requests arrive in a Poisson stream of `rate` a second, from one client after the other."""
    random, seen = np.random.default_rng(seed), Seen(seconds=seconds)
    began = time.perf_counter()
    arrivals = began + np.cumsum(random.exponential(1 / rate, int(2 * rate * seconds)))
    async with asyncio.TaskGroup() as group:
        for number, arrival in enumerate(arrivals[arrivals < began + seconds].tolist()):
            await asyncio.sleep(max(0.0, arrival - time.perf_counter()))
            group.create_task(seen.ask(clients[number % len(clients)], picture, DEADLINE_MS))
    return seen
