"""A daemon as benchmarks need it: a process of its own, in a folder of its own, ended at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory

from adaphi.controller.client import Client
from adaphi.model_zoo import Latency, Profile, VariantProfile

from .problems import ROOT

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(16 << 20),
    "OMP_NUM_THREADS": "1",
}
"""The environment of every process that is measured: malloc is tuned alike, one thread computes."""

CONFIG = """
ladder = "{ladder}"
{more}
[zmq]
bind = ["tcp://127.0.0.1:{zmq}"]
[http]
port = {http}
[budget]
sources = {sources}
"""


@dataclass(frozen=True)
class Served:
    """Where a daemon listens: ZeroMQ, and host:port of HTTP."""

    zmq: str
    http: str


@contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the repository's root and end it; what it says is dropped."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, **MALLOC, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, cwd=ROOT, **quiet
    ) as server:
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()


@contextmanager
def daemon(ladder: str | Profile, more: str = "", sources: Sequence[str] = ()) -> Iterator[Served]:
    """Run `adaphi serve` with `more` lines of TOML until it is warm; a profile saves measuring one."""
    with TemporaryDirectory(prefix="adaphi-bench-") as name:
        folder, ports = Path(name), (free_port(), free_port())
        if isinstance(ladder, Profile):
            ladder.save(folder / "profile.json")
            ladder = "profile.json"
        config = CONFIG.format(
            ladder=ladder, more=more, zmq=ports[0], http=ports[1], sources=list(sources)
        )
        (folder / "adaphi.toml").write_text(config)
        with process(["adaphi", "serve", "--config", str(folder / "adaphi.toml")]) as server:
            served = Served(f"tcp://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
            if not wait_for(ports[1], server):
                raise RuntimeError(f"the daemon does not start: {' '.join(map(str, server.args))}")
            with Client(served.zmq) as client:
                client.wait_until_ready(180)
            yield served


def stated_profile(
    ladder: str,
    names: Sequence[str],
    latency_ms: Sequence[float],
    batch_sizes: Sequence[int] = (),
) -> Profile:
    """Return a profile that nobody measured, for daemons whose decisions are not the question.

    A batch of one of `batch_sizes` takes as long as one alone.
    """
    count = len(names)
    return Profile(
        ladder=ladder,
        backend="own" if ladder.startswith("python:") else "torch",
        variants=tuple(
            VariantProfile(
                phi,
                name,
                0.7 + 0.05 * phi,
                Latency(p50=ms, p95=ms),
                batch_ms=dict.fromkeys(batch_sizes, ms) or None,
            )
            for phi, (name, ms) in enumerate(zip(names, latency_ms, strict=True))
        ),
        stall_ms=((0.0,) * count,) * count,
    )


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen[bytes]) -> bool:
    """Return whether a server listens within three minutes, rather than ending."""
    until = time.monotonic() + 180
    while time.monotonic() < until and server.poll() is None:
        with socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False
