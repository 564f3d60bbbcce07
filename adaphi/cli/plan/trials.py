"""What commands share whose experiment is long: they read what was measured, and `--full` measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from .. import show

if TYPE_CHECKING:
    from ...model_zoo.scaling.measured import C, Key, Measured
else:
    C, Key = TypeVar("C"), TypeVar("Key")

Full: TypeAlias = Annotated[
    bool, typer.Option("--full", help="Train what --data lacks, on one thread; may be stopped.")
]
Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="What was measured. [what comes with adaphi; with --full a file here]"),
]


def measured(
    kind: type[Measured[C]],
    shipped: Path,
    data: Path | None,
    command: str,
    keys: Callable[[], Sequence[Key]],
    train: Callable[[Key], C],
    *,
    full: bool,
) -> Measured[C]:
    """Return what `data` holds, or `shipped` where none is named; with `full`, after training the rest.

    `command` is what the file then says it was measured by.
    """
    from ...model_zoo.scaling.measured import fill, load

    if not full:
        return load(data or shipped, kind)
    import torch

    torch.set_num_threads(1)
    with show.progress() as tell:
        return fill(data or Path(shipped.name), kind, command, keys(), train, tell)


def origin(found: Measured[C]) -> str:
    """Return where, when and how the figures were measured, in words."""
    return f"Measured by `{found.command}` on {found.machine}, {found.date}."
