"""One cell of a sweep: one policy in one case, and what comes of it.

A case is a setting (ladder, prices, what tables learn from) and a world that is played: a recorded trace, a
device's day, a queue of requests. It holds everything that it takes, so that it can be played in any process
on any machine, and its figures depend on nothing else. The key of a cell is a digest of all that: equal keys,
equal figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..model_zoo.profile import Profile
from ..policies.choose import choose
from ..policies.files import Solved
from ..policies.frame import Objective
from ..policies.lookup import Policy
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from .replay import clairvoyant, replay
from .requests import World, serve
from .sweep_file import Requests
from .workload import Source

Floats = NDArray[np.float64]
Label = str | int | float
Figures = dict[str, Label]

TABLES = ("table", "refreshed")
"""Policies that are solved for each setting: the table, and the table that keeps learning."""
CLAIRVOYANT = "clairvoyant"
RANDOM = "random"
"""The rule by that name, its seed that of the case."""


def digest(*parts: object) -> str:
    """Return 24 hex digits that identify numbers, texts and arrays in order."""
    told = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            told.update(f"{part.dtype.str}{part.shape}".encode())
            told.update(np.ascontiguousarray(part).tobytes())
        else:
            told.update(repr(part).encode())
        told.update(b"\n")
    return told.hexdigest()[:24]


def trace_digest(trace: Trace) -> str:
    """Return what identifies a trace's content, its name apart."""
    columns = [part for name in sorted(trace.columns) for part in (name, trace.columns[name])]
    return digest(trace.time_s, trace.budget_ms, *columns)


@dataclass(frozen=True)
class Setting:
    """What is played with: a ladder's profile, prices, and the budgets (ms) that tables learn from."""

    key: str
    profile: Profile = field(compare=False)
    latency: str = field(compare=False)
    objective: Objective = field(compare=False)
    learned: tuple[Floats, ...] = field(compare=False)

    @classmethod
    def of(
        cls, profile: Profile, latency: str, objective: Objective, learned: Sequence[Floats]
    ) -> Setting:
        """Return a setting under its key."""
        key = digest(__version__, profile.fingerprint, latency, objective, *learned)
        return cls(key, profile, latency, objective, tuple(learned))


@dataclass(frozen=True)
class Candidate:
    """A policy by the name that the sweep gives it; `solved` is what its file holds, if it is one."""

    name: str
    key: str
    solved: Solved | None = field(default=None, compare=False)

    def policy(self, setting: Setting, seed: int) -> Policy:
        """Return the policy, ready to decide in a setting."""
        spec: Solved | str = self.solved or self.name
        if self.name in TABLES:
            spec = solve(setting)
        elif self.name == RANDOM:
            spec = f"{RANDOM}:{seed}"
        return choose(
            spec,
            setting.profile,
            latency=setting.latency,
            objective=setting.objective,
            adapt=self.name == "refreshed",
        )


@lru_cache(maxsize=256)
def solve(setting: Setting) -> TablePolicy:
    """Return the table of a setting, solved once in each process."""
    return TablePolicy.solve(
        setting.profile, setting.learned, objective=setting.objective, latency=setting.latency
    )


class Played(Protocol):
    """What can be played: the same luck gives the same figures, whichever policy comes before another."""

    @property
    def key(self) -> str:
        """Return what identifies all that is played, luck apart."""
        ...

    def play(
        self, setting: Setting, candidates: Sequence[Candidate], luck: tuple[int, ...]
    ) -> list[Figures]:
        """Return the figures of each policy; `luck` is the seed, and what else tells draws apart."""
        ...


@dataclass(frozen=True)
class Recorded:
    """A recorded trace; nothing is drawn but what the rule `random` draws."""

    key: str
    trace: Trace

    def play(
        self, setting: Setting, candidates: Sequence[Candidate], luck: tuple[int, ...]
    ) -> list[Figures]:
        """Return the figures of each policy on the trace."""
        return replayed(self.trace, setting, candidates, luck[-1])


@dataclass(frozen=True)
class Queue:
    """A daemon in a `world` that is asked by `arrivals` with one deadline, and as `asked` says."""

    key: str
    arrivals: Source
    world: World
    deadline_ms: float
    asked: Requests

    @classmethod
    def of(cls, arrivals: Source, world: World, deadline_ms: float, asked: Requests) -> Queue:
        """Return a queue under its key."""
        source = (arrivals.kind, arrivals.rate_per_s, arrivals.time_s, arrivals.count)
        how = (asked.number, asked.speed, asked.thin, asked.max_requests)
        traces = [trace and trace_digest(trace) for trace in (world.slowdown, world.budget)]
        key = digest(*source, deadline_ms, *how, *traces)
        return cls(key, arrivals, world, deadline_ms, asked)

    def play(
        self, setting: Setting, candidates: Sequence[Candidate], luck: tuple[int, ...]
    ) -> list[Figures]:
        """Return the figures of each policy; all meet the same arrivals."""
        asked, seed = self.asked, luck[-1]
        workload = self.arrivals.draw(
            asked.number, self.deadline_ms, speed=asked.speed, thin=asked.thin, seed=seed
        )
        outcomes = [
            serve(
                workload,
                setting.profile,
                candidate.policy(setting, seed),
                world=self.world,
                max_requests=asked.max_requests,
                latency=setting.latency,
                objective=setting.objective,
                seed=seed,
            )
            for candidate in candidates
        ]
        return [_without(outcome.summary(), "policy", "workload") for outcome in outcomes]


@dataclass(frozen=True)
class Case:
    """A world played in a setting with a certain luck; `labels` say in words which one."""

    labels: Mapping[str, Label]
    setting: Setting
    world: Played
    luck: tuple[int, ...]

    def cell(self, candidate: Candidate) -> str:
        """Return the key of a policy's cell."""
        return digest(self.setting.key, self.world.key, self.luck, candidate.key)


Task = tuple[Case, list[Candidate]]
"""A case, and the policies to be played in it."""


def play(tasks: Iterable[Task]) -> list[tuple[str, Figures]]:
    """Return the figures of every cell by its key."""
    return [
        (case.cell(candidate), figures)
        for case, candidates in tasks
        for candidate, figures in zip(
            candidates, case.world.play(case.setting, candidates, case.luck), strict=True
        )
    ]


def replayed(
    trace: Trace, setting: Setting, candidates: Sequence[Candidate], seed: int
) -> list[Figures]:
    """Return the figures of each policy on a trace, the clairvoyant's among them."""
    objective, latency = setting.objective, setting.latency
    outcomes = [
        clairvoyant(trace, setting.profile, objective=objective, latency=latency)
        if candidate.name == CLAIRVOYANT
        else replay(
            trace,
            setting.profile,
            candidate.policy(setting, seed),
            objective=objective,
            latency=latency,
        )
        for candidate in candidates
    ]
    return [_without(outcome.summary(), "policy", "trace") for outcome in outcomes]


def _without(figures: Mapping[str, Label], *names: str) -> Figures:
    return {name: value for name, value in figures.items() if name not in names}
