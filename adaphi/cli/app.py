"""The commands, each under its name; what one needs is imported when it runs, so `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import device, offline, trace
from .explain import explain
from .keys import keys
from .live import fidelity, replay
from .plan import app as plan
from .requests import requests
from .sweep import sweep

app = typer.Typer(
    name="adaphi",
    help="The best model the device can afford, request by request.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(device.profile)
app.command()(offline.solve)
app.command()(offline.simulate)
app.command()(offline.compare)
app.command()(requests)
app.command()(replay)
app.command()(fidelity)
app.command()(sweep)
app.command()(explain)
app.command()(device.serve)
app.command()(device.infer)
app.command()(device.status)
app.command()(device.push)
app.command()(keys)
app.command()(device.record)
app.add_typer(trace.app, name="trace")
app.add_typer(plan, name="plan")
app.command()(device.demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adaphi {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """The best model the device can afford, request by request."""
