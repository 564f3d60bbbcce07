"""The configuration: one TOML file, every key with a default, unknown keys refused with their path."""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from .errors import ConfigError
from .model_zoo.profile import LatencyName

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]


def runtime_dir() -> Path:
    """Return the user's folder for sockets; only the user can enter it."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and Path(given).is_dir():
        return Path(given)
    return _own_folder()


def _own_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"adaphi-{os.getuid()}"


def check_private(folder: Path) -> None:
    """Raise `ConfigError` if `folder` is the one in /tmp that is to be the user's, and is somebody else's."""
    status = folder.stat()
    if folder == _own_folder() and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise ConfigError(
            f"{folder} belongs to another user, or others may write there",
            help="remove it, set XDG_RUNTIME_DIR, or choose another address in [zmq] bind",
        )


def default_address() -> str:
    """Return the address at which a daemon listens, and a client asks, if nothing else is said."""
    return f"ipc://{runtime_dir()}/adaphi.sock"


class Zmq(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[zmq]`: where requests arrive: this machine, or others with keys (docs/security.md).

    `key_file` is the daemon's own secret key; in the folder `client_keys` lie the public keys of who may ask
    from beyond this machine.
    """

    bind: list[str] = msgspec.field(
        default_factory=lambda: [default_address(), "tcp://127.0.0.1:5757"]
    )
    max_message_mb: Positive = 64.0
    key_file: str | None = None
    client_keys: str | None = None

    @property
    def max_message_bytes(self) -> int:
        """Return what a message may take."""
        return int(self.max_message_mb * 1e6)


class Http(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[http]`: metrics and health; port 0 takes any free one.

    With `token_file` anything but health needs its token; without, `host` is a loopback address.
    """

    host: str = "127.0.0.1"
    port: Port = 8757
    token_file: str | None = None


class Budget(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[budget]`: what the device can spend, and how often it is read (docs/sensors.md).

    `sources` are cpu, memory, thermal, thermal:CELSIUS, battery, rapl, nvml, nvml:NUMBER, pushed and
    trace:FILE; their /proc and /sys are below `root`. One that falls silent is trusted for `stale_s` more.
    """

    sources: list[str] = msgspec.field(default_factory=lambda: ["cpu", "memory", "pushed"])
    root: str = "/"
    stale_s: Positive = 2.0
    deadline_ms: Positive = 100.0
    interval_ms: Positive = 100.0


class Worker(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[worker]`: the process that owns the models."""

    threads: Count = 1
    backend: str | None = None
    """torch, onnx, openvino, or auto: the fastest here. None: the profile's, else torch."""
    memory_limit_mb: Positive = 1024.0
    profile_rounds: Count = 8
    hang_s: Positive = 10.0

    @property
    def memory_limit_bytes(self) -> int:
        """Return what the resident variants may take together."""
        return int(self.memory_limit_mb * 1e6)


class Queue(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[queue]`: how many requests may wait, and how long a shutdown waits for them."""

    max_requests: Count = 64
    drain_s: Positive = 10.0


class Recorder(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[recorder]`: where every reading and decision is kept, and how much of them; no folder: nowhere."""

    folder: str | None = None
    limit_mb: Positive = 64.0


class ObjectiveConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`[objective]`: prices for a policy that is solved at the start."""

    miss_cost: Annotated[float, Meta(ge=0)] = 0.5
    switch_cost: Annotated[float, Meta(ge=0)] = 0.01


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that `adaphi serve` can be told; see the sections above."""

    ladder: str = "efficientnet-lite"
    policy: str | None = None
    policy_key: str | None = None
    latency: LatencyName = "p95"
    adapt: bool = False
    objective: ObjectiveConfig = ObjectiveConfig()
    zmq: Zmq = msgspec.field(default_factory=Zmq)
    http: Http = Http()
    budget: Budget = msgspec.field(default_factory=Budget)
    worker: Worker = Worker()
    queue: Queue = Queue()
    recorder: Recorder = Recorder()


def load_config(path: str | Path | None = None) -> Config:
    """Return the configuration in `path`, or the defaults; raise `ConfigError` with the key's path.

    Relative paths inside (`ladder`, `policy`, keys and tokens, `budget.root`, `trace:` sources,
    `recorder.folder`) are from the file's folder.
    """
    if path is None:
        return Config()
    from .policies.rules import is_rule

    path = Path(path)
    try:
        config = msgspec.convert(tomllib.loads(path.read_text()), Config)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        check_addresses(config)
        check_sources(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", help=error.help) from None
    here = path.resolve().parent
    sources = [
        f"trace:{here / s.removeprefix('trace:')}" if s.startswith("trace:") else s
        for s in config.budget.sources
    ]
    ladder, policy = config.ladder, config.policy

    def beside(name: str | None) -> str | None:
        return None if name is None else str(here / name)

    return msgspec.structs.replace(
        config,
        ladder=str(here / ladder) if ladder.endswith((".json", ".toml")) else ladder,
        policy=policy if policy is None or is_rule(policy) else str(here / policy),
        policy_key=beside(config.policy_key),
        zmq=msgspec.structs.replace(
            config.zmq,
            key_file=beside(config.zmq.key_file),
            client_keys=beside(config.zmq.client_keys),
        ),
        http=msgspec.structs.replace(config.http, token_file=beside(config.http.token_file)),
        budget=msgspec.structs.replace(
            config.budget, sources=sources, root=str(here / config.budget.root)
        ),
        recorder=msgspec.structs.replace(config.recorder, folder=beside(config.recorder.folder)),
    )


def check_addresses(config: Config) -> None:
    """Raise `ConfigError` for what is no address, or one that others could reach without a key or token."""
    guarded = config.zmq.key_file is not None and config.zmq.client_keys is not None
    for number, address in enumerate(config.zmq.bind):
        where = f"at `$.zmq.bind[{number}]`"
        tcp = re.fullmatch(r"tcp://.+:(\d+)", address)
        if not (0 < int(tcp[1]) < 65536 if tcp else re.fullmatch("ipc://.+", address)):
            raise ConfigError(
                f"{address!r} is neither ipc://PATH nor tcp://HOST:PORT with a port "
                f"from 1 to 65535 - {where}"
            )
        if not is_local(address) and not guarded:
            raise ConfigError(
                f"{address!r} can be reached by others, and only known keys may ask - {where}",
                help="make keys with `adaphi keys` and name them: [zmq] key_file and client_keys",
            )
    if not _is_loopback(config.http.host) and config.http.token_file is None:
        raise ConfigError(
            f"{config.http.host!r} can be reached by others, and only a token may ask - at `$.http.host`",
            help="make one with `adaphi keys` and name its file: [http] token_file",
        )


def check_sources(config: Config) -> None:
    """Raise `ConfigError` where two budget sources are of one kind: they would be told apart by nothing."""
    kinds = [source.partition(":")[0] for source in config.budget.sources]
    for number, kind in enumerate(kinds):
        if kind in kinds[:number]:
            raise ConfigError(
                f"{kind!r} is there already - at `$.budget.sources[{number}]`",
                help="name each kind of source once",
            )


def is_local(address: str) -> bool:
    """Say whether only this machine can reach a ZeroMQ address."""
    scheme, _, rest = address.partition("://")
    return scheme == "ipc" or _is_loopback(rest.rpartition(":")[0])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def taken(running: Config, wanted: Config) -> tuple[Config, list[str]]:
    """Return `running` with what may change taken from `wanted`, and the keys that need a restart.

    Another policy can be had while running, but to have none, so that one is solved, takes a start.
    """
    budget = msgspec.structs.replace(
        running.budget,
        deadline_ms=wanted.budget.deadline_ms,
        interval_ms=wanted.budget.interval_ms,
    )
    config = msgspec.structs.replace(
        running, policy=wanted.policy or running.policy, queue=wanted.queue, budget=budget
    )
    fixed = [
        name for name in Config.__struct_fields__ if getattr(config, name) != getattr(wanted, name)
    ]
    return config, fixed
