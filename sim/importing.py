"""Raw resource traces become budgets by a stated mapping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..controller.flight import DECISION, OUTCOMES, Header, read_recording
from ..errors import TraceError
from ..policies.trace import Trace, read_csv

MAPPINGS = {
    "cpu_percent": "100 − use, nothing below 0",
    "cpu_fraction": "1 − use, nothing below 0",
    "memory_percent": "100 − use, nothing below 0",
    "memory_fraction": "1 − use, nothing below 0",
    "absolute": "the absolute value (bandwidth, battery level, current, temperature, …)",
}
"""How `import_raw` turns a resource into headroom, which is then scaled to a median of `median_ms`."""


def import_flight(folder: str | Path) -> Trace:
    """Return the requests of a daemon's recording as a trace: what was read, and what the answer could take.

    Row by row, `reading_ms` is what the policy decided on and `budget_ms` what was left until the deadline
    when the run began, in the profile's time: divided by the `slowdowns`. Pinned, joined and refused
    requests, on which no policy decided, are left out. Further columns: `phi` that answered, `late` (0 or 1).
    Raises `InputError` or `TraceError`.
    """
    header, rows = read_decisions(folder)
    return Trace(
        rows["time_s"] - rows["time_s"][0],
        np.maximum(rows["slack_ms"], 0.0) / slowdowns(header, rows),
        {
            "reading_ms": rows["reading_ms"].astype(np.float64),
            "phi": rows["phi"].astype(np.float64),
            "late": (rows["outcome"] != OUTCOMES.index("ok")).astype(np.float64),
        },
        name=Path(folder).name,
    )


def read_decisions(folder: str | Path) -> tuple[Header, NDArray[np.void]]:
    """Return a recording's header, and the records of requests on which a policy decided, at least two.

    Raises `InputError` or `TraceError`.
    """
    header, records = read_recording(folder)
    decided = (records["kind"] == DECISION) & (records["phi"] >= 0)
    rows = records[decided & np.isfinite(records["reading_ms"])]
    rows = rows[np.append(np.diff(rows["time_s"]) > 0, True)] if len(rows) else rows
    if len(rows) < 2:
        raise TraceError(f"{folder}: {len(rows)} decisions on a budget; a trace needs two")
    return header, rows


def switched(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which decisions changed the active variant, (N,)."""
    return np.asarray((rows["previous"] >= 0) & (rows["previous"] != rows["phi"]))


def slowdowns(header: Header, rows: NDArray[np.void]) -> NDArray[np.float64]:
    """Return how much slower than profiled each decision's run was, (N,), what switching cost apart.

    A run tells by its own time; one that followed a switch, by the last that did not; one that never ended or
    was answered with others, by the slow-down reckoned with.
    """
    typical_ms = np.array(header.typical_ms)[rows["phi"]]
    factors = rows["inference_ms"] / typical_ms
    steady = np.isfinite(factors) & ~switched(rows)
    last = np.maximum.accumulate(np.where(steady, np.arange(len(rows)), -1))
    known = np.where(switched(rows), np.where(last >= 0, factors[last], np.nan), factors)
    return np.asarray(np.where(np.isfinite(known), known, rows["slowdown"]), dtype=np.float64)


def import_raw(
    path: str | Path, mapping: str, *, column: str | None = None, median_ms: float = 50.0
) -> Trace:
    """Return a budget trace from a raw resource trace: headroom ÷ its median × `median_ms`.

    The file's first column is `time_s`; `column` names the resource (default: the second). `mapping`
    is one of `MAPPINGS`. Raises `TraceError`, also where the median headroom is 0.
    """
    if mapping not in MAPPINGS:
        raise TraceError(f"no mapping is called {mapping!r}", help=f"use {', '.join(MAPPINGS)}")
    columns = read_csv(Path(path))
    names = list(columns)
    if names[0] != "time_s" or len(names) < 2:
        raise TraceError(f"{path}:1: expected time_s and a value; found {', '.join(names)}")
    column = column or names[1]
    if column not in columns:
        raise TraceError(f"{path}:1: no column {column!r}; found {', '.join(names)}")
    value = columns[column]
    if mapping == "absolute":
        headroom = np.abs(value)
    else:
        full = 100.0 if mapping.endswith("percent") else 1.0
        headroom = np.maximum(full - value, 0.0)
    middle = float(np.median(headroom))
    if middle <= 0:
        raise TraceError(
            f"{path}: the median headroom of {column!r} as {mapping} is 0, nothing to scale by"
        )
    return Trace(columns["time_s"], headroom / middle * median_ms, name=Path(path).stem)
