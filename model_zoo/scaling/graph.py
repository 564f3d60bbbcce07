"""Graph networks: depth is message-passing steps, resolution the share of the nodes' raw features.

The network is GCNII (Chen et al. 2020, arXiv:2007.02133): features F are mixed to a width w, T steps each
bring what the neighbours have and mix it, and a last mixing makes C classes. On N nodes with A entries in the
matrix of neighbours (each edge in both directions, and each node itself: A = 2 E + N) one run of the whole
graph takes, in multiply-adds,

    N F w  +  T (A w + N w²)  +  N w C

and, in numbers of 4 bytes, N F of features, F w + T w² + w C + w + C of weights, and at most five arrays N w
at once (a step's input and output, the first mixing's output, what came from the neighbours, and their sum).
The matrix of neighbours has 8 bytes for each row's beginning and 12 for each entry.

So depth costs d, width between w and w², and resolution once, r and not r²: an image has two sides, a list of
features has one, and only the first layer sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .compound import CompoundScaling

GRAPH_RULE = CompoundScaling(2.0, 2**0.5, 2.0)
"""Twice the steps, 1.4 times the width and twice the features from one φ to the next."""
BASE_STEPS, BASE_WIDTH, BASE_SHARE = 2, 16, 0.25
"""The network of φ = 0."""
WIDTH_MULTIPLE = 8
FLOAT_BYTES, INDEX_BYTES = 4, 8
LIVE_ARRAYS = 5  # 4 with a single step, whose input is the first mixing's output


@dataclass(frozen=True, slots=True)
class GraphSize:
    """What a graph has: nodes, edges (each once, no loops), raw features a node, classes.

    Raises `InputError` unless nodes, features and classes are 1 or more, and edges 0 or more.
    """

    nodes: int
    edges: int
    features: int
    classes: int

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("edges", 0), ("features", 1), ("classes", 1)):
            if getattr(self, name) < least:
                raise InputError(
                    f"{name} is {getattr(self, name)}; expected a number of {least} or more"
                )

    @property
    def entries(self) -> int:
        """Return A, the entries of the matrix of neighbours."""
        return 2 * self.edges + self.nodes


@dataclass(frozen=True, slots=True)
class GraphNetwork:
    """A network's size: message-passing steps T, hidden width w, raw features used F."""

    steps: int
    width: int
    features: int

    @classmethod
    def of(cls, rule: CompoundScaling, phi: int, features: int) -> Self:
        """Return what `rule` makes of φ on nodes with so many raw features; there are no more than all."""
        width = BASE_WIDTH * rule.width(phi) / WIDTH_MULTIPLE
        used = min(1.0, BASE_SHARE * rule.resolution(phi)) * features
        return cls(
            steps=max(1, round(BASE_STEPS * rule.depth(phi))),
            width=WIDTH_MULTIPLE * max(1, round(width)),
            features=max(1, round(used)),
        )

    def parts(self, graph: GraphSize) -> dict[str, float]:
        """Return the multiply-adds of one run: first mixing, neighbours, further mixing."""
        w = self.width
        return {
            "first": graph.nodes * self.features * w,
            "neighbours": self.steps * graph.entries * w,
            "mixing": self.steps * graph.nodes * w**2 + graph.nodes * w * graph.classes,
        }

    def operations(self, graph: GraphSize) -> float:
        """Return the multiply-adds of one run on the whole graph."""
        return sum(self.parts(graph).values())

    def weights(self, graph: GraphSize) -> int:
        """Return how many parameters there are."""
        w, c = self.width, graph.classes
        return (self.features + 1) * w + self.steps * w**2 + (w + 1) * c

    def activation_bytes(self, graph: GraphSize) -> int:
        """Return the most that a run needs beside what is kept."""
        live = LIVE_ARRAYS - (self.steps == 1)
        return live * graph.nodes * self.width * FLOAT_BYTES

    def kept_bytes(self, graph: GraphSize) -> int:
        """Return what stays between runs: weights, features, the matrix of neighbours."""
        matrix = (graph.nodes + 1) * INDEX_BYTES + graph.entries * (INDEX_BYTES + FLOAT_BYTES)
        return (self.weights(graph) + graph.nodes * self.features) * FLOAT_BYTES + matrix

    def memory_bytes(self, graph: GraphSize) -> int:
        """Return what the network takes while it runs."""
        return self.kept_bytes(graph) + self.activation_bytes(graph)


def largest(sizes: Sequence[GraphNetwork], fits: Callable[[GraphNetwork], bool]) -> int | None:
    """Return the largest φ (the place in `sizes`) that fits, None if none does."""
    return max((phi for phi, network in enumerate(sizes) if fits(network)), default=None)


Case = tuple[GraphSize, GraphNetwork]


@dataclass(frozen=True, slots=True)
class TimeLaw:
    """What a run takes on one machine: so much for each kind of work, and for each step that is begun.

    `ms` (7,) is milliseconds for a multiply-add of the three parts of `GraphNetwork.parts`, for a feature
    that is read (N F), for a number that a step reads and writes without mixing (N w a step), for a step, and
    for a run.
    """

    ms: NDArray[np.float64]

    @classmethod
    def fit(cls, cases: Sequence[Case], measured_ms: Sequence[float]) -> Self:
        """Return the law with the least squared relative error, no term below 0 (Lawson and Hanson 1974)."""
        from scipy.optimize import nnls

        taken = np.asarray(measured_ms)
        return cls(nnls(_work(cases) / taken[:, None], np.ones(len(taken)))[0])

    def predict_ms(self, cases: Sequence[Case]) -> NDArray[np.float64]:
        """Return what each case takes."""
        predicted: NDArray[np.float64] = _work(cases) @ self.ms
        return predicted


def _work(cases: Sequence[Case]) -> NDArray[np.float64]:
    rows = [
        [
            *net.parts(graph).values(),
            graph.nodes * net.features,
            net.steps * graph.nodes * net.width,
            net.steps,
            1.0,
        ]
        for graph, net in cases
    ]
    return np.asarray(rows, dtype=np.float64)
