"""Solving the switching problem: milliseconds beside QuantEcon, mdpsolver, pymdptoolbox; a million states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from adaphi.policies import Banded, Solution, SwitchingMDP, kernels

from . import large, peers
from .harness import Row, seconds
from .peers import TOLERANCE
from .problems import ar1, rewards, walk

REACH = 5  # bins that the banded budget moves a step, at most
TARGETS = {
    ("compiled", "discounted"): {32: "≥ 15 ×", 100: "≥ 20 ×", 1000: "≥ 50 ×", 5000: "≥ 8 ×"},
    ("compiled", "average"): {32: "≥ 60 ×", 100: "≥ 60 ×", 1000: "≥ 60 ×"},
    ("numpy", "discounted"): {100: "≥ 3 ×", 1000: "≥ 4 ×"},
    ("numpy", "average"): {},
}
QUICK = [("dense", 10, 3, 0.99), ("dense", 10, 3, None), ("banded", 400, 3, 0.99)]
FULL = [
    ("dense", 10, 3, 0.99), ("dense", 32, 3, 0.99), ("dense", 32, 8, 0.99), ("dense", 100, 3, 0.99),
    ("dense", 100, 8, 0.99), ("dense", 1000, 3, 0.99), ("banded", 5000, 3, 0.99), ("banded", 5000, 8, 0.99),
    ("dense", 32, 3, None), ("dense", 100, 3, None), ("dense", 1000, 3, None),
]  # fmt: skip
LARGE = [
    ("banded", 333_333, 3, 0.99), ("banded", 333_333, 3, None), ("banded", 125_000, 8, 0.99),
    ("banded", 125_000, 8, None), ("kronecker", 50**3, 8, 0.99), ("kronecker", 50**3, 8, None),
]  # fmt: skip


def name(kind: str, states: int, variants: int, discount: float | None) -> str:
    """Return how a problem is called in the table."""
    structure = "" if kind == "dense" else f"{kind}, "
    criterion = "average" if discount is None else f"γ = {discount}"
    return f"{structure}E = {states}, M = {variants}, {criterion}"


def instance(
    kind: str, states: int, variants: int, discount: float | None
) -> tuple[SwitchingMDP, peers.Flat]:
    """Return the problem in our form and in the general one."""
    reward, cost = rewards(np.linspace(-3, 3, states), variants)
    if kind == "dense":
        chain, array = ar1(states), ar1(states)
    else:
        chain = Banded(walk(states, REACH), REACH)
        e, j = np.nonzero(chain.moves)
        array = scipy.sparse.csr_matrix((chain.moves[e, j], (e, e + chain.offsets[j])))
    return SwitchingMDP(chain, reward, cost, discount), peers.flat(array, reward, cost)


def same(solution: Solution, theirs: np.ndarray, problem: peers.Flat) -> bool:
    """Say whether a peer found the same value, or the same gain on average."""
    if solution.gain is None:
        scale = max(1.0, float(np.abs(solution.value).max()))
        return float(np.abs(solution.value.ravel() - theirs).max()) < 10 * TOLERANCE * scale
    low, high = problem.gain_bounds(theirs)
    return low - TOLERANCE <= solution.gain <= high + TOLERANCE and high - low < 10 * TOLERANCE


def rows(kind: str, states: int, variants: int, discount: float | None) -> Iterator[Row]:
    """Solve one instance with all in turns; check that all found the same; compare with the best peer."""
    mdp, problem = instance(kind, states, variants, discount)
    dense = kind == "dense"
    others = peers.mdpsolver(problem, discount)
    if discount is None:
        others += peers.mdptoolbox(problem, True) + peers.mdptoolbox(problem, False)
    else:
        others += peers.quantecon(problem, discount, dense)
    forms = [True, False] if kernels.COMPILED else [False]
    for compiled in forms:
        solution = mdp.solve(tol=TOLERANCE, compiled=compiled)
        assert solution.converged
    for peer, solve in others:
        assert same(solution, solve(), problem), peer
    taken = seconds(
        *(lambda c=c: mdp.solve(tol=TOLERANCE, compiled=c) for c in forms),
        *(solve for _, solve in others),
        repeat=3 if states > 100 else 5,
        number={10: 100, 32: 50, 100: 5}.get(states, 1),  # long turns: caches warm for each alike
    )
    milliseconds = [1e3 * each for each in taken]
    ranked = zip(milliseconds[len(forms) :], [peer for peer, _ in others], strict=True)
    theirs, best = min(ranked, default=(None, ""))
    for compiled, ours in zip(forms, milliseconds, strict=False):
        form = "compiled" if compiled else "numpy"
        target = TARGETS[form, "discounted" if discount else "average"].get(states, "")
        label = f"{name(kind, states, variants, discount)}, {form}"
        yield Row(label, ours, "ms", "less", best, theirs, target)


def large_rows(kind: str, states: int, variants: int, discount: float | None) -> Iterator[Row]:
    """Solve a million states in a process of its own: seconds and peak memory."""
    took, memory = large.measure(kind, states, variants, discount)
    label = name(kind, states, variants, discount)
    yield Row(label, took, "s", "less", target="≤ 2 s")
    yield Row(f"{label}: peak", memory, "GB", "less", target="≤ 0.5 GB")


def run(quick: bool = False) -> list[Row]:
    """Return the figures; building the peers' arrays is not counted."""
    figures = [row for size in (QUICK if quick else FULL) for row in rows(*size)]
    if not quick and kernels.COMPILED:
        figures += [row for size in LARGE for row in large_rows(*size)]
    return figures
