"""Where clients come in over ZeroMQ: this machine's by plain sockets (`local`), the others by libzmq."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import zmq

from ..config import Zmq, is_local
from ..errors import ConfigError, StartupError
from .local import LocalPeer, LocalRouter
from .pump import Pump
from .security import DOMAIN, Pair, guard, load_pair
from .zmtp import Allocate, allocate


class Remote(NamedTuple):
    """A client of libzmq's socket: the socket that it came in at, and its name there."""

    pump: Pump
    name: bytes

    def send(self, frames: list[Any]) -> bool:
        """Send without waiting; return False if the client is gone or does not keep up."""
        return self.pump.send([self.name, *frames])


Peer: TypeAlias = LocalPeer | Remote
"""A client's connection."""


class Routers:
    """The daemon's ROUTER sockets; `on_message(peer, frames)` gets what arrives.

    `allocate` gives the memory of long frames that come from this machine. Addresses beyond it
    are served only to clients with a key that lies in `client_keys`. Raises
    `StartupError` if an address is taken, `ConfigError` if the daemon's own keys cannot be used.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        config: Zmq,
        on_message: Callable[[Peer, list[Any]], None],
        on_refusal: Callable[[], object],
        allocate: Allocate = allocate,
    ) -> None:
        self._context, self._on_message, self._allocate = context, on_message, allocate
        # A message somewhat too large is refused in words; one far too large ends its connection
        # before it fills the memory.
        self._limit_bytes = 4 * config.max_message_bytes
        self._all: list[Pump | LocalRouter] = []
        self._guard = None
        local = [address for address in config.bind if is_local(address)]
        beyond = [address for address in config.bind if not is_local(address)]
        try:
            for address in local:
                self._open_local(address)
            if beyond:
                assert config.key_file is not None and config.client_keys is not None
                pair = load_pair(Path(config.key_file))
                if not Path(config.client_keys).is_dir():
                    raise ConfigError(f"{config.client_keys} is no folder - at `$.zmq.client_keys`")
                # First the guard: without one ZeroMQ would let anybody in.
                self._guard = guard(context, Path(config.client_keys), on_refusal)
                self._open(pair, beyond)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets; what was sent may still leave within their linger."""
        for one in self._all:
            one.close()
        if self._guard is not None:
            self._guard.stop()

    def _open_local(self, address: str) -> None:
        try:
            self._all.append(
                LocalRouter(address, self._limit_bytes, self._on_message, self._allocate)
            )
        except OSError as error:
            raise _taken(address, error) from None

    def _open(self, pair: Pair, addresses: list[str]) -> None:
        router = self._context.socket(zmq.ROUTER)
        pump = Pump(router, lambda frames: self._on_message(Remote(pump, frames[0]), frames[1:]))
        self._all.append(pump)
        router.linger = 500
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a vanished client is an error, not a silence
        router.setsockopt(zmq.SNDHWM, 256)
        router.setsockopt(zmq.RCVHWM, 256)
        router.setsockopt(zmq.MAXMSGSIZE, self._limit_bytes)
        router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        router.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = pair
        router.zap_domain = DOMAIN.encode()
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody, should the guard ever be gone
        for address in addresses:
            try:
                router.bind(address)
            except zmq.ZMQError as error:
                raise _taken(address, error) from None


def _taken(address: str, error: OSError | zmq.ZMQError) -> StartupError:
    taken = "is another daemon running? " if error.errno == errno.EADDRINUSE else ""
    return StartupError(
        f"cannot listen on {address}: {error.strerror or error}",
        help=f"{taken}choose another address in [zmq] bind",
    )
