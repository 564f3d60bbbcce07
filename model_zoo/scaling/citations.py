"""A graph of documents in a file, as planetoid's are: Yang et al. 2016, arXiv:1603.08861."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .graph import GraphSize

Ints = NDArray[np.int64]
ARRAYS = (
    "feat_data",
    "feat_indices",
    "feat_indptr",
    "feat_shape",
    "labels",
    "edges",
    "train_idx",
    "val_idx",
    "test_idx",
)


@dataclass(frozen=True, slots=True, eq=False)
class Citations:
    """Nodes with features (N, F), labels (N,), edges (2, E) each once, and which nodes serve for what.

    `counts` (F,) says how many nodes have each feature.
    """

    features: NDArray[np.float32]
    labels: Ints
    edges: Ints
    train: Ints
    validation: Ints
    test: Ints
    counts: Ints

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read an NPZ with features as CSR; raise `InputError` where it is none.

        Its arrays are `feat_data`, `feat_indices`, `feat_indptr`, `feat_shape`, `labels`, `edges`,
        `train_idx`, `val_idx` and `test_idx`.
        """
        from scipy.sparse import csr_matrix

        try:
            with np.load(path, allow_pickle=False) as file:
                data, indices, indptr, shape, labels, edges, *splits = (file[n] for n in ARRAYS)
            sparse = csr_matrix((data, indices, indptr), shape=tuple(shape))
            sparse.check_format()
        except (OSError, ValueError, KeyError, TypeError) as error:
            packed = not Path(path).exists() or is_zipfile(path)  # numpy takes the rest for pickles
            raise InputError(
                f"{path} is no graph that can be read: {error if packed else 'not an NPZ file'}",
                help=f"an NPZ file with the arrays {', '.join(ARRAYS)}",
            ) from None
        _check(path, sparse.shape[0], labels, edges, splits)
        dense = sparse.toarray().astype(np.float32)
        train, validation, test = (split.astype(np.int64) for split in splits)
        return cls(
            dense,
            labels.astype(np.int64),
            edges.astype(np.int64),
            train,
            validation,
            test,
            np.count_nonzero(dense, axis=0),
        )

    @property
    def size(self) -> GraphSize:
        """Return nodes, edges, features and classes."""
        nodes, features = self.features.shape
        return GraphSize(nodes, self.edges.shape[1], features, int(self.labels.max()) + 1)

    def commonest(self, count: int) -> NDArray[np.float32]:
        """Return the `count` features that most nodes have, (N, count); no label is looked at."""
        best = np.sort(np.argsort(-self.counts, kind="stable")[:count])
        return np.ascontiguousarray(self.features[:, best])

    def part(self, share: float, seed: int = 0) -> Self:
        """Return a graph of so many of the nodes, drawn at random, with the edges between them; no split."""
        nodes = len(self.labels)
        drawn = np.random.default_rng(seed).permutation(nodes)[: max(1, round(share * nodes))]
        place = np.full(nodes, -1)
        place[drawn] = np.arange(len(drawn))
        edges = place[self.edges]
        none = np.empty(0, np.int64)
        return replace(
            self,
            features=self.features[drawn],
            labels=self.labels[drawn],
            edges=edges[:, (edges >= 0).all(axis=0)],
            train=none,
            validation=none,
            test=none,
        )


def _check(
    path: str | Path,
    nodes: int,
    labels: NDArray[np.int_],
    edges: NDArray[np.int_],
    splits: list[Ints],
) -> None:
    """Raise `InputError` where arrays do not fit together."""
    if labels.shape != (nodes,) or edges.ndim != 2 or edges.shape[0] != 2:
        raise InputError(
            f"{path}: {nodes} nodes need labels ({nodes},) and edges (2, E), "
            f"got {labels.shape} and {edges.shape}"
        )
    for name, numbers in zip(ARRAYS[5:], (edges, *splits), strict=True):
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < nodes):
            raise InputError(f"{path}: {name} names nodes beyond 0 to {nodes - 1}")
    if not (nodes and labels.min() >= 0 and all(len(split) for split in splits)):
        raise InputError(f"{path}: labels count from 0, and no part of the split is empty")
