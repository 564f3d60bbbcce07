"""The front's side of the worker: start it, talk to it, notice its death, start another."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from .pump import Pump
from .worker import Orders

log = logging.getLogger("adaphi")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
FOLDER = "adaphi-sockets-"
"""How the name of a folder with a worker's socket begins."""


class Supervisor:
    """Keeps one worker process running; messages from it go to `on_message(kind, frames)`.

    Each worker talks over a socket of its own, so nothing of a dead worker can be taken for its
    successor's. `on_loss(reason)` is called as soon as a worker is gone. Workers that die young are
    replaced after growing pauses.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        orders: Orders,
        on_message: Callable[[bytes, list[Any]], None],
        on_loss: Callable[[str], None],
    ) -> None:
        self.orders = orders
        self.restarts = 0
        self._context = context
        self._on_message = on_message
        self._on_loss = on_loss
        self._folder, self._lock = _own_folder()
        self._pump: Pump | None = None
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

    def send(self, frames: list[Any]) -> bool:
        """Send to the worker; return False if there is none."""
        return self._pump is not None and self._pump.send(frames)

    def proved_well(self) -> None:
        """Note that the worker works, so that its successor would be started without a pause."""
        self._pause_s = FIRST_PAUSE_S

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
        if self._pump is not None:
            self._pump.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    async def _keep_one(self) -> None:
        for number in range(1_000_000_000):
            address = f"ipc://{self._folder / str(number)}"
            socket = self._context.socket(zmq.PAIR)
            socket.linger = 0
            socket.bind(address)
            self._pump = Pump(socket, lambda frames: self._on_message(frames[0].bytes, frames[1:]))
            orders = msgspec.structs.replace(self.orders, address=address)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "adaphi.controller.worker",
                msgspec.json.encode(orders).decode(),
                stdin=asyncio.subprocess.DEVNULL,
            )
            log.info("started worker %d", self._process.pid)
            code = await self._process.wait()
            # What the worker said last may still be on its way: a reason is worth a moment.
            await asyncio.sleep(0.02)
            self._pump.close()
            self.restarts += 1
            self._on_loss(f"exit code {code}" if code >= 0 else f"signal {-code}")
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)


def _own_folder() -> tuple[Path, int]:
    """Return a new folder that only we can enter, and the open lock that says that it is in use."""
    for path in Path(tempfile.gettempdir()).glob(FOLDER + "*"):
        _remove_if_abandoned(path)
    new = Path(tempfile.mkdtemp(prefix="adaphi-new-"))
    lock = os.open(new, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # It gets its name when it is locked, or a daemon that starts now would take it for abandoned.
    return new.rename(new.with_name(FOLDER + new.name.removeprefix("adaphi-new-"))), lock


def _remove_if_abandoned(path: Path) -> None:
    """Remove the folder of a daemon that was killed: its lock went with it."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another user's, or gone by now
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:  # a daemon is using it
        pass
    finally:
        os.close(lock)
