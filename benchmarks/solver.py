"""Solving the switching problem: milliseconds beside QuantEcon and mdpsolver on identical instances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from quantecon.markov import DiscreteDP

from adaphi.policies import SwitchingMDP, kernels

from .harness import Row, seconds

TOLERANCE = 1e-6
MOST_LISTED_STATES = 1000  # mdpsolver takes lists of Python floats: tens of millions beyond this
TARGETS = {32: "≥ 15 ×", 100: "≥ 20 ×", 1000: "≥ 50 ×"}


def instance(
    states: int, variants: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (P, r, C) of budgets that move as an AR(1), with rewards that rise with both."""
    level = np.linspace(-3, 3, states)
    density = np.exp(-0.5 * ((level[None, :] - 0.95 * level[:, None]) / 0.3) ** 2) + 1e-12
    transition = density / density.sum(axis=1, keepdims=True)
    on_time = 1 / (1 + np.exp(-3 * (level[:, None] - np.linspace(-2, 2, variants)[None, :])))
    quality = np.linspace(0.7, 0.8, variants)
    noise = np.random.default_rng(seed).normal(0, 1e-3, on_time.shape)
    reward = quality * on_time - 0.5 * (1 - on_time) + noise
    return transition, reward, 0.05 * (1 - np.eye(variants))


def flat(
    transition: np.ndarray, reward: np.ndarray, cost: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (R (S, A), Q (S, A, S)) with S = E M: the form that a general solver takes."""
    states, variants = reward.shape
    r = (reward[:, None, :] - cost[None]).reshape(states * variants, variants)
    q = np.zeros((states, variants, variants, states, variants))
    for a in range(variants):
        q[:, :, a, :, a] = transition[:, None, :]
    return r, q.reshape(states * variants, variants, states * variants)


def quantecon(
    r: np.ndarray, q: np.ndarray, discount: float
) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """Return QuantEcon's two methods that are exact or nearly so."""
    ddp = DiscreteDP(r, q, discount)
    methods = ("policy_iteration", "modified_policy_iteration")
    return [
        (f"QuantEcon {m}", lambda m=m: ddp.solve(method=m, epsilon=TOLERANCE).sigma)
        for m in methods
    ]


def mdpsolver(
    r: np.ndarray, q: np.ndarray, discount: float
) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """Return mdpsolver's modified policy iteration, if it is installed, begun from nothing each time.

    Left to itself a second `solve` begins where the first one ended, and measures nothing.
    """
    try:
        import mdpsolver as peer
    except ImportError:
        return []
    states, actions, _ = q.shape
    if states > MOST_LISTED_STATES:
        return []
    model = peer.model()
    columns = [[np.flatnonzero(q[s, a]).tolist() for a in range(actions)] for s in range(states)]
    chances = [[q[s, a][q[s, a] != 0].tolist() for a in range(actions)] for s in range(states)]
    model.mdp(discount=discount, rewards=r.tolist(), tranMatProbs=chances, tranMatColumns=columns)
    nothing = {"initPolicy": [0] * states, "initValueVector": [0.0] * states}

    def run() -> np.ndarray:
        model.solve(algorithm="mpi", tolerance=TOLERANCE, parallel=False, **nothing)
        return np.array([model.getAction(s) for s in range(states)])

    return [("mdpsolver mpi", run)]


def row(states: int, variants: int, discount: float, compiled: bool) -> Row:
    """Solve one instance with all; check that the policies are worth the same; return the best peer."""
    transition, reward, cost = instance(states, variants)
    mdp = SwitchingMDP(transition, reward, cost, discount)
    r, q = flat(transition, reward, cost)
    peers = quantecon(r, q, discount) + mdpsolver(r, q, discount)
    value = mdp.evaluate(mdp.solve(tol=TOLERANCE, compiled=compiled).policy)
    for name, run_peer in peers:
        theirs = mdp.evaluate(run_peer().reshape(states, variants))
        assert np.abs(theirs - value).max() < 1e-3 * np.abs(value).max(), name
    ours, *others = seconds(
        lambda: mdp.solve(tol=TOLERANCE, compiled=compiled),
        *(run_peer for _, run_peer in peers),
        repeat=3 if states > 100 else 5,
        number={10: 100, 32: 50, 100: 5}.get(states, 1),  # long turns: caches warm for each alike
    )
    best = min(range(len(peers)), key=others.__getitem__)
    form = "compiled" if compiled else "numpy"
    return Row(
        f"E = {states}, M = {variants}, γ = {discount}, {form}",
        ours * 1e3, "ms", "less", peers[best][0], others[best] * 1e3,
        TARGETS.get(states, "") if compiled else {100: "≥ 3 ×", 1000: "≥ 4 ×"}.get(states, ""),
    )  # fmt: skip


def run(quick: bool = False) -> list[Row]:
    """Return the figures; building the peers' arrays is not counted."""
    sizes = [(10, 3, 0.99)] if quick else [
        (10, 3, 0.99), (32, 3, 0.99), (32, 8, 0.99), (100, 3, 0.99), (100, 8, 0.99), (1000, 3, 0.99),
    ]  # fmt: skip
    forms = [True, False] if kernels.COMPILED else [False]
    return [row(*size, compiled) for size in sizes for compiled in forms]
