"""The front's side of the worker: start it, talk to it, notice its death, start another."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

from .arena import Arena
from .channel import FrontEnd, OnMessage
from .worker import RUN, Orders, Run

log = logging.getLogger("adaphi")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0


class Supervisor:
    """Keeps one worker process running; messages from it go to `on_message(kind, header, tensor)`.

    A run's tensors lie in the `arena`. Each worker has a channel of its own, so nothing of a dead worker can
    be taken for its successor's. `on_loss(reason)` is called as soon as a worker is gone, after what it said
    last. Workers that die young are replaced after growing pauses.
    """

    def __init__(
        self,
        orders: Orders,
        arena: Arena,
        on_message: OnMessage,
        on_loss: Callable[[str], None],
    ) -> None:
        self.orders = orders
        self.restarts = 0
        self._arena = arena
        self._on_message = on_message
        self._on_loss = on_loss
        self._channel: FrontEnd | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._pause_s = FIRST_PAUSE_S

    @property
    def pid(self) -> int | None:
        """Return the worker's process id, None while there is none."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process is not None else None

    def start(self) -> None:
        """Start the first worker, and from now on replace those that die."""
        self._task = asyncio.create_task(self._keep_one())

    def send(self, kind: bytes, header: msgspec.Struct | None = None) -> bool:
        """Send to the worker; return False if there is none."""
        return self._channel is not None and self._channel.send(kind, header)

    def run(self, order: Run, tensors: Sequence[NDArray[Any]], *, ahead: bool = False) -> None:
        """Have the worker run these tensors; told `ahead`, while it is busy, with others in one piece."""
        if self._channel is not None:
            order.offset = self._arena.put(*tensors)
            if ahead:
                self._channel.send_soon(RUN, order)
            else:
                self._channel.send(RUN, order)

    @property
    def has_room(self) -> bool:
        """Say whether the tensors of one more run can lie beside those of the runs that are not over."""
        return self._arena.has_room

    def withdraw(self, key: int) -> None:
        """Have the worker not begin a run that it was told, if it has not yet."""
        self._arena.withdraw(key)

    def has_begun(self, key: int) -> bool:
        """Say whether the worker began this run, be it gone meanwhile."""
        return self._arena.has_begun(key)

    def end_run(self) -> None:
        """Note that the oldest run is over: who runs was worth its start, and so is a successor at once."""
        self._arena.end_run()
        self._pause_s = FIRST_PAUSE_S

    def forget_runs(self) -> None:
        """Note that no run is under way any more."""
        self._arena.forget_runs()

    def stage(self, tensor: NDArray[Any]) -> None:
        """Bring the tensor of what is likely to run next to where the worker sees it."""
        self._arena.stage(tensor)

    def kill(self, reason: str) -> None:
        """Kill a worker that does not answer; its successor follows by itself."""
        if self.pid is not None:
            log.warning("killing worker %d: %s", self.pid, reason)
            os.kill(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """End the worker and start no other."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 1.0)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._channel is not None:
            self._channel.close()

    async def _keep_one(self) -> None:
        while True:
            try:
                reason = await self._live_one_life()
            except OSError as error:  # no descriptor, or no memory, is left for one: that may pass
                reason = f"cannot be started: {error.strerror}"
            self.restarts += 1
            try:
                self._on_loss(reason)
            except Exception:  # a bug; but a successor there has to be
                log.exception("the loss of a worker could not be handled")
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    async def _live_one_life(self) -> str:
        """Start a worker and return how it ended; raise `OSError` if none can be started."""
        self._channel = channel = FrontEnd(self._on_message)
        inherited = channel.theirs, self._arena.descriptor
        orders = msgspec.structs.replace(self.orders, channel=inherited)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "adaphi.controller.worker",
                msgspec.json.encode(orders).decode(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=inherited,
            )
        except OSError:
            channel.close()
            raise
        finally:
            channel.hand_over()
        log.info("started worker %d", self._process.pid)
        code = await self._process.wait()
        channel.drain()
        channel.close()
        return f"exit code {code}" if code >= 0 else f"signal {-code}"
