"""What a sensor is, what it says, and how its files are read: a missing or damaged one is None."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

NOTHING: Mapping[str, float] = MappingProxyType({})


class Sample(NamedTuple):
    """What one sensor says; None where it has no opinion.

    `slowdown`: how much slower a run would be than on an idle device (≥ 1). `budget_ms`: time for an
    answer. `max_phi`: the highest variant admitted; `admitted`: the same as a share of the ladder (0: only
    φ = 0, 1: all). `available_bytes`: memory that can still be had. `pressure`: share of time in which some
    work had to wait, or share of a limit that is in use (0 … 1). `energy_j`: what the battery holds, infinite
    while the mains feed the device. `readings`: the bare values, for the metrics, named with their units.
    """

    slowdown: float | None = None
    budget_ms: float | None = None
    max_phi: int | None = None
    available_bytes: int | None = None
    pressure: float | None = None
    energy_j: float | None = None
    admitted: float | None = None
    readings: Mapping[str, float] = NOTHING


class Sensor(Protocol):
    """A source of budgets, read every `every_s` seconds at most (0: at each reading)."""

    name: str
    every_s: float

    def probe(self) -> bool:
        """Say whether this sensor works on this machine."""
        ...

    def read(self, now_s: float) -> Sample | None:
        """Return what the sensor says at `now_s` (monotonic seconds), None if its source is gone."""
        ...


def text(path: Path) -> str | None:
    """Return a file's text without surrounding white space."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def number(path: Path) -> float | None:
    """Return the number in a file."""
    return number_in(text(path))


def number_in(said: str | None) -> float | None:
    """Return the number that a file's text is."""
    try:
        return float(said or "")
    except ValueError:
        return None


def table(path: Path) -> dict[str, float]:
    """Return the lines `key value …` and `key: value …` of a file; empty where it cannot be read."""
    found: dict[str, float] = {}
    for line in (text(path) or "").splitlines():
        words = line.split(None, 2)  # a line of /proc/stat may have thousands
        try:
            found[words[0].rstrip(":")] = float(words[1])
        except (IndexError, ValueError):
            continue
    return found
