"""The cells of a sweep that are done, kept in one file that survives whatever ends the sweep.

One line of JSON a cell, only ever appended: `{"cell": key, …figures}`. A line that a kill cut short is taken
off when the file is opened again. Keys are digests of all that a cell depends on, so a line stays true
whatever becomes of the sweep's file.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from ..errors import InputError
from .cells import Figures


class Journal:
    """An open journal: `cells` holds the figures by key. Raises `InputError` while another writes to it."""

    def __init__(self, path: Path) -> None:
        with ExitStack() as undo:
            self._file = undo.enter_context(path.open("a+b"))
            self._lock()
            self.cells: dict[str, Figures] = dict(self._read())
            undo.pop_all()

    def add(self, cells: Iterable[tuple[str, Figures]]) -> None:
        """Append cells; when this returns, they outlive the process (not a loss of power)."""
        for key, figures in cells:
            self._file.write(json.dumps({"cell": key, **figures}).encode() + b"\n")
            self.cells[key] = figures
        self._file.flush()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{self._file.name}: another sweep writes here",
                help="wait for it, or name another folder",
            ) from None

    def _read(self) -> Iterator[tuple[str, Figures]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        self._file.truncate(whole)
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                figures = json.loads(line)
                yield figures.pop("cell"), figures
            except (ValueError, KeyError, AttributeError, TypeError):
                raise InputError(
                    f"{self._file.name}:{number}: not a cell of a sweep",
                    help="remove the file, or name another folder",
                ) from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
