"""What serving itself costs, beside raw pyzmq, FastAPI, mosec, a floor and a bare call, block by block.

Every server and client is a process; all tune malloc alike. Requests are pictures of 602 KB (the bytes of a
float32 tensor of 1 × 3 × 224 × 224), tiny ones of 1 KB; answers have 4 KB at most. The model is lite0 on
torch, its preprocessing included. Servers are asked alike: by messages formed beforehand, over a bare socket
(raw pyzmq over its own). adaphi is asked by its own client besides, which forms and checks each request and
minds deadlines, repetitions and the connection. A ratio is the median over blocks of those within a block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from statistics import median

from .clients import Crowd, Told
from .daemon import daemon, free_port, process, stated_profile, wait_for
from .harness import Row

MANY = 8
SHORT = (("tiny", 1, 0.3),)
WHOLE = (("echo", 9, 1.0), ("tiny", 9, 1.0), ("model", 5, 3.0))
"""What is asked, in how many blocks, of how many seconds a system."""
OURS, CLIENT, OVER_HTTP, ZMQ, FASTAPI, MOSEC, FLOOR, BARE = (
    "adaphi",
    "adaphi and its client",
    "adaphi over HTTP",
    "raw pyzmq",
    "FastAPI",
    "mosec",
    "the floor",
    "bare call",
)
Blocks = dict[tuple[str, str, int], list[Told]]
"""What clients saw, block by block, by (what was asked, system, clients)."""


def run(quick: bool) -> list[Row]:
    """Return every system's figures, and the ratios that were aimed at."""
    blocks: Blocks = defaultdict(list)
    for what, count, seconds in SHORT if quick else WHOLE:
        with _systems(what, (1,) if quick else (1, MANY)) as crowds:
            for _ in range(count):
                for (name, clients), crowd in crowds.items():
                    blocks[what, name, clients].append(crowd.ask(seconds))
    return [*_figures(blocks), *_aims(blocks)]


@contextmanager
def _systems(what: str, numbers: tuple[int, ...]) -> Iterator[dict[tuple[str, int], Crowd]]:
    """Start every system, and clients of it in these numbers; neighbours are to be asked in turn."""
    ladder = "efficientnet-lite" if what == "model" else "python:benchmarks.echo:ladder"
    names = [f"tf_efficientnet_lite{phi}" for phi in range(3)] if what == "model" else ["echo"]
    latency_ms = [20.0, 30.0, 45.0] if what == "model" else [0.1]
    with ExitStack() as stack:
        served = stack.enter_context(daemon(stated_profile(ladder, names, latency_ms)))
        places = {
            OURS: ("zmtp", served.zmq),
            CLIENT: ("adaphi", served.zmq),
            OVER_HTTP: ("oip", served.http),
        }
        for name, kind, command in _peers(what):
            port = free_port()
            server = stack.enter_context(process([*command, what, str(port)]))
            if not wait_for(port, server):
                raise RuntimeError(f"{name} does not start")
            places[name] = (kind, f"{'tcp://' if kind == 'zmq' else ''}127.0.0.1:{port}")
        crowds = {
            (name, clients): stack.enter_context(_crowd(clients, kind, address, what))
            for clients in numbers
            for name, (kind, address) in places.items()
        }
        crowds[BARE, 1] = stack.enter_context(_crowd(1, "bare", "", what))
        yield crowds


def _peers(what: str) -> list[tuple[str, str, list[str]]]:
    """Return (name, kind of client, command) of the peers that are installed."""
    peers = [
        (ZMQ, "zmq", ["benchmarks.servers", "zmq"]),
        (FLOOR, "plain", ["benchmarks.floor"]),
    ]
    if find_spec("fastapi"):
        peers.append((FASTAPI, "http", ["benchmarks.servers", "fastapi"]))
    if find_spec("mosec"):
        peers.append((MOSEC, "http", ["benchmarks.mosec_peer"]))
    for name, package in ((FASTAPI, "fastapi"), (MOSEC, "mosec")):
        if not find_spec(package):
            print(f"{name} is not installed and left out: pip install {package}")
    return peers


@contextmanager
def _crowd(clients: int, kind: str, address: str, what: str) -> Iterator[Crowd]:
    crowd = Crowd(clients, kind, address, what)
    try:
        yield crowd
    finally:
        crowd.close()


def _figures(blocks: Blocks) -> list[Row]:
    rows = []
    for (what, name, clients), told in blocks.items():
        title = f"{what}, {clients} client{'s' * (clients > 1)}, {name}"
        p50, p99 = (median(t.quantile_ms(q) for t in told) for q in (0.5, 0.99))
        if clients == 1:
            rows.append(Row(f"{title}: p50", p50, "ms", "less"))
            if what == "model":
                overhead = median(map(_overhead_ms, told))
                rows.append(Row(f"{title}: overhead p50", overhead, "ms", "less"))
        else:
            rows.append(Row(title, median(t.rate for t in told), "1/s", "more"))
        rows.append(Row(f"{title}: p99", p99, "ms", "less"))
    return rows


def _aims(blocks: Blocks) -> list[Row]:
    """Return the ratios that were aimed at, of what was measured."""
    rows = []
    for ours in (OURS, CLIENT):
        if told := blocks["model", ours, 1]:
            overhead = median(map(_overhead_ms, told))
            title = f"model, 1 client: overhead p50 of {ours}"
            rows.append(Row(title, overhead, "ms", "less", target="≤ 1.1"))
    for what, clients, ours, peer, figure, of, better, target in AIMS:
        pairs = list(
            zip(blocks[what, ours, clients], blocks[what, peer, _of(peer, clients)], strict=False)
        )
        if pairs:
            ratio = median(figure(us) / figure(them) for us, them in pairs)
            title = f"{what}, {clients} client{'s' * (clients > 1)}: {of} of {ours} ÷ {peer}'s"
            rows.append(Row(title, ratio, "×", better, target=target))
    return rows


def _of(peer: str, clients: int) -> int:
    return 1 if peer == BARE else clients


def _overhead_ms(told: Told) -> float:
    return float(median(told.overhead_ms))


def _p50_ms(told: Told) -> float:
    return told.quantile_ms(0.5)


def _rate(told: Told) -> float:
    return told.rate


Aim = tuple[str, int, str, str, Callable[[Told], float], str, str, str]
"""What is asked, clients, whose figure ÷ whose, which, which way is good, what is aimed at."""

AIMS: list[Aim] = [
    aim
    for ours in (OURS, CLIENT)
    for aim in (
        ("echo", 1, ours, ZMQ, _p50_ms, "p50", "less", "≤ 2.4"),
        ("echo", 1, ours, MOSEC, _p50_ms, "p50", "less", "< 1"),
        ("echo", MANY, ours, ZMQ, _rate, "rate", "more", "≥ 0.7"),
        ("echo", MANY, ours, MOSEC, _rate, "rate", "more", "≥ 2"),
        ("tiny", MANY, ours, FASTAPI, _rate, "rate", "more", "≥ 1.4"),
        ("model", 1, ours, MOSEC, _overhead_ms, "overhead p50", "less", "≤ 0.85"),
        ("model", MANY, ours, BARE, _rate, "rate", "more", "≥ 0.97"),
    )
] + [("echo", 1, OVER_HTTP, FASTAPI, _p50_ms, "p50", "less", "≤ 1.0")]
"""The aims, for the server alone and with its client."""
