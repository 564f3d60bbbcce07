"""Taking variants out of service and back, by order from outside: what loads and unloads mean here.

A variant that was unloaded gives its memory back and answers nothing until it is loaded again. While it is
being loaded, behind the running requests, the others answer. Where the policy itself plans what stays
resident, orders are refused: two masters would undo each other's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from ..errors import InvalidRequest, NotReady, RequestError, WorkerLost
from . import worker

LOAD_S = 60.0
"""How long a load may take before whoever ordered it is told that it still goes on."""


class Residency:
    """Which of `names` (M,) are unloaded, and the loads that somebody waits for.

    `send` gives the worker an order and returns False if there is none; `changed` is called with every
    change of `unloaded`.
    """

    def __init__(
        self,
        names: list[str],
        send: Callable[[bytes, msgspec.Struct], bool],
        changed: Callable[[], None],
    ) -> None:
        self.unloaded: frozenset[int] = frozenset()
        self._names = names
        self._planned = False
        self._send = send
        self._changed = changed
        self._loads: dict[int, asyncio.Future[None]] = {}

    def follow(self, planned: bool) -> None:
        """Note whether the policy plans the resident set; if so, nothing stays unloaded by order."""
        self._planned = planned
        if planned and self.unloaded:
            self._put(frozenset())

    async def load(self, phi: int) -> None:
        """Return when `phi` is resident and in service; raise the `RequestError` that says why it is not."""
        self._refuse_where_planned()
        if phi not in self._loads:
            self._order(worker.LOAD, worker.Load(phi))
            self._loads[phi] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(asyncio.shield(self._loads[phi]), LOAD_S)
        except TimeoutError:
            raise NotReady(f"{self._names[phi]} is still being loaded") from None

    def unload(self, phi: int) -> None:
        """Take `phi` out of service and give its memory back; raise `InvalidRequest` for the last one."""
        self._refuse_where_planned()
        if len(self.unloaded | {phi}) == len(self._names):
            raise InvalidRequest(f"{self._names[phi]} is the last variant in service")
        self._order(worker.EVICT, worker.Evict(phi))
        self._put(self.unloaded | {phi})
        self._fail(
            self._loads.pop(phi, None), NotReady("it was unloaded while it was being loaded")
        )

    def on_loaded(self, loaded: worker.Loaded) -> None:
        """A load has ended: put the variant back into service, or say why not."""
        future = self._loads.pop(loaded.phi, None)
        if loaded.error:
            self._fail(future, NotReady(f"it could not be loaded: {loaded.error}"))
        elif future is None:
            if loaded.phi in self.unloaded:  # meanwhile: the last order holds
                self._order(worker.EVICT, worker.Evict(loaded.phi))
        else:
            self._put(self.unloaded - {loaded.phi})
            future.set_result(None)

    def on_up(self) -> None:
        """A new worker has loaded what it could: what was unloaded goes again."""
        for phi in self.unloaded:
            self._order(worker.EVICT, worker.Evict(phi))

    def on_worker_lost(self) -> None:
        """Answer whoever waits for a load."""
        for future in self._loads.values():
            self._fail(future, WorkerLost("the worker died while it loaded a variant"))
        self._loads.clear()

    @staticmethod
    def _fail(future: asyncio.Future[None] | None, error: RequestError) -> None:
        if future is not None:
            future.set_exception(error)
            future.exception()  # whoever ordered the load may have gone

    def _put(self, unloaded: frozenset[int]) -> None:
        if unloaded != self.unloaded:
            self.unloaded = unloaded
            self._changed()

    def _order(self, kind: bytes, order: msgspec.Struct) -> None:
        if not self._send(kind, order):
            raise NotReady("the worker is being restarted")

    def _refuse_where_planned(self) -> None:
        if self._planned:
            raise InvalidRequest(
                "the policy plans what stays resident",
                help="to decide it yourself, serve a rule or raise [worker] memory_limit_mb",
            )
