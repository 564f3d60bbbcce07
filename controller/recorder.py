"""Recording what a device could spend: a budget trace, row by row, from the CPU sensor.

A frame that may take `frame_ms` on an idle device leaves frame_ms ÷ slow-down when others want the
processor too. Each row is written out at once, so a recording that is cut off keeps what it has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from .sensors import CpuSensor, MemorySensor

COLUMNS = "time_s,budget_ms,slowdown,available_mb"


class Row(NamedTuple):
    """One row: seconds since the start, the budget (ms), and what it was made from."""

    time_s: float
    budget_ms: float
    slowdown: float
    available_mb: float


def rows(
    frame_ms: float,
    interval_s: float,
    duration_s: float | None,
    *,
    cpu: CpuSensor | None = None,
    memory: MemorySensor | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Row]:
    """Yield a row every `interval_s` seconds, for `duration_s` seconds or without end.

    Rows that were missed, or at which a sensor was silent, are left out. Raises `InputError` where the load
    of the processor or the memory cannot be read.
    """
    cpu, memory = cpu or CpuSensor(), memory or MemorySensor()
    if not cpu.probe():
        raise InputError("the load of the processor cannot be read: there is no /proc/stat")
    if not memory.probe():
        raise InputError("the memory cannot be read: there is no /proc/meminfo")
    began_s = clock()
    number = 0
    while duration_s is None or number * interval_s < duration_s:
        sleep(max(0.0, began_s + number * interval_s - clock()))
        now_s = clock()
        load, room = cpu.read(now_s), memory.read(now_s)
        if load is not None and room is not None:
            slowdown, available = load.slowdown or 1.0, room.available_bytes or 0
            yield Row(now_s - began_s, frame_ms / slowdown, slowdown, available / 1e6)
        number = max(number + 1, math.ceil((clock() - began_s) / interval_s))


def record(path: str | Path, source: Iterator[Row]) -> Iterator[Row]:
    """Write each row of `source` to the CSV `path` as it comes, and yield it."""
    with Path(path).open("w") as file:
        file.write(COLUMNS + "\n")
        for row in source:
            file.write(
                f"{row.time_s:.6f},{row.budget_ms:.4f},{row.slowdown:.4f},{row.available_mb:.1f}\n"
            )
            file.flush()
            yield row
