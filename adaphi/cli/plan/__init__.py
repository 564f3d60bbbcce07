"""`adaphi plan …`: the laws of scaling, each with its table, its picture and its experiment."""

from __future__ import annotations

import typer

from .augment import augment
from .bias import bias
from .drone import drone
from .embryo import embryo
from .graph import graph
from .hardware import hardware
from .ladder import ladder
from .rule import rule
from .search import search
from .transfer import transfer

app = typer.Typer(
    name="plan",
    help="Plan a ladder before it runs: what larger networks cost, and what they are worth.",
    no_args_is_help=True,
)
app.command()(rule)
app.command()(embryo)
app.command()(bias)
app.command()(search)
app.command()(augment)
app.command()(drone)
app.command()(graph)
app.command()(hardware)
app.command()(ladder)
app.command()(transfer)
