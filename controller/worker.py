"""The worker process: the only place that runs models. The front may kill it at any instant.

It inherits its end of a channel, loads and warms the ladder, measures a profile if it was given none,
and then runs one request, or one batch, after the other. Messages are a kind and a header; the tensors of
requests lie in the channel's shared memory, an answer's follows its header:

    front → worker    R run · = have these resident · L load a variant behind the runs · E evict one
                      ? what is resident: a sign of life
    worker → front    P progress · F fatal, cannot start · U up, with the profile · D done · X failed
                      K what is resident, when asked or where that changed between two runs
                      O an ordered load has ended

It ends when the front is gone: the channel says so, and on Linux the kernel kills it, also where it hangs.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ..errors import AdaphiError, Expired, RequestError
from ..model_zoo.profile import Profile
from ..processes import work_for_parent
from .channel import WorkerEnd
from .protocol import decode, name_of

if TYPE_CHECKING:
    from ..model_zoo.choosing import Measured
    from ..model_zoo.pool import WarmPool

log = logging.getLogger("adaphi")

WARM_UP_RUNS = 3

LOADING_POLL_MS, IDLE_POLL_MS = 20, 500
RUN, KEEP, LOAD, EVICT, ASK = b"R", b"=", b"L", b"E", b"?"
PROGRESS, FATAL, UP, DONE, FAILED, KEPT, LOADED = b"P", b"F", b"U", b"D", b"X", b"K", b"O"


Labels = tuple[tuple[str, float], ...]
"""Classes with their probabilities."""


class Orders(msgspec.Struct, kw_only=True):
    """What a worker is told on its command line, as JSON."""

    channel: tuple[int, int] = (-1, -1)  # the descriptors that it inherits
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
    """A finished run: of a batch, `shape` begins with its size, and `tops` are its requests' labels."""

    key: int
    inference_ms: float
    cold: bool
    resident: tuple[int, ...]
    dtype: str
    shape: tuple[int, ...]
    top: Labels
    tops: tuple[Labels, ...] = ()


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
    """A run that raised, or was too late to begin."""

    key: int
    code: str
    message: str


class Run(msgspec.Struct):
    """An order to run variant `phi`, and to have `keep` resident afterwards (None: as it comes).

    With `tops`, how many labels each request wants, it is for a batch, and `shape` begins with its size. The
    tensors lie at `offset` of the shared memory. It is not to begin after `begin_by_s` (monotonic clock).
    """

    key: int
    phi: int
    top: int
    dtype: str
    shape: tuple[int, ...]
    keep: tuple[int, ...] | None = None
    tops: tuple[int, ...] = ()
    offset: int = 0
    begin_by_s: float = math.inf


def main(orders_json: str) -> None:
    """Run a worker until the front is gone."""
    work_for_parent()
    orders = msgspec.json.decode(orders_json, type=Orders)
    front = WorkerEnd(*orders.channel)
    try:
        pool = _start(orders, front)
        if pool is not None:
            _serve(front, pool)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the front is gone
        pass
    finally:
        front.close()


def _start(orders: Orders, front: WorkerEnd) -> WarmPool | None:
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
            progress=lambda *step: front.tell(PROGRESS, Progress(*step)),
        )
        pool = WarmPool(
            ladder,
            get_backend(backend, threads=orders.threads),
            memory_limit_bytes=orders.memory_limit_bytes,
            known_bytes=[v.memory_bytes for v in orders.profile.variants] if orders.profile else (),
        )
        soften_loads(pool)
        profile = orders.profile or _measure(orders, pool, front, compared)
        if profile.backend != backend and any(profile.batch_ms()):
            log.warning("its batches were measured with %s: none is run", profile.backend)
            profile = profile.one_by_one()
        pool = pool_of(profile, pool)
        pool.load_all()
        _warm_up(pool)
    except AdaphiError as error:
        front.tell(FATAL, Fatal(error.message, error.help))
        return None
    except Exception as error:  # whatever it is, the front has to hear of it in one line
        front.tell(FATAL, Fatal(f"{type(error).__name__}: {error}"))
        return None
    front.tell(UP, Up(profile, tuple(sorted(pool.resident))))
    return pool


def _warm_up(pool: WarmPool) -> None:
    """Run what a request runs a few times: the first runs after a load are several times slower."""
    for _ in range(WARM_UP_RUNS):
        for phi in sorted(pool.resident):
            runner = pool.runner(phi)
            runner.labels(pool.run(phi, runner.example).output, 1)


def _measure(
    orders: Orders, pool: WarmPool, front: WorkerEnd, compared: Sequence[Measured]
) -> Profile:
    from ..model_zoo.profiling import measure

    return measure(
        pool,
        rounds=orders.profile_rounds,
        conditions={"threads": orders.threads},
        compared=compared,
        progress=lambda done, total, what: front.tell(PROGRESS, Progress(done, total, what)),
    )


def _serve(front: WorkerEnd, pool: WarmPool) -> None:
    told = pool.resident
    ordered: set[int] = set()
    while True:
        if not front.wait(LOADING_POLL_MS if pool.loading or ordered else IDLE_POLL_MS):
            if pool.resident != told:
                told = _tell_kept(front, pool)
        else:
            kind, header = front.receive()
            if kind == RUN:
                _run(front, pool, decode(Run, header))
            elif kind == LOAD:
                ordered.add(phi := decode(Load, header).phi)
                pool.load_behind(phi)
            else:
                if kind == KEEP:
                    pool.keep(frozenset(decode(Kept, header).resident))
                elif kind == EVICT:
                    pool.evict(decode(Evict, header).phi)
                told = _tell_kept(front, pool)  # and so is what only asked
        ordered = {phi for phi in ordered if not _tell_if_loaded(front, pool, phi)}


def _tell_kept(front: WorkerEnd, pool: WarmPool) -> frozenset[int]:
    resident = pool.resident
    front.tell(KEPT, Kept(tuple(sorted(resident))))
    return resident


def _tell_if_loaded(front: WorkerEnd, pool: WarmPool, phi: int) -> bool:
    """Say how an ordered load ended, if it has; begin it again where another set was put before it."""
    resident = pool.resident
    error = "" if phi in resident else pool.failures.get(phi, "")
    if phi in resident or error:
        front.tell(LOADED, Loaded(phi, tuple(sorted(resident)), error))
        return True
    if not pool.loading:
        pool.load_behind(phi)
    return False


def _run(front: WorkerEnd, pool: WarmPool, run: Run) -> None:
    if front.is_withdrawn(run.key) or time.monotonic() > run.begin_by_s:
        late = "the deadline passed, or nobody waited any more, before the run could begin"
        front.tell(FAILED, Failed(run.key, Expired.code, late))
        return
    front.begin(run.key)
    try:
        x = np.frombuffer(front.memory, run.dtype, math.prod(run.shape), run.offset)
        x = x.reshape(run.shape)
        keep = None if run.keep is None else frozenset(run.keep)
        result = pool.run(run.phi, x, keep=keep, batched=bool(run.tops))
        label = result.runner.labels
        top = label(result.output, run.top) if run.top else ()
        outputs = zip(result.output, run.tops, strict=True) if run.tops else ()
        tops = tuple(label(output, wanted) if wanted else () for output, wanted in outputs)
    except RequestError as error:
        front.tell(FAILED, Failed(run.key, error.code, error.message))
        return
    except Exception as error:  # a model may raise anything; one request fails, the worker goes on
        front.tell(FAILED, Failed(run.key, "model_failed", f"{type(error).__name__}: {error}"))
        return
    output = np.ascontiguousarray(result.output)
    done = Done(
        key=run.key,
        inference_ms=result.latency_ms,
        cold=result.cold,
        resident=tuple(sorted(pool.resident)),
        dtype=name_of(output.dtype),
        shape=output.shape,
        top=top,
        tops=tops,
    )
    front.tell(DONE, done, output)


if __name__ == "__main__":
    main(sys.argv[1])
