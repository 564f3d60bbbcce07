"""What `plan search` measured: costs of networks, and ladders of the found and the published rule together.

A ladder's latency is measured in rounds in which every network of both ladders runs once, φ = 0 among them;
what counts is the ratio to φ = 0 in the same round, so that drift of the machine's speed falls on all alike.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..profiling import device_name
from .compound import PUBLISHED, CompoundScaling
from .lite import Lite, Size, memory_bytes, run_ms
from .search import PHIS, AccuracyLaw, CostLaw, Laws, Prices, Worth, fit_accuracy, size

DATA = Path(__file__).with_name("search.json")
"""Measured on the machine and day that it names."""
ROUNDS = 25
SETTINGS = (Prices(1.0, 1.0), Prices(1.0, 0.0), Prices(0.5, 0.5), Prices(0.0, 0.0))
"""Prices for which ladders are measured."""
_PROBES: tuple[Size, ...] = (
    *((depth, 1.0, 1.0) for depth in (1.5, 1.875)),
    *((1.0, width, 1.0) for width in (1.25, 1.6)),
    *((1.0, 1.0, resolution) for resolution in (1.3, 1.6)),
    (1.31, 1.1, 1.15),
    (1.5, 1.3, 1.2),
    (1.875, 1.4, 1.5),
)
_SMALLEST = Lite(1.0, 1.0, 224)

Progress = Callable[[int, int, str], None]


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network: what was built; its latency by φ = 0's in each round, its memory by φ = 0's."""

    depth_multiplier: float
    width_multiplier: float
    side: int
    latency: list[float]
    memory: float

    @property
    def size(self) -> Size:
        """Return what the network is, relative to φ = 0."""
        return Lite(self.depth_multiplier, self.width_multiplier, self.side).size

    @property
    def typical(self) -> float:
        """Return the median latency, relative to φ = 0."""
        return float(np.median(self.latency))


class Ladders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rule found for two prices, and the published one: φ = 1, 2, 3 of each, run in the same rounds."""

    latency_price: float
    memory_price: float
    rule: tuple[float, float, float]
    found: list[Run]
    published: list[Run]

    @property
    def prices(self) -> Prices:
        """Return λ₁ and λ₂."""
        return Prices(self.latency_price, self.memory_price)

    def worth(self, accuracy: AccuracyLaw) -> tuple[Worth, Worth]:
        """Return what the found ladder comes to and what the published one does: only accuracy is a model."""
        one, other = (
            Worth(
                float(accuracy([run.size for run in runs]).mean()),
                float(np.mean([run.typical for run in runs])),
                float(np.mean([run.memory for run in runs])),
            )
            for runs in (self.found, self.published)
        )
        return one, other

    def gains(self, accuracy: AccuracyLaw) -> NDArray[np.float64]:
        """Return J of the found ladder − J of the published one in each round."""
        found, published = (
            np.mean([r.latency for r in runs], axis=0) for runs in (self.found, self.published)
        )
        one, other = self.worth(accuracy)
        rest = Prices(0.0, self.memory_price)
        gain: NDArray[np.float64] = (
            one.objective(rest) - other.objective(rest) - self.latency_price * (found - published)
        )
        return gain


class SearchData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured, where, when and by which command."""

    command: str
    machine: str
    date: str
    probes: list[Run]
    ladders: list[Ladders]

    @classmethod
    def load(cls, path: str | Path = DATA) -> SearchData:
        """Read what was measured; raise `InputError` naming the file and the place in it."""
        try:
            found = msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        except msgspec.DecodeError as error:
            raise InputError(f"{path}: {error}", help="measure it again with --full") from None
        found._check(path)
        return found

    def _check(self, path: str | Path) -> None:
        for runs in (self.probes, *((*one.found, *one.published) for one in self.ladders)):
            rounds = {len(run.latency) for run in runs}
            if len(rounds) != 1 or min(min((*r.latency, r.memory)) for r in runs) <= 0:
                raise InputError(
                    f"{path}: networks need as many latencies each, and all above 0",
                    help="measure it again with --full",
                )

    def save(self, path: str | Path) -> None:
        """Write it; raise `InputError` where that is not possible."""
        text = msgspec.json.encode(self).replace(b'{"depth', b'\n{"depth')  # a network a line
        try:
            Path(path).write_bytes(text + b"\n")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from None

    def laws(self) -> Laws:
        """Return the laws: costs as measured here, accuracy as published."""
        sizes = [run.size for run in self.probes]
        latency = CostLaw.fit(sizes, [run.typical for run in self.probes])
        return Laws(
            fit_accuracy(), latency, CostLaw.fit(sizes, [run.memory for run in self.probes])
        )


def ladder(rule: CompoundScaling) -> list[Lite]:
    """Return the networks that come nearest to a rule's φ = 1, 2, 3."""
    return [Lite.nearest(size(rule, phi)) for phi in PHIS]


def run_all(
    networks: Sequence[Lite], *, rounds: int = ROUNDS, progress: Progress | None = None
) -> list[Run]:
    """Measure networks beside φ = 0, in turn."""
    taken = run_ms([_SMALLEST, *networks], rounds=rounds, progress=progress)
    smallest = memory_bytes(_SMALLEST)
    ratios = (taken / taken[:, :1])[:, 1:].round(4).T.tolist()
    return [
        Run(
            n.depth_multiplier,
            n.width_multiplier,
            n.side,
            latency,
            round(memory_bytes(n) / smallest, 4),
        )
        for n, latency in zip(networks, ratios, strict=True)
    ]


def measure(
    command: str, budget: float, *, rounds: int = ROUNDS, progress: Progress | None = None
) -> SearchData:
    """Measure this machine's costs, find the rule for each of `SETTINGS`, and measure its ladder."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    probes = run_all([Lite.nearest(s) for s in _PROBES], rounds=rounds, progress=progress)
    data = SearchData(command, device_name(), today, probes, [])
    laws = data.laws()
    for prices in SETTINGS:
        rule = laws.find(prices, budget)
        runs = run_all([*ladder(rule), *ladder(PUBLISHED)], rounds=rounds, progress=progress)
        data.ladders.append(
            Ladders(
                prices.latency, prices.memory, size(rule, 1), runs[: len(PHIS)], runs[len(PHIS) :]
            )
        )
    return data
