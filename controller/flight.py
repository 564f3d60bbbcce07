"""The flight recorder: every reading and every decision, bounded on disk, whole after a crash.

A recording is a folder of segments `flight-000001.rec`, …: one line of JSON (`Header`), then records of the
fixed form `RECORD`, little-endian. Records are gathered and appended twice a second, so a process killed at
any moment loses the last half second; a record torn at the end of a segment is passed over when read. A full
segment is followed by a new one, as is one of another policy, and the oldest go, so that a folder never
takes more than its limit.

Where the disk is full or the folder gone, the daemon goes on: what could not be written is counted, and half
a minute later it is tried again.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import struct
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

log = logging.getLogger("adaphi")

SCHEMA = 1
READING, DECISION = 0, 1
OUTCOMES = ("ok", "late", "error", "shed", "expired", "refused", "busy")
RECORD = np.dtype(
    [
        ("time_s", "<f8"),  # seconds since 1970
        ("kind", "u1"),  # READING or DECISION
        ("outcome", "u1"),  # place in OUTCOMES
        ("previous", "i1"),  # active variant before, −1: none
        ("phi", "i1"),  # variant that answered, −1: none
        ("resident", "<u4"),  # bit φ is set where φ is resident
        ("reading_ms", "<f4"),  # what the policy decided on
        ("slack_ms", "<f4"),  # left until the deadline when the run began
        ("inference_ms", "<f4"),
        ("latency_ms", "<f4"),  # from arrival to answer
        ("slowdown", "<f4"),
        ("budget_ms", "<f4"),  # what the sources admit, NaN: anything
        ("memory_bytes", "<f8"),  # what variants may take together, NaN: not known
        ("energy_j", "<f8"),  # what the battery holds, NaN: not known
    ]
)
_PACK = struct.Struct("<dBBbbIffffffdd")
_LARGEST = float(np.finfo(np.float32).max)
_SEGMENTS = 8  # of a full recording
_MOST_SEGMENTS = 1000  # of one that was begun again and again
_FLUSH_S = 0.5
_RETRY_S = 30.0


class Header(msgspec.Struct, kw_only=True):
    """What a segment's records are about."""

    schema: int = SCHEMA
    boot_id: str
    ladder: str
    ladder_fingerprint: str
    policy: str
    variants: tuple[str, ...]
    typical_ms: tuple[float, ...]


class FlightRecorder:
    """Writes a recording; never raises once it is made, and never blocks on more than one append.

    `lost` counts records that could not be written. Records bear the time of `clock`, which may be set; when
    to write goes by `timer`, which only goes on. Raises `InputError` if `folder` cannot be made.
    """

    def __init__(
        self,
        folder: str | Path,
        header: Header,
        *,
        limit_bytes: int = 64_000_000,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(folder)
        self.lost = 0
        self._limit_bytes = limit_bytes
        self._clock, self._timer = clock, timer
        self._waiting = bytearray()
        self._flushed_s = timer()
        self._retry_s = -math.inf
        self._file: int | None = None
        self._room = 0
        self._describe(header)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot record in {folder}: {error.strerror}") from None

    def __repr__(self) -> str:
        return f"<FlightRecorder(folder={str(self.folder)!r}, lost={self.lost})>"

    def add(
        self,
        kind: int,
        *,
        outcome: str = "ok",
        previous: int = -1,
        phi: int = -1,
        resident: frozenset[int] = frozenset(),
        reading_ms: float | None = None,
        slack_ms: float | None = None,
        inference_ms: float | None = None,
        latency_ms: float | None = None,
        slowdown: float = 1.0,
        budget_ms: float | None = None,
        memory_bytes: float | None = None,
        energy_j: float | None = None,
    ) -> None:
        """Add one record; None becomes NaN, and what single precision cannot hold its largest number."""
        singles = (reading_ms, slack_ms, inference_ms, latency_ms, slowdown, budget_ms)
        self._waiting += _PACK.pack(
            self._clock(),
            kind,
            OUTCOMES.index(outcome),
            previous,
            phi,
            sum(1 << p for p in resident if p < 32),
            *map(_single, singles),
            *(math.nan if x is None else x for x in (memory_bytes, energy_j)),
        )

    def follow(self, policy: str) -> None:
        """Go on in a new segment: from now on it is `policy` that decides."""
        if policy != self._about.policy:
            self.flush(force=True)
            self._end_segment()
            self._describe(msgspec.structs.replace(self._about, policy=policy))

    def flush(self, *, force: bool = False) -> None:
        """Write what is waiting, if half a second has passed since the last time or `force` is set."""
        now_s = self._timer()
        if not self._waiting or (now_s - self._flushed_s < _FLUSH_S and not force):
            return
        self._flushed_s = now_s
        waiting, self._waiting = self._waiting, bytearray()
        excess = max(0, len(waiting) - self._largest_bytes)
        self.lost += excess // RECORD.itemsize
        del waiting[:excess]
        if now_s < self._retry_s:
            self.lost += len(waiting) // RECORD.itemsize
            return
        try:
            self._append(waiting)
        except OSError as error:
            self._give_up(error)
            self.lost += len(waiting) // RECORD.itemsize
            self._retry_s = now_s + _RETRY_S

    def close(self) -> None:
        """Write what is waiting and end the recording."""
        self.flush(force=True)
        self._end_segment()

    def _describe(self, header: Header) -> None:
        """Write this header above the segments that follow."""
        self._about, self._header = header, msgspec.json.encode(header) + b"\n"
        least_bytes = len(self._header) + RECORD.itemsize
        self._segment_bytes = max(self._limit_bytes // _SEGMENTS, least_bytes)
        room_bytes = self._segment_bytes - len(self._header)
        self._largest_bytes = room_bytes - room_bytes % RECORD.itemsize  # of one append

    def _append(self, records: bytearray) -> None:
        if self._file is None or self._room < len(records):
            self._next_segment()
        assert self._file is not None
        _write(self._file, records)
        self._room -= len(records)

    def _next_segment(self) -> None:
        self._end_segment()
        old = segments(self.folder)
        self._make_room(old)
        number = int(old[-1].stem.removeprefix("flight-")) + 1 if old else 1
        path = self.folder / f"flight-{number:06d}.rec"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            _write(self._file, self._header)
        except OSError:
            path.unlink(missing_ok=True)  # or eight of them would push out all that was recorded
            raise
        self._room = self._segment_bytes - len(self._header)

    def _make_room(self, old: list[Path]) -> None:
        """Remove the oldest segments until another has room below the limit."""
        sizes = [path.stat().st_size for path in old]
        left_bytes, left = sum(sizes), len(old)
        for path, size in zip(old, sizes, strict=True):
            if left_bytes + self._segment_bytes <= self._limit_bytes and left < _MOST_SEGMENTS:
                return
            path.unlink(missing_ok=True)
            left_bytes, left = left_bytes - size, left - 1

    def _end_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _give_up(self, error: OSError) -> None:
        self._end_segment()
        log.warning("the flight recorder stops for %.0f s: %s", _RETRY_S, error.strerror)


def _single(x: float | None) -> float:
    return math.nan if x is None else x if -_LARGEST <= x <= _LARGEST else _clipped(x)


def _clipped(x: float) -> float:
    """Return the largest number instead of a larger one; infinite and not a number stay what they are."""
    return x if not math.isfinite(x) else math.copysign(_LARGEST, x)


def _write(file: int, data: bytes | bytearray) -> None:
    """Write all of `data`, or raise OSError: where the disk is just full a part of it is written."""
    if os.write(file, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def segments(folder: Path) -> list[Path]:
    """Return the segments of a recording, the oldest first."""
    return sorted(folder.glob("flight-[0-9][0-9][0-9][0-9][0-9][0-9].rec"))


def read_recording(folder: str | Path) -> tuple[Header, NDArray[np.void]]:
    """Return the newest header and all records (N,) of `RECORD` that belong to its ladder, oldest first.

    The header's `policy` names all that decided, one after the other. What the daemon writes or removes
    meanwhile is passed over. Raises `InputError` where there is no recording, or a segment is not one.
    """
    paths = segments(Path(folder))
    if not paths:
        raise InputError(f"{folder}: no flight-….rec in it", help="set [recorder] folder to record")
    read = [segment for path in paths if (segment := _read_segment(path))]
    if not read:
        raise InputError(f"{folder}: no segment of the recording is whole")
    newest = read[-1][0]
    alike = [each for each in read if each[0].ladder_fingerprint == newest.ladder_fingerprint]
    policies = [policy for policy, _ in groupby(header.policy for header, _ in alike)]
    header = msgspec.structs.replace(newest, policy=", then ".join(policies))
    return header, np.concatenate([records for _, records in alike])


def _read_segment(path: Path) -> tuple[Header, NDArray[np.void]] | None:
    """Return a segment's header and records, None where it is gone or has no whole header."""
    try:
        line, end, body = path.read_bytes().partition(b"\n")
        if not end:
            return None
        header = msgspec.json.decode(line, type=Header)
    except FileNotFoundError:  # the oldest go
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not a segment of a recording ({error})") from None
    if header.schema != SCHEMA:
        raise InputError(
            f"{path}: schema {header.schema} is not known; this version reads {SCHEMA}"
        )
    whole = len(body) // RECORD.itemsize
    return header, np.frombuffer(body[: whole * RECORD.itemsize], RECORD)
