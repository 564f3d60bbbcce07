"""GCNII by torch-geometric: built, trained, and answering for nodes. The only module here with torch.

A run computes the whole graph, however many nodes are asked about: it is for graphs whose features move.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidRequest, MissingExtraError
from ..compiler import compiler_put_off

try:
    with compiler_put_off():
        import torch_geometric  # noqa: F401
except ImportError:
    raise MissingExtraError("graph networks", "graph") from None

import torch
from torch import nn
from torch.nn import functional
from torch_geometric.nn import GCN2Conv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_undirected

from .citations import Citations
from .graph import GraphNetwork

# As published for Cora; but that decays the steps by 0.01 and the other weights by 0.0005.
ALPHA, THETA = 0.1, 0.5
RATE, DECAY, DROPOUT = 0.01, 5e-3, 0.6
LOOK_EVERY = 5


class Gcn2(nn.Module):
    """GCNII on one graph, whose features and neighbours are part of it."""

    def __init__(self, graph: Citations, size: GraphNetwork) -> None:
        super().__init__()
        self.features = torch.from_numpy(graph.commonest(size.features))
        self.neighbours = neighbours(graph)
        self.first = nn.Linear(size.features, size.width)
        self.steps = nn.ModuleList(
            GCN2Conv(size.width, ALPHA, THETA, layer=place + 1, normalize=False)
            for place in range(size.steps)
        )
        self.last = nn.Linear(size.width, graph.size.classes)

    def forward(self) -> torch.Tensor:
        """Return the logits of every node (N, C)."""
        x = begun = functional.relu(self.first(self._drop(self.features)))
        for step in self.steps:
            x = functional.relu(step(self._drop(x), begun, self.neighbours))
        return cast(torch.Tensor, self.last(self._drop(x)))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x, DROPOUT, self.training)


def neighbours(graph: Citations) -> torch.Tensor:
    """Return D^-½ (A + I) D^-½ as a sparse matrix (N, N) (Kipf and Welling 2017, arXiv:1609.02907)."""
    nodes = graph.size.nodes
    both, weights = gcn_norm(
        to_undirected(torch.from_numpy(graph.edges), num_nodes=nodes), num_nodes=nodes
    )
    with warnings.catch_warnings():  # torch calls its sparse rows a beta
        warnings.simplefilter("ignore")
        return torch.sparse_coo_tensor(both, weights, (nodes, nodes)).to_sparse_csr()


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained network's weights, and the shares of validation and test nodes that it names right."""

    weights: dict[str, NDArray[Any]]
    validated: float
    accuracy: float


def train(graph: Citations, size: GraphNetwork, seed: int, epochs: int) -> Trained:
    """Train on the graph's own split; the weights are those of the epoch that validates best."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Gcn2(graph, size)
        labels = torch.from_numpy(graph.labels)
        descent = torch.optim.Adam(network.parameters(), lr=RATE, weight_decay=DECAY)
        best, state = -1.0, network.state_dict()
        for epoch in range(1, epochs + 1):
            network.train()
            descent.zero_grad()
            loss = functional.cross_entropy(network()[graph.train], labels[graph.train])
            loss.backward()  # type: ignore[no-untyped-call]
            descent.step()
            if epoch % LOOK_EVERY == 0 or epoch == epochs:
                right = accuracy(network, graph, graph.validation)
                if right > best:
                    best = right
                    state = {name: x.clone() for name, x in network.state_dict().items()}
    network.load_state_dict(state)
    weights = {name: x.numpy() for name, x in state.items()}
    return Trained(weights, best, accuracy(network, graph, graph.test))


def accuracy(network: Gcn2, graph: Citations, nodes: NDArray[np.int64]) -> float:
    """Return the share of `nodes` that are named right."""
    network.eval()
    with torch.inference_mode():
        named = network()[nodes].argmax(1).numpy()
    return float((named == graph.labels[nodes]).mean())


class NodeClassifier:
    """What answers in a ladder: numbers of nodes in (k,) of int64, their logits out (k, C)."""

    example = np.zeros(1, np.int64)

    def __init__(
        self, graph: Citations, size: GraphNetwork, weights: dict[str, NDArray[Any]]
    ) -> None:
        self._nodes = graph.size.nodes
        self._network = Gcn2(graph, size).eval()
        self._network.load_state_dict({n: torch.from_numpy(x) for n, x in weights.items()})

    def __call__(self, nodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits of `nodes`; raise `InvalidRequest` for one that there is not."""
        if not (nodes.min() >= 0 and nodes.max() < self._nodes):
            raise InvalidRequest(f"nodes are 0 to {self._nodes - 1}, got {nodes.tolist()[:5]}")
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._network().numpy()
        return logits[nodes]

    def batch(self, nodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits (j, k, C) of nodes (j, k): one run serves them all."""
        return self(nodes)
