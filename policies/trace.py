"""Budget traces, read strictly and written exactly: policies learn from them, replays score on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import TraceError
from .parquet import read_parquet, write_parquet

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """A recorded series of budgets: `time_s` (T,) strictly increasing, `budget_ms` (T,) ≥ 0.

    `columns` holds any further series of the file, each (T,). Raises `TraceError` where the arrays
    break these rules.
    """

    time_s: Floats
    budget_ms: Floats
    columns: dict[str, Floats] = field(default_factory=dict)
    name: str = "trace"

    def __post_init__(self) -> None:
        object.__setattr__(self, "time_s", np.asarray(self.time_s, dtype=np.float64))
        object.__setattr__(self, "budget_ms", np.asarray(self.budget_ms, dtype=np.float64))
        series = {"time_s": self.time_s, "budget_ms": self.budget_ms, **self.columns}
        for column, values in series.items():
            if values.ndim != 1 or len(values) != len(self.time_s):
                raise TraceError(f"{self.name}: {column} has shape {values.shape}")
        fault = _first_fault(list(series), np.column_stack(list(series.values())))
        if fault is not None:
            row, column_index, why = fault
            raise TraceError(f"{self.name}: row {row}: {list(series)[column_index]}: {why}")

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def readings_ms(self) -> Floats:
        """Return what a policy sees at steps 1 … T−1: the budget of the row before.

        Where the trace has a column `reading_ms`, as a recording of the daemon has, it is that row's reading.
        """
        seen = self.columns.get("reading_ms")
        return self.budget_ms[:-1] if seen is None else seen[1:]

    def __repr__(self) -> str:
        return f"<Trace(name={self.name!r}, rows={len(self)})>"

    @classmethod
    def from_budgets(
        cls, budget_ms: ArrayLike, *, step_s: float = 1.0, name: str = "trace"
    ) -> Trace:
        """Return a trace of evenly spaced budgets."""
        budgets = np.asarray(budget_ms, dtype=np.float64)
        times = np.arange(len(budgets), dtype=np.float64) * step_s
        return cls(times, budgets, name=name)

    @classmethod
    def read(cls, path: str | Path) -> Trace:
        """Read a `.csv`, `.npz` or `.parquet` trace; raise `TraceError` naming file, line and column."""
        path = Path(path)
        columns = read_columns(path)
        names = list(columns)
        where = str(path) if path.suffix in _READERS else f"{path}:1"
        if names[:1] != ["time_s"] or "budget_ms" not in names:
            raise TraceError(
                f"{where}: expected the columns time_s, budget_ms, …; found {', '.join(names)}",
                help="a raw resource trace becomes a budget by `adaphi trace import`",
            )
        time_s, budget_ms = columns.pop("time_s"), columns.pop("budget_ms")
        return cls(time_s, budget_ms, columns, path.stem)

    def write(self, path: str | Path) -> None:
        """Write a `.csv`, `.npz` or `.parquet`; what is read back is equal bit for bit.

        Raises `TraceError` where it cannot be written.
        """
        path = Path(path)
        series = {"time_s": self.time_s, "budget_ms": self.budget_ms, **self.columns}
        try:
            _WRITERS.get(path.suffix, _write_csv)(path, series)
        except OSError as error:
            raise TraceError(f"cannot write {path}: {error.strerror or error}") from None

    def split(self, share: float = 0.5) -> tuple[Trace, Trace]:
        """Return the first `share` of the rows to learn from, and the rest to score."""
        cut = int(len(self) * share)
        return self[:cut], self[cut:]

    def __getitem__(self, rows: slice) -> Trace:
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Trace(self.time_s[rows], self.budget_ms[rows], columns, self.name)


def read_columns(path: Path) -> dict[str, Floats]:
    """Return the columns of an `.npz`, a `.parquet` or else a CSV file of numbers; raise `TraceError`."""
    if path.suffix not in _READERS:
        return read_csv(path)
    columns = _READERS[path.suffix](path)
    # Their columns are known by name, in whatever order; here the time comes first.
    return {name: columns[name] for name in sorted(columns, key=lambda name: name != "time_s")}


def read_csv(path: Path) -> dict[str, Floats]:
    """Return the columns of a CSV of numbers, checked; raise `TraceError` with line and column."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a text file (byte {error.start})") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise TraceError(f"{path}:1: the file is empty")
    names = [name.strip() for name in lines[0].split(",")]
    if len(set(names)) < len(names) or "" in names:
        raise TraceError(f"{path}:1: column names must be different and not empty")
    if len(lines) == 1:
        raise TraceError(f"{path}:2: the file has a header and no rows")
    try:
        table = np.loadtxt(lines[1:], delimiter=",", comments=None, ndmin=2)
    except ValueError:
        table = np.empty((0, 0))
    if table.shape != (len(lines) - 1, len(names)) or _first_fault(names, table) is not None:
        _explain(path, names, lines)
    return {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)}


def _explain(path: Path, names: list[str], lines: list[str]) -> NoReturn:
    """Raise `TraceError` for the first line that is wrong."""
    previous = np.empty((0, len(names)))
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split(",")
        if len(fields) != len(names):
            place = min(len(fields), len(names)) + 1
            raise TraceError(
                f"{path}:{number}:{place}: expected {len(names)} fields, found {len(fields)}"
            )
        row = np.empty(len(names))
        for i, text in enumerate(fields):
            try:
                row[i] = float(text)
            except ValueError:
                raise TraceError(
                    f"{path}:{number}:{i + 1}: {names[i]}: expected a number, found {text!r}"
                ) from None
        fault = _first_fault(names, np.vstack([previous, row]))
        if fault is not None:
            raise TraceError(f"{path}:{number}:{fault[1] + 1}: {names[fault[1]]}: {fault[2]}")
        previous = row[None, :]
    raise TraceError(f"{path}: cannot be read as numbers")


def _first_fault(names: list[str], table: Floats) -> tuple[int, int, str] | None:
    """Return (row, column, why) of the first value that breaks a trace's rules, or None."""
    wrong = ~np.isfinite(table)
    times = table[:, 0]
    if names[0] == "time_s":
        wrong[1:, 0] |= ~(np.diff(times) > 0)
    for column, name in enumerate(names):
        if name == "budget_ms":
            wrong[:, column] |= table[:, column] < 0
    if not wrong.any():
        return None
    row, column = (int(i) for i in np.argwhere(wrong)[0])
    value = float(table[row, column])
    if not np.isfinite(value):
        return row, column, f"expected a finite number, found {value}"
    if names[column] == "budget_ms" and value < 0:
        return row, column, f"a budget is ≥ 0, found {value}"
    return row, column, f"times must increase, found {value} after {times[row - 1]}"


def _read_npz(path: Path) -> dict[str, Floats]:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: np.asarray(file[name], dtype=np.float64) for name in file.files}
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged archive makes zipfile and numpy raise nearly anything
        raise TraceError(f"{path}: not an NPZ of numbers ({error})") from None


def _write_npz(path: Path, columns: dict[str, Floats]) -> None:
    np.savez(path, allow_pickle=False, **columns)


def _write_csv(path: Path, columns: dict[str, Floats]) -> None:
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    lines = [",".join(columns), *(",".join(map(repr, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


_READERS = {".npz": _read_npz, ".parquet": read_parquet}
_WRITERS = {".npz": _write_npz, ".parquet": write_parquet}
