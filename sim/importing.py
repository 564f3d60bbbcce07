"""Raw resource traces become budgets by a stated mapping; so does what the daemon recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..controller.flight import DECISION, OUTCOMES, Header, read_recording
from ..errors import TraceError
from ..policies.trace import Trace, read_columns

Floats = NDArray[np.float64]


class Mapping(NamedTuple):
    """How a resource becomes headroom: `headroom(value, full)`, said in `words`; `full` is what is all of it.

    Headroom is divided by its median and multiplied by a budget, unless it is one already (`is_budget`).
    """

    words: str
    headroom: Callable[[Floats, float], Floats]
    full: float = 1.0
    is_budget: bool = False


def _left(value: Floats, full: float) -> Floats:
    return np.maximum(full - value, 0.0)


MAPPINGS = {
    "cpu_percent": Mapping("100 − use, nothing below 0", _left, 100.0),
    "cpu_fraction": Mapping("1 − use, nothing below 0", _left),
    "memory_percent": Mapping("100 − use, nothing below 0", _left, 100.0),
    "memory_fraction": Mapping("1 − use, nothing below 0", _left),
    "celsius": Mapping("80 − temperature, nothing below 0", _left, 80.0),
    "absolute": Mapping(
        "the absolute value (bandwidth, battery level, current, …)", lambda value, _: np.abs(value)
    ),
    "slowdown": Mapping("1 ÷ the slow-down", lambda value, _: 1 / value),
    "milliseconds": Mapping("the value, a budget", lambda value, _: value, is_budget=True),
    "seconds": Mapping("the value × 1000, a budget", lambda value, _: value * 1e3, is_budget=True),
}
"""How a raw resource becomes headroom or a budget, by name."""


def import_flight(folder: str | Path) -> Trace:
    """Return the requests of a daemon's recording as a trace: what was read, and what the answer could take.

    Row by row, `reading_ms` is what the policy decided on and `budget_ms` what was left until the deadline
    when the run began, in the profile's time: divided by the `slowdowns`. Pinned, joined and refused
    requests, on which no policy decided, are left out. Further columns: `phi` that answered, `late` (0 or 1).
    Raises `InputError` or `TraceError`.
    """
    return to_requests(*read_decisions(folder), Path(folder).name)


def to_requests(header: Header, rows: NDArray[np.void], name: str) -> Trace:
    """Return the trace that `import_flight` makes of these decisions."""
    return Trace(
        rows["time_s"] - rows["time_s"][0],
        np.maximum(rows["slack_ms"], 0.0) / slowdowns(header, rows),
        {
            "reading_ms": rows["reading_ms"].astype(np.float64),
            "phi": rows["phi"].astype(np.float64),
            "late": (rows["outcome"] != OUTCOMES.index("ok")).astype(np.float64),
        },
        name=name,
    )


def read_decisions(folder: str | Path) -> tuple[Header, NDArray[np.void]]:
    """Return a recording's header, and the records of requests on which a policy decided, at least two.

    Damaged records are left out. Time goes on where the device's clock was set back. Raises `InputError` or
    `TraceError`.
    """
    header, records = read_recording(folder)
    count = len(header.variants)
    rows = records[
        (records["kind"] == DECISION)
        & (records["phi"] >= 0)
        & (np.maximum(records["phi"], records["previous"]) < count)
        & np.isfinite(records["time_s"] + records["reading_ms"] + records["slack_ms"])
        & ~(records["inference_ms"] <= 0)  # NaN: it never ended
        & (records["slowdown"] > 0)
    ]
    if len(rows):
        steps = np.maximum(np.diff(rows["time_s"]), 0.0)
        rows["time_s"][1:] = rows["time_s"][0] + np.cumsum(steps)
        rows = rows[np.append(steps > 0, True)]
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
    path: str | Path,
    mapping: str,
    *,
    column: str | None = None,
    median_ms: float = 50.0,
    full: float | None = None,
) -> Trace:
    """Return a budget trace from a file of raw values: headroom ÷ its median × `median_ms`.

    A CSV, NPZ or Parquet file has the column `time_s` (in a CSV it is the first); `column` names the resource
    (default: the second). `mapping` is one of `MAPPINGS`; `full` replaces what it takes for all of the
    resource. Raises `TraceError`, also where the median headroom is 0.
    """
    path = Path(path)
    columns = read_columns(path)
    names = list(columns)
    where = f"{path}:1" if path.suffix == ".csv" else str(path)
    if names[:1] != ["time_s"] or len(names) < 2:
        raise TraceError(f"{where}: expected time_s and a value; found {', '.join(names)}")
    column = column or names[1]
    if column not in columns:
        raise TraceError(f"{where}: no column {column!r}; found {', '.join(names)}")
    return to_budget(
        columns["time_s"], columns[column], mapping, path.stem, median_ms=median_ms, full=full
    )


def to_budget(
    time_s: Floats,
    value: Floats,
    mapping: str,
    name: str,
    *,
    median_ms: float = 50.0,
    full: float | None = None,
) -> Trace:
    """Return the budgets that a resource's values (T,) stand for; raise `TraceError`."""
    if mapping not in MAPPINGS:
        raise TraceError(f"no mapping is called {mapping!r}", help=f"use {', '.join(MAPPINGS)}")
    rule = MAPPINGS[mapping]
    if mapping == "slowdown" and (value <= 0).any():
        row = int((value <= 0).argmax())
        raise TraceError(f"{name}: row {row}: a slow-down is above 0, found {value[row]:g}")
    trace = Trace(time_s, rule.headroom(value, rule.full if full is None else full), name=name)
    if rule.is_budget:
        return trace
    middle = float(np.median(trace.budget_ms)) if len(trace) else 0.0
    if middle <= 0:
        raise TraceError(f"{name}: the median headroom as {mapping} is 0, nothing to scale by")
    with np.errstate(over="ignore"):
        return Trace(time_s, trace.budget_ms / middle * median_ms, name=name)
