"""Models timed in processes of their own, asked in turn: the only ratios worth quoting.

In one process the second backend finds the allocator, the caches and the threads as the first left them.
So each has a process, and none works while another does. A child is asked on its standard input, one JSON
line a question, and answers in one line each; it holds one variant at a time and ends with its input.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self, TextIO

import msgspec

from ..errors import LadderError
from .backends import Array

WARM_UP_RUNS = 3


class Ask(msgspec.Struct):
    """Run variant `phi` so many times; if it is not the one that is loaded, load it and warm it up first."""

    phi: int
    runs: int


class Told(msgspec.Struct):
    """What the runs took (ms), and what the output was; `load_ms` with the first run, 0 if loaded before."""

    latency_ms: tuple[float, ...]
    output: list[float]
    load_ms: float


def answer(
    load: Callable[[int], Callable[[], Array]], asks: TextIO = sys.stdin, out: TextIO = sys.stdout
) -> None:
    """Be the child: `load(phi)` returns what is to be timed, a call without arguments."""
    loaded: int | None = None
    run: Callable[[], Array] | None = None
    for line in asks:
        ask = msgspec.json.decode(line, type=Ask)
        load_ms = 0.0
        if run is None or loaded != ask.phi:
            run = None  # the last one's memory goes before the next one's comes
            began = time.perf_counter()
            run, loaded = load(ask.phi), ask.phi
            run()
            load_ms = (time.perf_counter() - began) * 1e3
            for _ in range(WARM_UP_RUNS):
                run()
        taken = []
        output = None
        for _ in range(ask.runs):
            began = time.perf_counter()
            output = run()
            taken.append((time.perf_counter() - began) * 1e3)
        flat = [] if output is None else output.ravel().tolist()
        print(msgspec.json.encode(Told(tuple(taken), flat, load_ms)).decode(), file=out, flush=True)


class Trial:
    """The parent's side: a process that runs `python -m MODULE ARGUMENTS…` and answers there."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stdin):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a question that a dead child never read
                pipe.close()

    def ask(self, phi: int, runs: int) -> Told:
        """Return the child's answer; raise `LadderError` if the child is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # reading says, too, that it is gone
            self._process.stdin.write(msgspec.json.encode(Ask(phi, runs)).decode() + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LadderError(f"the process that runs it ended with code {self._process.wait()}")
        return msgspec.json.decode(line, type=Told)


def in_turn(trials: Sequence[Trial], phi: int, rounds: int, runs: int) -> list[list[float]]:
    """Return the milliseconds of `rounds` × `runs` runs of each trial; in a round each has its turn."""
    samples: list[list[float]] = [[] for _ in trials]
    for _ in range(rounds):
        for trial, taken in zip(trials, samples, strict=True):
            taken.extend(trial.ask(phi, runs).latency_ms)
    return samples
