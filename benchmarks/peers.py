"""Peers that solve general problems: each takes (state, action) rows, and begins from nothing each time.

A problem of E states and M variants has S = E M states there, and Q (S M, S) repeats each row of P for every
(m, a). Building Q and what a peer makes of it is never timed. A peer that is not installed is left out;
of those with an average criterion, pymdptoolbox 4.0b3 needs `pip install --no-deps pymdptoolbox`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from quantecon.markov import DiscreteDP

TOLERANCE = 1e-6
MOST_LISTED = 1_000_000  # mdpsolver takes lists of Python floats: minutes beyond this


@dataclass(frozen=True)
class Flat:
    """The ordinary form: rewards `r` (S, A) and transitions `q` (S A, S), a sparse matrix."""

    r: np.ndarray
    q: scipy.sparse.csr_matrix

    def gain_bounds(self, value: np.ndarray) -> tuple[float, float]:
        """Return the bounds of the gain that a value tells: min and max of T V − V (Odoni 1969)."""
        delta = (self.r + (self.q @ value).reshape(self.r.shape)).max(axis=1) - value
        return float(delta.min()), float(delta.max())


Peer = tuple[str, Callable[[], np.ndarray]]
"""A name, and what solves and returns a value (S,); on average, one that is right but for its level."""


def flat(
    transition: np.ndarray | scipy.sparse.csr_matrix, reward: np.ndarray, cost: np.ndarray
) -> Flat:
    """Return the ordinary form of r(e, a) − C(m, a) with the chain's rows repeated."""
    states, variants = reward.shape
    rows = scipy.sparse.coo_matrix(transition)
    e, m, a = np.ogrid[: rows.nnz, :variants, :variants]
    row = ((rows.row[e] * variants + m) * variants + a).ravel()
    column = np.broadcast_to(rows.col[e] * variants + a, (rows.nnz, variants, variants)).ravel()
    weight = np.broadcast_to(rows.data[e], (rows.nnz, variants, variants)).ravel()
    size = states * variants
    q = scipy.sparse.csr_matrix((weight, (row, column)), shape=(size * variants, size))
    return Flat((reward[:, None, :] - cost[None]).reshape(size, variants), q)


def quantecon(problem: Flat, discount: float, dense: bool) -> list[Peer]:
    """Return QuantEcon's two methods that are exact or nearly so, on arrays or on sparse rows."""
    states, actions = problem.r.shape
    if dense:
        ddp = DiscreteDP(problem.r, problem.q.toarray().reshape(states, actions, states), discount)
    else:
        state, action = np.divmod(np.arange(states * actions), actions)
        ddp = DiscreteDP(problem.r.ravel(), problem.q, discount, state, action)
    methods = ("policy_iteration", "modified_policy_iteration")
    return [
        (f"QuantEcon {m}", lambda m=m: ddp.solve(method=m, epsilon=TOLERANCE).v) for m in methods
    ]


def mdpsolver(problem: Flat, discount: float | None) -> list[Peer]:
    """Return mdpsolver's modified policy iteration, discounted or on average.

    Left to itself a second `solve` begins where the first one ended, and measures nothing.
    """
    try:
        import mdpsolver as peer
    except ImportError:
        return []
    states, actions = problem.r.shape
    if problem.q.nnz > MOST_LISTED:
        return []
    model = peer.model()
    columns, chances = (
        [row.tolist() for row in np.split(part, problem.q.indptr[1:-1])]
        for part in (problem.q.indices, problem.q.data)
    )
    model.mdp(
        discount=discount or 0.5,  # of no effect on the average, but asked for
        rewards=problem.r.tolist(),
        tranMatProbs=[chances[s * actions : (s + 1) * actions] for s in range(states)],
        tranMatColumns=[columns[s * actions : (s + 1) * actions] for s in range(states)],
    )
    nothing = {"initPolicy": [0] * states, "initValueVector": [0.0] * states}
    criterion = "average" if discount is None else "discounted"

    def run() -> np.ndarray:
        model.solve(
            algorithm="mpi", tolerance=TOLERANCE, parallel=False, criterion=criterion, **nothing
        )
        return np.array(model.getValueVector())

    return [("mdpsolver mpi", run)]


def mdptoolbox(problem: Flat, dense: bool) -> list[Peer]:
    """Return pymdptoolbox's relative value iteration, on arrays or on sparse matrices."""
    try:
        from mdptoolbox.mdp import RelativeValueIteration
    except ImportError:
        return []
    states, actions = problem.r.shape
    by_action = [problem.q[a::actions] for a in range(actions)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its check of sparse matrices is slow, and says so
        model = RelativeValueIteration(
            np.stack([q.toarray() for q in by_action]) if dense else by_action,
            problem.r,
            epsilon=TOLERANCE,
            max_iter=100_000,
        )

    def run() -> np.ndarray:
        model.V, model.gain, model.iter = np.zeros(states), 0, 0
        model.run()
        return np.array(model.V)

    return [(f"pymdptoolbox relative vi, {'arrays' if dense else 'sparse'}", run)]
