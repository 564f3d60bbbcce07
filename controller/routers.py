"""Where clients come in over ZeroMQ: one socket for this machine, one for whoever has a key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import zmq

from ..config import Zmq, is_local
from ..errors import ConfigError, StartupError
from .pump import Pump
from .security import DOMAIN, Pair, guard, load_pair

Peer: TypeAlias = tuple[Pump, bytes]
"""A client's connection: the socket that it came in at, and its name there."""


class Routers:
    """The daemon's ROUTER sockets; `on_message(peer, frames)` gets what arrives.

    Addresses beyond this machine are served only to clients with a key that lies in `client_keys`. Raises
    `StartupError` if an address is taken, `ConfigError` if the daemon's own keys cannot be used.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        config: Zmq,
        on_message: Callable[[Peer, list[zmq.Frame]], None],
        on_refusal: Callable[[], object],
    ) -> None:
        self._context, self._config, self._on_message = context, config, on_message
        self._pumps: list[Pump] = []
        self._guard = None
        local = [address for address in config.bind if is_local(address)]
        beyond = [address for address in config.bind if not is_local(address)]
        try:
            if local:
                self._open(local)
            if beyond:
                assert config.key_file is not None and config.client_keys is not None
                pair = load_pair(Path(config.key_file))
                if not Path(config.client_keys).is_dir():
                    raise ConfigError(f"{config.client_keys} is no folder - at `$.zmq.client_keys`")
                # First the guard: without one ZeroMQ would let anybody in.
                self._guard = guard(context, Path(config.client_keys), on_refusal)
                self._open(beyond, pair)
        except BaseException:
            self.close()
            raise

    def send(self, peer: Peer, frames: list[Any]) -> bool:
        """Send without waiting; return False if the client is gone or does not keep up."""
        pump, name = peer
        return pump.send([name, *frames])

    def close(self) -> None:
        """Close the sockets; what was sent may still leave within their linger."""
        for pump in self._pumps:
            pump.close()
        if self._guard is not None:
            self._guard.stop()

    def _open(self, addresses: list[str], pair: Pair | None = None) -> None:
        router = self._context.socket(zmq.ROUTER)
        pump = Pump(router, lambda frames: self._on_message((pump, frames[0].bytes), frames[1:]))
        self._pumps.append(pump)
        router.linger = 500
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a vanished client is an error, not a silence
        router.setsockopt(zmq.SNDHWM, 256)
        router.setsockopt(zmq.RCVHWM, 256)
        # A message somewhat too large is refused in words; one far too large ends its connection
        # before it fills the memory.
        router.setsockopt(zmq.MAXMSGSIZE, 4 * self._config.max_message_bytes)
        router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        router.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
        if pair is not None:
            router.curve_server = True
            router.curve_publickey, router.curve_secretkey = pair
            router.zap_domain = DOMAIN.encode()
            router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody, should the guard ever be gone
        for address in addresses:
            try:
                router.bind(address)
            except zmq.ZMQError as error:
                raise StartupError(
                    f"cannot listen on {address}: {error.strerror}",
                    help="is another daemon running? choose another address in [zmq] bind",
                ) from None
