"""`adaphi keys`: what a daemon and its clients on other machines know each other by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def keys(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Clients to make a pair for.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write to.")] = Path(
        "keys"
    ),
) -> None:
    """Make keys, so that a daemon can be asked from other machines.

    \b
    The daemon's pair and a token for HTTP are made once, a pair for each client when it is named:
      server.key_secret  the daemon's       [zmq] key_file
      clients/           who may ask        [zmq] client_keys
      token              HTTP's             [http] token_file
      server.key         public             goes to every client
      NAME.key_secret    the client's       goes to that client alone
    All are readable by you only, and none is overwritten.

    \b
    Example:
      adaphi keys camera drone -o keys
    and on the camera, with the two files:
      adaphi infer cat.jpg --address tcp://10.0.0.5:5757 --server-key server.key --key-file camera.key_secret
    """
    from ..controller.security import make_keys

    for path in make_keys(output, names or []):
        typer.echo(f"written to {path}")
