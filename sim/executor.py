"""Where work runs: this process, the processors of this machine, or a Ray cluster; all through joblib."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from ..errors import AdaphiError, MissingExtraError
from ..processes import work_for_parent

A = TypeVar("A")
B = TypeVar("B")

_WAVE = 4
"""Pieces of work that each worker of a cluster gets before results are taken in."""


def each(
    function: Callable[[A], B], work: Iterable[A], *, jobs: int = -1, ray: str | None = None
) -> Iterator[B]:
    """Yield the result of each piece of work as it comes, in any order.

    `jobs` processes, −1 for one a processor; 1 works in this process. `ray` names a cluster: its address,
    `auto` for the one that this machine belongs to, `local` for one that lasts as long as the work. What
    `function` raises is raised here, `AdaphiError` where a worker dies.
    """
    require(ray is not None)
    if ray is not None:
        yield from _on_ray(function, work, jobs, ray)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import BrokenProcessPool

    with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1, initializer=work_for_parent):
        parallel = Parallel(return_as="generator_unordered", batch_size=1)
        try:
            yield from parallel(delayed(function)(piece) for piece in work)
        except BrokenProcessPool:
            raise AdaphiError(
                "a worker process died, perhaps for want of memory",
                help="what was done is kept: start it again, with fewer --jobs",
            ) from None


def require(cluster: bool = False) -> None:
    """Raise `MissingExtraError` where joblib, or Ray for a cluster, is not installed."""
    try:
        import joblib  # noqa: F401
    except ImportError:
        raise MissingExtraError("a sweep", "sweep") from None
    if cluster:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray  # noqa: F401
        except ImportError:
            raise MissingExtraError("a sweep on a cluster", "cluster") from None


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT, for Ray would go on asking there for ten minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=5).close()


def _on_ray(function: Callable[[A], B], work: Iterable[A], jobs: int, address: str) -> Iterator[B]:
    """Yield results in waves, for joblib's backend of Ray hands out none before all are there."""
    import ray
    from joblib import Parallel, cpu_count, delayed, effective_n_jobs, parallel_config
    from ray.util.joblib import register_ray

    own = address == "local"
    try:
        _knock(address)
        ray.init(
            address=address,
            num_cpus=(jobs if jobs > 0 else cpu_count()) if own else None,
            include_dashboard=False if own else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise AdaphiError(
            f"no Ray cluster at {address!r}: {error}", help="start one with `ray start --head`"
        ) from None
    register_ray()
    try:
        with parallel_config("ray", n_jobs=jobs), Parallel(batch_size=1) as parallel:
            source = iter(work)
            while wave := list(islice(source, _WAVE * effective_n_jobs(jobs))):
                yield from parallel(delayed(function)(piece) for piece in wave)
    except ray.exceptions.RayError as error:
        raise AdaphiError(
            f"the cluster failed: {type(error).__name__}",
            help="what was done is kept: start it again",
        ) from None
    finally:
        ray.shutdown()
