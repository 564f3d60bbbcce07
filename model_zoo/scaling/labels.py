"""Folders of labelled pictures: CSV files whose columns are named."""

from __future__ import annotations

import csv
from pathlib import Path

from ...errors import InputError

CLASSES = 1000
"""ImageNet's."""


def rows(path: Path, *columns: str, help: str = "") -> list[tuple[int, list[str]]]:
    """Return (line, the named columns) of each row of a CSV file; raise `InputError`, also for none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise InputError(f"{path}: no column {min(missing)}; found {reader.fieldnames}")
            found = [(reader.line_num, [row[c] or "" for c in columns]) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"cannot read {path}: {why}", help=help) from None
    if not found:
        raise InputError(f"{path}: no rows below the header", help=help)
    return found


def imagenet_index(path: Path, line: int, text: str) -> int:
    """Return a class's place among ImageNet's; raise `InputError`."""
    if not (text.isdecimal() and int(text) < CLASSES):
        raise InputError(f"{path}:{line}: imagenet_index is {text!r}; expected 0 to {CLASSES - 1}")
    return int(text)
