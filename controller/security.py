"""Keys and tokens: who may ask from beyond this machine. The files, and who is let in.

Keys are CurveZMQ's: each side has a pair, knows the other's public half, and everything between them is
encrypted. The files are those of `zmq.auth`: `NAME.key` is public, `NAME.key_secret` holds both halves.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.auth import create_certificates, load_certificate
from zmq.auth.asyncio import AsyncioAuthenticator

from ..errors import ConfigError, InputError

log = logging.getLogger("adaphi")

DOMAIN = "adaphi"
SERVER, TOKEN, CLIENTS = "server", "token", "clients"
"""What `make_keys` calls the daemon's pair, the file with the token, and the folder of who may ask."""
MIN_TOKEN = 16
"""A shorter token could be guessed."""
QUIET_S = 10.0
"""Refusals are logged at most so often: a stranger must not fill the disk."""


class Pair(NamedTuple):
    """One side's keys, in ZeroMQ's printable form (Z85, 40 bytes each)."""

    public: bytes
    secret: bytes


class ClientKeys(NamedTuple):
    """What a client needs to ask a daemon that asks for keys: its own pair and the daemon's public key."""

    own: Pair
    server: bytes


# ------------------------------------------------------------------------------------------- files


def make_keys(folder: Path, names: list[str]) -> list[Path]:
    """Write a pair for each name, and the daemon's pair and a token where they are missing; return the files.

    All are readable by their owner alone; the clients' public keys lie in `folder`/clients. Raises
    `InputError` for a name that is taken or is none, before anything is written.
    """
    clients = folder / CLIENTS
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(f"{name!r} is named twice")
        if not re.fullmatch(r"\w[\w.-]*", name) or name == SERVER:
            raise InputError(f"{name!r} cannot be a client's name", help="use letters and digits")
        for path in (clients / f"{name}.key", folder / f"{name}.key_secret"):
            if path.exists():
                raise InputError(f"{path} exists", help="take another name, or remove it first")
    written = []
    with _private_files():
        clients.mkdir(parents=True, exist_ok=True)
        # Its secret half may have gone where it belongs: the public one is known to clients.
        if not any((folder / f"{SERVER}.{end}").exists() for end in ("key", "key_secret")):
            written += [Path(path) for path in create_certificates(folder, SERVER)]
        if not (folder / TOKEN).exists():
            (folder / TOKEN).write_text(secrets.token_urlsafe(32) + "\n")
            written.append(folder / TOKEN)
        for name in names:
            public, secret = map(Path, create_certificates(folder, name))
            written += [public.rename(clients / public.name), secret]
    return written


def load_pair(path: Path) -> Pair:
    """Return the pair in a secret file; raise `ConfigError` if it is none, or everyone can read it."""
    _check_private(path)
    public, secret = _load(path)
    if secret is None:
        raise ConfigError(
            f"{path} has no secret key", help="name the file that ends in .key_secret"
        )
    return Pair(public, secret)


def load_client_keys(
    server_key: str | Path | None, key_file: str | Path | None
) -> ClientKeys | None:
    """Return a client's keys, None where none are given; raise `ConfigError` for half of them.

    `server_key` is the daemon's public key or a file that holds it, `key_file` the client's secret file.
    """
    if server_key is None and key_file is None:
        return None
    if server_key is None or key_file is None:
        raise ConfigError(
            "a client with keys needs both server_key and key_file (--server-key, --key-file)"
        )
    if re.fullmatch(r"[!-~]{40}", str(server_key)) and not Path(server_key).exists():
        server = str(server_key).encode()
    else:
        server = _load(Path(server_key))[0]
    return ClientKeys(load_pair(Path(key_file)), server)


def load_token(path: Path) -> bytes:
    """Return the token in a file; raise `ConfigError` if everyone can read it, or it could be guessed."""
    _check_private(path)
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(token) < MIN_TOKEN or not re.fullmatch(rb"[!-~]+", token):
        raise ConfigError(f"{path} needs {MIN_TOKEN} characters or more in one word", help=_MAKE)
    return token


_MAKE = "`adaphi keys` makes one"


@contextmanager
def _private_files() -> Iterator[None]:
    """Create files that only their owner can read; pyzmq itself would leave that to the umask."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", help=_MAKE) from None
    if mode & 0o007:
        raise ConfigError(f"everyone can read {path}", help=f"chmod o= {path}")


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = load_certificate(path)
    except (OSError, ValueError):
        if not path.exists():
            raise ConfigError(f"{path}: no such file", help=_MAKE) from None
        raise ConfigError(f"{path} is no key file", help=_MAKE) from None
    if not all(key is None or re.fullmatch(rb"[!-~]{40}", key) for key in (public, secret)):
        raise ConfigError(f"{path} holds no key of 40 characters", help=_MAKE)
    return public, secret


# ------------------------------------------------------------------------------------------- who is let in


class Admission:
    """Lets in whoever's public key lies in a folder at that moment; calls `on_refusal` for anyone else."""

    def __init__(self, folder: Path, on_refusal: Callable[[], object]) -> None:
        self._folder, self._on_refusal = folder, on_refusal
        self._logged_s = -QUIET_S

    def callback(self, domain: str, key: bytes) -> bool:
        """Say whether a client with this public key may ask."""
        admitted = key in self._known()
        if not admitted:
            self._on_refusal()
            if time.monotonic() - self._logged_s >= QUIET_S:
                self._logged_s = time.monotonic()
                log.warning(
                    "a client was refused: its key %s is not in %s", key.decode(), self._folder
                )
        return admitted

    def _known(self) -> Iterator[bytes]:
        for path in self._folder.glob("*.key"):
            try:
                yield _load(path)[0]
            except ConfigError as error:
                log.warning("%s: nobody is let in by it", error.message)


def guard(
    context: zmq.Context[zmq.Socket[bytes]], folder: Path, on_refusal: Callable[[], object]
) -> AsyncioAuthenticator:
    """Start the authenticator of a context's sockets in `DOMAIN`; `stop` ends it."""
    authenticator = AsyncioAuthenticator(context)
    authenticator.configure_curve_callback(DOMAIN, Admission(folder, on_refusal))
    authenticator.start()
    return authenticator
