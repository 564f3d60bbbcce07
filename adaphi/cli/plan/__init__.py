"""`adaphi plan …`: the laws of scaling, each with its table, its picture and its experiment."""

from __future__ import annotations

import typer

from .augment import augment
from .rule import rule
from .transfer import transfer

app = typer.Typer(
    name="plan",
    help="Plan a ladder before it runs: what larger networks cost, and what they are worth.",
    no_args_is_help=True,
)
app.command()(rule)
app.command()(augment)
app.command()(transfer)
