"""The command line: `main` runs one command and turns errors into one line and an exit code.

Exit codes: 0 it worked, 1 it failed (one line on stderr says why and what to do), 2 wrong usage, 130
stopped by Ctrl-C. What a command needs is imported when it runs, so that `adaphi --help` is quick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import AdaphiError
from . import device, offline, trace

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
app.command()(device.serve)
app.command()(device.infer)
app.command()(device.record)
app.add_typer(trace.app, name="trace")
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


def main() -> None:
    """Run the command that `sys.argv` names."""
    try:
        app()
    except AdaphiError as error:
        message = f"adaphi: {error.message}" + (f"; {error.help}" if error.help else "")
        print(" ".join(message.split()), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away: `adaphi … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
