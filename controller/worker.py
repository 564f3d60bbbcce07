"""The worker process: the only place that runs models. The front may kill it at any instant.

It connects to the front's socket, loads and warms the ladder, measures a profile if it was given none,
and then runs one request after the other. Messages are [kind, msgpack header, tensor?]:

    front → worker    R run · = have these resident · L load a variant behind the runs · E evict one
                      ? what is resident: a sign of life
    worker → front    P progress · F fatal, cannot start · U up, with the profile · D done · X failed
                      K what is resident, when asked or where that changed between two runs
                      O an ordered load has ended

It ends when the front is gone: the socket is polled with a timeout and the parent's id is checked. On Linux
the kernel kills it then, also where it hangs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from ..errors import AdaphiError, RequestError
from ..model_zoo.profile import Profile
from .protocol import decode, encode, tensor_of

if TYPE_CHECKING:
    from ..model_zoo.choosing import Measured
    from ..model_zoo.pool import WarmPool

WARM_UP_RUNS = 3

LOADING_POLL_MS, IDLE_POLL_MS = 20, 500
RUN, KEEP, LOAD, EVICT, ASK = b"R", b"=", b"L", b"E", b"?"
PROGRESS, FATAL, UP, DONE, FAILED, KEPT, LOADED = b"P", b"F", b"U", b"D", b"X", b"K", b"O"


class Orders(msgspec.Struct, kw_only=True):
    """What a worker is told on its command line, as JSON."""

    address: str
    ladder: str
    quality: tuple[float, ...] | None = None
    profile: Profile | None = None
    backend: str | None = None
    threads: int = 1
    memory_limit_bytes: int | None = None
    profile_rounds: int = 8


class Progress(msgspec.Struct):
    """How far the start is."""

    done: int
    total: int
    what: str


class Fatal(msgspec.Struct):
    """Why the worker cannot start."""

    message: str
    help: str = ""


class Up(msgspec.Struct):
    """The worker is warm."""

    profile: Profile
    resident: tuple[int, ...]


class Done(msgspec.Struct):
    """A finished run."""

    key: int
    inference_ms: float
    cold: bool
    resident: tuple[int, ...]
    dtype: str
    shape: tuple[int, ...]
    top: tuple[tuple[str, float], ...]


class Kept(msgspec.Struct):
    """What is resident now, or is to be."""

    resident: tuple[int, ...]


class Load(msgspec.Struct):
    """An order to make variant `phi` resident, behind the runs."""

    phi: int


class Evict(msgspec.Struct):
    """An order to drop variant `phi`."""

    phi: int


class Loaded(msgspec.Struct):
    """The end of an ordered load: what is resident now, and why `phi` is not, if so."""

    phi: int
    resident: tuple[int, ...]
    error: str = ""


class Failed(msgspec.Struct):
    """A run that raised."""

    key: int
    code: str
    message: str


class Run(msgspec.Struct):
    """An order to run variant `phi`, and to have `keep` resident afterwards (None: as it comes)."""

    key: int
    phi: int
    top: int
    dtype: str
    shape: tuple[int, ...]
    keep: tuple[int, ...] | None = None


def main(orders_json: str) -> None:
    """Run a worker until the front is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the front's to handle
    orders = msgspec.json.decode(orders_json, type=Orders)
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.linger = 1000
    socket.connect(orders.address)
    front = os.getppid()
    _end_with_the_front()
    try:
        pool = _start(orders, socket)
        if pool is not None:
            _serve(socket, pool, front)
    finally:
        socket.close()
        context.term()


def _end_with_the_front() -> None:
    """Have the kernel kill this process when its parent dies, where it can."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(orders: Orders, socket: zmq.Socket[bytes]) -> WarmPool | None:
    """Load, warm and, if need be, measure; say `UP` and return the pool, or say `FATAL`."""
    try:
        from ..model_zoo.allocator import tune_allocator
        from ..model_zoo.backends import get_backend
        from ..model_zoo.choosing import settle_backend
        from ..model_zoo.ladders import get_ladder
        from ..model_zoo.pool import WarmPool, soften_loads
        from ..model_zoo.profiling import pool_of

        tune_allocator()
        ladder = get_ladder(orders.ladder, quality=orders.quality, profile=orders.profile)
        backend, compared = settle_backend(
            orders.backend,
            ladder,
            orders.profile,
            threads=orders.threads,
            progress=lambda *step: _tell(socket, PROGRESS, Progress(*step)),
        )
        pool = WarmPool(
            ladder,
            get_backend(backend, threads=orders.threads),
            memory_limit_bytes=orders.memory_limit_bytes,
            known_bytes=[v.memory_bytes for v in orders.profile.variants] if orders.profile else (),
        )
        soften_loads(pool)
        profile = orders.profile or _measure(orders, pool, socket, compared)
        pool = pool_of(profile, pool)
        pool.load_all()
        _warm_up(pool)
    except AdaphiError as error:
        _tell(socket, FATAL, Fatal(error.message, error.help))
        return None
    except Exception as error:  # whatever it is, the front has to hear of it in one line
        _tell(socket, FATAL, Fatal(f"{type(error).__name__}: {error}"))
        return None
    _tell(socket, UP, Up(profile, tuple(sorted(pool.resident))))
    return pool


def _warm_up(pool: WarmPool) -> None:
    """Run what a request runs a few times: the first runs after a load are several times slower."""
    for _ in range(WARM_UP_RUNS):
        for phi in sorted(pool.resident):
            runner = pool.runner(phi)
            runner.labels(pool.run(phi, runner.example).output, 1)


def _measure(
    orders: Orders, pool: WarmPool, socket: zmq.Socket[bytes], compared: Sequence[Measured]
) -> Profile:
    from ..model_zoo.profiling import measure

    return measure(
        pool,
        rounds=orders.profile_rounds,
        cold_rounds=1,
        conditions={"threads": orders.threads},
        compared=compared,
        progress=lambda done, total, what: _tell(socket, PROGRESS, Progress(done, total, what)),
    )


def _serve(socket: zmq.Socket[bytes], pool: WarmPool, front: int) -> None:
    told = pool.resident
    ordered: set[int] = set()
    while os.getppid() == front:
        if not socket.poll(LOADING_POLL_MS if pool.loading or ordered else IDLE_POLL_MS):
            if pool.resident != told:
                told = _tell_kept(socket, pool)
        else:
            kind, *frames = socket.recv_multipart(copy=False)
            if kind.bytes == RUN:
                header, *tensor = frames
                _run(socket, pool, decode(Run, header.bytes), tensor)
            elif kind.bytes == LOAD:
                ordered.add(phi := decode(Load, frames[0].bytes).phi)
                pool.load_behind(phi)
            else:
                if kind.bytes == KEEP:
                    pool.keep(frozenset(decode(Kept, frames[0].bytes).resident))
                elif kind.bytes == EVICT:
                    pool.evict(decode(Evict, frames[0].bytes).phi)
                told = _tell_kept(socket, pool)  # and so is what only asked
        ordered = {phi for phi in ordered if not _tell_if_loaded(socket, pool, phi)}


def _tell_kept(socket: zmq.Socket[bytes], pool: WarmPool) -> frozenset[int]:
    resident = pool.resident
    _tell(socket, KEPT, Kept(tuple(sorted(resident))))
    return resident


def _tell_if_loaded(socket: zmq.Socket[bytes], pool: WarmPool, phi: int) -> bool:
    """Say how an ordered load ended, if it has; begin it again where another set was put before it."""
    resident = pool.resident
    error = "" if phi in resident else pool.failures.get(phi, "")
    if phi in resident or error:
        _tell(socket, LOADED, Loaded(phi, tuple(sorted(resident)), error))
        return True
    if not pool.loading:
        pool.load_behind(phi)
    return False


def _run(socket: zmq.Socket[bytes], pool: WarmPool, run: Run, frames: list[Any]) -> None:
    try:
        x = tensor_of(run, frames)
        result = pool.run(run.phi, x, keep=None if run.keep is None else frozenset(run.keep))
        top = result.runner.labels(result.output, run.top) if run.top else ()
    except RequestError as error:
        _tell(socket, FAILED, Failed(run.key, error.code, error.message))
        return
    except Exception as error:  # a model may raise anything; one request fails, the worker goes on
        _tell(socket, FAILED, Failed(run.key, "model_failed", f"{type(error).__name__}: {error}"))
        return
    output = np.ascontiguousarray(result.output)
    done = Done(
        key=run.key,
        inference_ms=result.latency_ms,
        cold=result.cold,
        resident=tuple(sorted(pool.resident)),
        dtype=output.dtype.name,
        shape=output.shape,
        top=top,
    )
    _tell(socket, DONE, done, output)


def _tell(
    socket: zmq.Socket[bytes],
    kind: bytes,
    header: msgspec.Struct,
    tensor: NDArray[Any] | None = None,
) -> None:
    socket.send_multipart(encode(kind, header, tensor)[1:])


if __name__ == "__main__":
    main(sys.argv[1])
