"""From a sweep's file to its cells: all that it names is read, and refused where it cannot be played."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError, TraceError
from ..model_zoo.profile import Profile, distinct
from ..policies import files
from ..policies.choose import choose
from ..policies.frame import Objective
from ..policies.rules import RULES_HELP, is_rule
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from .cells import (
    CLAIRVOYANT,
    RANDOM,
    TABLES,
    Candidate,
    Case,
    Label,
    Played,
    Queue,
    Recorded,
    Setting,
    digest,
    trace_digest,
)
from .fleet import Day
from .requests import World
from .sweep import Plan
from .sweep_file import Requests, SweepFile, load
from .workload import Source

Floats = NDArray[np.float64]


def plan(path: str | Path) -> Plan:
    """Return the cells that a sweep's file asks for.

    Raises `ConfigError`, `TraceError`, `ProfileError`, `PolicyError` or `InputError` naming what is wrong in
    the file or in one that it names.
    """
    sweep, folder = load(path), Path(path).resolve().parent
    profiles = {name: Profile.load(folder / name) for name in sweep.profiles}
    candidates = tuple(_candidate(name, folder, sweep) for name in sweep.policies)
    _check_policies(candidates, profiles, sweep)
    _check_seeds(sweep, path)
    if sweep.requests is not None:
        return _plan_requests(sweep, sweep.requests, folder, profiles, candidates)
    return _plan_traces(sweep, folder, profiles, candidates)


def _candidate(name: str, folder: Path, sweep: SweepFile) -> Candidate:
    if name in (*TABLES, CLAIRVOYANT, RANDOM) or is_rule(name):
        return Candidate(name, name)
    if not name.endswith(".npz"):
        raise InputError(
            f"no policy is called {name!r}",
            help=f"use table, refreshed, clairvoyant, a policy.npz, or a rule: {RULES_HELP}",
        )
    path = folder / name
    solved = files.load(path) if sweep.requests else TablePolicy.load(path)
    return Candidate(name, digest(path.read_bytes()), solved)


def _check_policies(
    candidates: Sequence[Candidate], profiles: dict[str, Profile], sweep: SweepFile
) -> None:
    """Raise where a rule or a policy file does not go with a profile."""
    if sweep.requests is not None and CLAIRVOYANT in sweep.policies:
        raise ConfigError("clairvoyant is a bound for traces, there is none for [requests]")
    for (name, profile), latency in product(profiles.items(), sweep.grid.latency):
        profile.costs(latency)
        for candidate in candidates:
            if candidate.name in (*TABLES, CLAIRVOYANT):
                continue
            try:
                choose(candidate.solved or candidate.name, profile, latency=latency)
            except InputError as error:
                raise type(error)(
                    f"{candidate.name} on {name}: {error.message}", help=error.help
                ) from None


def _check_seeds(sweep: SweepFile, path: str | Path) -> None:
    """Raise where seeds would change nothing."""
    if sweep.traces is not None and len(sweep.seeds) > 1 and RANDOM not in sweep.policies:
        raise ConfigError(
            f"{path}: a recorded trace draws nothing, so that all seeds would be alike - at `$.seeds`",
            help="leave one, add the policy `random`, or make it a [fleet]",
        )


def _plan_requests(
    sweep: SweepFile,
    asked: Requests,
    folder: Path,
    profiles: dict[str, Profile],
    candidates: tuple[Candidate, ...],
) -> Plan:
    slowdown, budget = (
        None if name is None else Trace.read(folder / name)
        for name in (asked.slowdown, asked.budget)
    )
    world = World(slowdown, budget)
    world.steps()
    settings = list(_settings(sweep, profiles, _trained(sweep, folder)))
    queues = [
        (spec, deadline_ms, Queue.of(Source.read(spec, folder), world, deadline_ms, asked))
        for spec, deadline_ms in product(asked.arrivals, asked.deadline_ms)
    ]

    def cases() -> Iterator[Case]:
        for (labels, setting), queue, seed in product(settings, queues, sweep.seeds):
            spec, deadline_ms, played = queue
            which: dict[str, Label] = {"arrivals": spec, "deadline_ms": deadline_ms, "seed": seed}
            yield Case({**labels, **which}, setting, played, (seed,))

    length = len(settings) * len(queues) * len(sweep.seeds)
    return Plan(candidates, cases, length, ("seed",))


@dataclass(frozen=True)
class _Recording:
    """One recorded trace at one scale: what is learned from it, and the rest, which is played."""

    labels: dict[str, Label]
    learned: Sequence[Floats]
    world: Played


def _plan_traces(
    sweep: SweepFile,
    folder: Path,
    profiles: dict[str, Profile],
    candidates: tuple[Candidate, ...],
) -> Plan:
    """Return the plan of recorded traces or of a fleet."""
    recordings = _recordings(sweep, folder, profiles)
    settings = [
        [
            (labels, setting, recording)
            for labels, setting in _settings(sweep, profiles, recording.learned)
        ]
        for recording in recordings
    ]
    grid = len(settings[0])

    def cases() -> Iterator[Case]:
        for point, (place, seed) in product(
            range(grid), product(range(len(recordings)), sweep.seeds)
        ):
            labels, setting, recording = settings[place][point]
            labels = {**labels, **recording.labels, "seed": seed}
            if sweep.fleet is None:
                yield Case(labels, setting, recording.world, (seed,))
                continue
            for device in range(place, sweep.fleet.devices, len(recordings)):
                yield Case({**labels, "device": device}, setting, recording.world, (seed, device))

    played = len(recordings) if sweep.fleet is None else sweep.fleet.devices
    over = ("trace", "seed") if sweep.fleet is None else ("trace", "scale", "seed", "device")
    return Plan(candidates, cases, grid * len(sweep.seeds) * played, over)


def _recordings(sweep: SweepFile, folder: Path, profiles: dict[str, Profile]) -> list[_Recording]:
    section = sweep.traces or sweep.fleet
    assert section is not None
    trained = _trained(sweep, folder)
    needs = [p.costs(at).need_ms.ravel() for p in profiles.values() for at in sweep.grid.latency]
    thresholds_ms = distinct(np.concatenate(needs))
    recordings = []
    for name, scale in product(section.files, section.scales):
        trace = Trace.read(folder / name)
        learned, rest = _scaled(trace, scale).split(0.0 if trained else sweep.learn)
        if len(rest) < 2 or (not trained and len(learned) < 2):
            raise TraceError(
                f"{name}: {len(trace)} rows are too few: {len(learned)} to learn from, {len(rest)} to play",
                help="two of each are the least; see `learn` and `train`",
            )
        world: Played = (
            Recorded(trace_digest(rest), rest)
            if sweep.fleet is None
            else Day.like(rest, thresholds_ms, sweep.fleet.hours * 3600)
        )
        labels: dict[str, Label] = {"trace": name, "scale": scale}
        recordings.append(_Recording(labels, trained or [learned.budget_ms], world))
    return recordings


def _scaled(trace: Trace, scale: float) -> Trace:
    """Return a trace with every budget, and every reading of one, times `scale`."""
    columns = {
        name: values * scale if name == "reading_ms" else values
        for name, values in trace.columns.items()
    }
    return Trace(trace.time_s, trace.budget_ms * scale, columns, trace.name)


def _trained(sweep: SweepFile, folder: Path) -> list[Floats]:
    traces = [(name, Trace.read(folder / name)) for name in sweep.train]
    for name, trace in traces:
        if len(trace) < 2:
            raise TraceError(f"{name}: learning needs at least two rows, found {len(trace)}")
    return [trace.budget_ms for _, trace in traces]


def _settings(
    sweep: SweepFile, profiles: dict[str, Profile], learned: Sequence[Floats]
) -> Iterator[tuple[dict[str, Label], Setting]]:
    """Yield every profile at every point of the grid, with its labels."""
    grid = sweep.grid
    for (name, profile), latency, miss_cost, switch_cost in product(
        profiles.items(), grid.latency, grid.miss_cost, grid.switch_cost
    ):
        labels: dict[str, Label] = {
            "profile": name,
            "latency": latency,
            "miss_cost": miss_cost,
            "switch_cost": switch_cost,
        }
        try:
            objective = Objective(miss_cost, switch_cost)
        except ValueError as error:
            raise ConfigError(f"{error} - at `$.grid`") from None
        yield labels, Setting.of(profile, latency, objective, learned)
