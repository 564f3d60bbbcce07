"""What every `adaphi plan` command ends with: a table, or JSON, and a page if one was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .. import show

if TYPE_CHECKING:
    from rich.table import Table

    from ...report import Page

Report: TypeAlias = Annotated[
    Path | None,
    typer.Option("--report", help="Write a page with pictures (HTML, one file; extra report)."),
]


def emit(
    title: str,
    value: object,
    table: Table,
    draw: Callable[[Page], object],
    *,
    as_json: bool,
    report: Path | None,
) -> None:
    """Print `value` as JSON or `table`, and write the page that `draw` fills."""
    if report is not None:
        from ...report import Page

        page = Page(title)
        draw(page)
        page.write(report)
    if as_json:
        show.print_json(value)
        return
    show.print_table(table)
    if report is not None:
        typer.echo(f"written to {report}")
