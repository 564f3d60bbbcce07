"""What a sweep comes to: every cell as a row of CSV or Parquet, and the spread of each figure over them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingExtraError
from ..policies import artefact
from .cells import Label

Row = dict[str, Label]
PERCENTILES = (1, 5, 50, 95, 99)


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write a row for each cell, whole or not at all; a figure that a cell lacks is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    artefact.write(path, text.getvalue().encode())


def require_parquet() -> None:
    """Raise `MissingExtraError` where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise MissingExtraError("Parquet", "parquet") from None


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write the rows of `write_csv` as Parquet: texts, whole numbers and doubles."""
    require_parquet()
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns(rows)})
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer)
    artefact.write(path, buffer.getvalue().to_pybytes())


def summarise(rows: Sequence[Row], over: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for each policy at each point of the grid, every figure's mean and percentiles over its cells.

    Cells that differ only in the labels `over` belong together. The order is that of the rows.
    """
    groups: dict[tuple[Label, ...], list[Row]] = {}
    labels = columns(rows)
    labels = [name for name in labels[: labels.index("policy") + 1] if name not in over]
    for row in rows:
        groups.setdefault(tuple(row[name] for name in labels), []).append(row)
    return [
        {
            **dict(zip(labels, group, strict=True)),
            "cells": len(members),
            "figures": {name: _spread(members, name) for name in _figures(members)},
        }
        for group, members in groups.items()
    ]


def _figures(rows: Sequence[Row]) -> list[str]:
    names = columns(rows)
    return names[names.index("policy") + 1 :]


def _spread(rows: Sequence[Row], name: str) -> dict[str, float]:
    values = np.array([row[name] for row in rows if name in row], dtype=np.float64)
    at = np.percentile(values, PERCENTILES).tolist()
    named = {f"p{share}": value for share, value in zip(PERCENTILES, at, strict=True)}
    return {"mean": float(values.mean()), **named}
