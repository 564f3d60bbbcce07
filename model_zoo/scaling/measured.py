"""What an experiment measured, in a small file that says where, when and by which command.

A file grows cell by cell, each written as soon as it is measured, so a long experiment that was stopped goes
on where it was. Those in this folder are what the commands read where no other file is named.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Annotated, Generic, Protocol, TypeVar

import msgspec

from ...errors import InputError
from ..profiling import device_name

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Cell(Protocol):
    """One measurement."""

    @property
    def key(self) -> Hashable:
        """What was measured, without the outcome."""


Key = TypeVar("Key", bound=Hashable)
C = TypeVar("C", bound=Cell)


class Measured(msgspec.Struct, Generic[C], forbid_unknown_fields=True):
    """The cells of one experiment."""

    command: str
    machine: str
    date: str
    cells: list[C]


def load(path: Path, kind: type[Measured[C]]) -> Measured[C]:
    """Read what was measured; raise `InputError` naming the file and the place in it."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", help="measure with --full") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: {error}") from None
    if not found.cells:
        raise InputError(f"{path}: no cell was measured yet", help="measure with --full")
    return found


def fill(
    path: Path,
    kind: type[Measured[C]],
    command: str,
    keys: Sequence[Key],
    measure: Callable[[Key], C],
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Measured[C]:
    """Measure the `keys` that the file at `path` lacks, and return all that it then holds.

    Raises `InputError` where there is another file at `path`, or it cannot be written.
    """
    cells = load(path, kind).cells if path.exists() else []
    known = {cell.key for cell in cells}
    missing = [key for key in keys if key not in known]
    for done, key in enumerate(missing):
        progress(done, len(missing), str(key))
        cells.append(measure(key))
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        _save(path, Measured(command, device_name(), today, cells))
    progress(len(missing), len(missing), "done")
    return load(path, kind)


def _save(path: Path, found: Measured[C]) -> None:
    """Write one cell a line, whole or not at all."""
    head = {name: getattr(found, name) for name in ("command", "machine", "date")}
    start = msgspec.json.encode(head).decode().removesuffix("}")
    lines = ",\n".join(msgspec.json.encode(cell).decode() for cell in found.cells)
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(f'{start},"cells":[\n{lines}\n]}}\n', encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
