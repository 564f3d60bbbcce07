"""Loads and unloads by order: what the worker is told, and what whoever ordered it hears."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from adaphi.controller import worker
from adaphi.controller.residency import Residency
from adaphi.errors import InvalidRequest, NotReady, WorkerLost


class Orders:
    """A worker that only writes down what it is told; `there` says whether there is one."""

    def __init__(self, planned: bool = False) -> None:
        self.kinds: list[bytes] = []
        self.there = True
        self.residency = Residency(["a", "b", "c"], self.send, lambda: None)
        self.residency.follow(planned)

    def send(self, kind: bytes, _: msgspec.Struct) -> bool:
        if self.there:
            self.kinds.append(kind)
        return self.there


def while_loading(orders: Orders, then: Callable[[], object]) -> Awaitable[None]:
    """Order φ = 1 to be loaded, let `then` happen, and return what came of the load."""

    async def main() -> None:
        load = asyncio.create_task(orders.residency.load(1))
        await asyncio.sleep(0)
        then()
        await load

    return main()


def test_a_variant_answers_again_once_it_is_loaded_not_before() -> None:
    """Two who order the same load are one order; both hear of its end."""
    orders = Orders()
    residency = orders.residency
    residency.unload(1)

    async def main() -> None:
        loads = [asyncio.create_task(residency.load(1)) for _ in range(2)]
        await asyncio.sleep(0)
        assert residency.unloaded == {1}
        residency.on_loaded(worker.Loaded(1, (0, 1, 2)))
        await asyncio.gather(*loads)

    asyncio.run(main())
    assert residency.unloaded == frozenset()
    assert orders.kinds == [worker.EVICT, worker.LOAD]


def test_an_old_load_does_not_evict_what_is_in_service_again() -> None:
    """Loaded, unloaded, loaded again in one breath: the first end answers, the second is nothing."""
    orders = Orders()
    residency = orders.residency

    async def main() -> None:
        first = asyncio.create_task(residency.load(1))
        await asyncio.sleep(0)
        residency.unload(1)
        second = asyncio.create_task(residency.load(1))
        await asyncio.sleep(0)
        for _ in range(2):
            residency.on_loaded(worker.Loaded(1, (0, 1, 2)))
        with pytest.raises(NotReady, match="unloaded while"):
            await first
        await second

    asyncio.run(main())
    assert residency.unloaded == frozenset()
    assert orders.kinds == [worker.LOAD, worker.EVICT, worker.LOAD]


def test_a_load_that_fails_says_why() -> None:
    """The worker's own words; its death; there being none."""
    orders = Orders()
    residency = orders.residency
    failed = worker.Loaded(1, (0,), error="no such weights")
    with pytest.raises(NotReady, match="no such weights"):
        asyncio.run(while_loading(orders, lambda: residency.on_loaded(failed)))
    with pytest.raises(WorkerLost):
        asyncio.run(while_loading(orders, residency.on_worker_lost))
    orders.there = False
    with pytest.raises(NotReady, match="restarted"):
        asyncio.run(while_loading(orders, lambda: None))


def test_the_last_order_holds() -> None:
    """What is unloaded while it is being loaded goes again when it comes; so it does after a restart."""
    orders = Orders()
    with pytest.raises(NotReady, match="unloaded while"):
        asyncio.run(while_loading(orders, lambda: orders.residency.unload(1)))
    orders.residency.on_loaded(worker.Loaded(1, (0, 1, 2)))
    assert orders.residency.unloaded == {1}
    assert orders.kinds == [worker.LOAD, worker.EVICT, worker.EVICT]
    orders.residency.on_up()
    assert orders.kinds[3:] == [worker.EVICT]


def test_there_is_one_master() -> None:
    """Where the policy plans what stays resident, both orders are refused and nothing is sent."""
    orders = Orders(planned=True)
    with pytest.raises(InvalidRequest, match="policy plans"):
        orders.residency.unload(1)
    with pytest.raises(InvalidRequest, match="policy plans"):
        asyncio.run(orders.residency.load(1))
    assert orders.kinds == []
