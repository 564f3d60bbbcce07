"""Columns of numbers in Parquet files (extra `parquet`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError, TraceError

Floats = NDArray[np.float64]


def read_parquet(path: Path) -> dict[str, Floats]:
    """Return the columns of a Parquet file of numbers, in the file's order; a missing value is NaN.

    Raises `TraceError` naming the file and the column, `MissingExtraError` without pyarrow.
    """
    arrow, parquet = _pyarrow()
    try:
        table = parquet.ParquetFile(path).read()
    except (arrow.ArrowException, OSError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TraceError(f"{path}: not a Parquet file that can be read ({why})") from None
    if len(set(table.column_names)) < table.num_columns:
        raise TraceError(f"{path}: column names must be different")
    columns = {}
    for name, values in zip(table.column_names, table.columns, strict=True):
        if not (arrow.types.is_integer(values.type) or arrow.types.is_floating(values.type)):
            raise TraceError(f"{path}: column {name!r} holds {values.type}; expected numbers")
        columns[name] = values.to_numpy().astype(np.float64)
    return columns


def write_parquet(path: Path, columns: dict[str, Floats]) -> None:
    """Write columns of equal length; raise `MissingExtraError` without pyarrow."""
    arrow, parquet = _pyarrow()
    parquet.write_table(arrow.table(columns), path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading and writing Parquet", "parquet") from None
    return pyarrow, pyarrow.parquet
