r"""Exogenous chains with structure: moves of a few states at most, or several factors that move alone.

A world of E states has E² probabilities; a million states are solved only if P is never written down.

* `Banded`: from state e the chain reaches e − lower … e + upper only. P x costs E (lower + upper + 1), and
  v = b + γ P v is solved by eliminating one state after the other, which keeps the band.
* `Kronecker`: P = P₁ ⊗ P₂ ⊗ …, states of independent factors, the last one running fastest. P x is one
  product with a small matrix for each factor, the factors taking turns to be the last axis (Fernandes,
  Plateau & Stewart, J. ACM 45, 1998). The product of chains with one closed class each has one itself
  exactly if their periods share no divisor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations
from math import gcd, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import banded
from .anderson import rest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

ROW_SUM_TOLERANCE = 1e-8
_LEVEL_MEMORY = 20  # differences that the acceleration of v combines: E numbers each, not E M
_LEVEL_ITERATIONS = 2000


class Exogenous(ABC):
    """A chain P on `states` states that is not written down as an array; P @ x works for x (E, …)."""

    states: int

    def __len__(self) -> int:
        return self.states

    @abstractmethod
    def __matmul__(self, x: Floats) -> Floats:
        """Return P x for x (E,) or (E, K)."""

    @abstractmethod
    def dense(self) -> Floats:
        """Return P as an array (E, E)."""

    @abstractmethod
    def check_single_class(self) -> None:
        """Raise ValueError if the chain has two closed classes."""

    @abstractmethod
    def level(self, gamma: float, base: Floats, tol: float, compiled: bool) -> tuple[Floats, float]:
        """Return v and g with v = base − g + γ P v: g = 0 if γ < 1, the gain if γ = 1.

        Where that takes iterations, until v moves by at most `tol`.
        """


class Banded(Exogenous):
    """A chain whose `moves` (E, lower + 1 + upper) hold in column j the probability of e → e + j − lower.

    Moves beyond the first or the last state have probability 0. Raises ValueError naming the row.
    """

    def __init__(self, moves: ArrayLike, lower: int) -> None:
        values = finite("moves", moves)
        if values.ndim != 2 or not len(values) or not 0 <= lower < values.shape[1]:
            raise ValueError(
                f"moves has shape {values.shape} and lower is {lower}; "
                "expected (E, lower + 1 + upper) with E ≥ 1"
            )
        check_rows("moves", values)
        self.states = len(values)
        self.lower, self.upper = lower, values.shape[1] - 1 - lower
        self.offsets = np.arange(-lower, self.upper + 1)
        target = np.arange(self.states)[:, None] + self.offsets
        outside = (values > 0) & ((target < 0) | (target >= self.states))
        if outside.any():
            e, j = np.argwhere(outside)[0]
            raise ValueError(
                f"moves row {e} leads to state {target[e, j]}; states are 0 … {self.states - 1}"
            )
        self.moves = values / values.sum(axis=1, keepdims=True)

    def __repr__(self) -> str:
        return f"<Banded(states={self.states}, lower={self.lower}, upper={self.upper})>"

    def __matmul__(self, x: Floats) -> Floats:
        """Return P x, one diagonal after the other."""
        result = np.zeros_like(x)
        for j, offset in enumerate(self.offsets.tolist()):
            here = slice(max(0, -offset), max(0, min(self.states, self.states - offset)))
            there = slice(here.start + offset, here.stop + offset)
            if here.start < here.stop:
                result[here] += (self.moves[here, j] * x[there].T).T
        return result

    def around(self, e: int | Ints) -> Ints:
        """Return the states that the columns of `moves` lead to from `e`; past the ends, the last one."""
        target = np.asarray(e)[..., None] + self.offsets
        return np.asarray(target.clip(0, self.states - 1))

    def dense(self) -> Floats:
        """Return P as an array (E, E)."""
        return self @ np.eye(self.states)

    def check_single_class(self) -> None:
        """Raise ValueError if the chain has two closed classes."""
        tops, _ = self._classes
        if len(tops) > 1:
            raise ValueError(two_classes(str(tops[0]), str(tops[1])))

    @cached_property
    def _classes(self) -> tuple[Ints, Flags]:
        """Highest state of each closed class, and which states are in one."""
        tops, inside = banded.closed_classes(self.moves > 0, self.lower)
        return tops, inside

    @cached_property
    def home(self) -> int:
        """A state that is visited often, as far as a diffusion tells.

        With mean μ and mean square σ² of the move, a diffusion's long-run density is proportional to
        exp(∫ 2 μ/σ²) / σ² (Karlin & Taylor, *A Second Course in Stochastic Processes*, 1981, §15.5).
        """
        _, recurrent = self._classes
        mean = self.moves @ self.offsets
        square = np.maximum(self.moves @ self.offsets**2, np.finfo(np.float64).tiny)
        density = np.cumsum(2 * mean / square) - np.log(square)
        return int(np.where(recurrent, density, -np.inf).argmax())

    def level(self, gamma: float, base: Floats, tol: float, compiled: bool) -> tuple[Floats, float]:
        """Return v and g by elimination.

        On average, by cycles: g is what one earns from `home` until back there, over the steps it takes.
        """
        solve = banded.absorb if compiled else _absorb_by_blocks
        leaving = np.full(self.states, 1 - gamma)
        if gamma < 1:
            return solve(gamma * self.moves, self.lower, leaving, base[:, None].copy())[:, 0], 0.0
        moves, home = self.moves.copy(), self.home
        moves[home], leaving[home] = 0.0, 1.0
        earned = np.stack([base, np.ones_like(base)], axis=1)
        earned[home] = 0.0
        paid, steps = solve(moves, self.lower, leaving, earned).T
        around = self.around(home)
        ahead = self.moves[home]
        gain = float((base[home] + ahead @ paid[around]) / (1 + ahead @ steps[around]))
        return paid - gain * steps, gain


def _absorb_by_blocks(moves: Floats, lower: int, leaving: Floats, right: Floats) -> Floats:
    """Return what `banded.absorb` does, in numpy; what is `leaving` shows in the rows of `moves`."""
    row, j = np.nonzero(moves)
    return banded.by_blocks(row, row + j - lower, moves[row, j], right)


class Kronecker(Exogenous):
    """The chain P₁ ⊗ P₂ ⊗ … of independent `factors`, arrays (n, n); state (i, j, k) is (i n₂ + j) n₃ + k.

    Raises ValueError naming the factor and the row.
    """

    def __init__(self, factors: Sequence[ArrayLike]) -> None:
        if not factors:
            raise ValueError("a Kronecker chain needs a factor")
        checked = []
        for number, factor in enumerate(factors):
            values = finite(f"factor {number}", factor)
            check_chain(f"factor {number}", values)
            checked.append(values / values.sum(axis=1, keepdims=True))
        self.factors = tuple(checked)
        self.states = prod(len(factor) for factor in self.factors)

    def __repr__(self) -> str:
        return f"<Kronecker(states={' × '.join(str(len(factor)) for factor in self.factors)})>"

    def __matmul__(self, x: Floats) -> Floats:
        """Return P x; quickest for x whose transpose lies contiguous in memory."""
        turned = x.T
        for factor in reversed(self.factors):
            turned = factor @ turned.reshape(-1, len(factor)).T
        return turned.reshape(x.shape)

    def dense(self) -> Floats:
        """Return P as an array (E, E)."""
        result = np.ones((1, 1))
        for factor in self.factors:
            result = np.kron(result, factor)
        return result

    def check_single_class(self) -> None:
        """Raise ValueError if a factor has two closed classes, or two factors keep in step."""
        periods = []
        for number, factor in enumerate(self.factors):
            check_single_class(f"factor {number}", factor)
            periods.append(_period(factor))
        for one, two in combinations(range(len(periods)), 2):
            if gcd(periods[one], periods[two]) > 1:
                raise ValueError(
                    f"factors {one} and {two} keep in step, with the periods {periods[one]} and "
                    f"{periods[two]}, so that transition has two closed classes: {REMEDY}"
                )

    def level(self, gamma: float, base: Floats, tol: float, compiled: bool) -> tuple[Floats, float]:
        """Return v and g: v but for its first entry contracts by mixing, as d does by switching."""

        def image_of(v: Floats) -> Floats:
            image = base + gamma * (self @ v)
            return np.asarray(image - image[0])

        v, _ = rest(image_of, np.zeros_like(base), tol, _LEVEL_ITERATIONS, _LEVEL_MEMORY)
        first = float(base[0] + gamma * (self @ v)[0])
        return (v, first) if gamma == 1 else (v + first / (1 - gamma), 0.0)


REMEDY = "the long-run average depends on the start; use a discount, or a chain that connects"


def two_classes(one: str, other: str, name: str = "transition") -> str:
    """Return what is wrong with a chain whose long-run average depends on the start."""
    return f"{name} has two closed classes, states {one} and {other}: {REMEDY}"


def finite(name: str, array: ArrayLike) -> Floats:
    """Return a copy as floats; raise ValueError naming the first entry that is not finite."""
    values = np.array(array, dtype=np.float64)
    if not np.isfinite(values).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{name}{list(place)} is {values[place]}; expected finite numbers")
    return values


def check_rows(name: str, rows: Floats) -> None:
    """Raise ValueError naming the first row that is not one of probabilities."""
    if (rows < 0).any():
        e, f = np.argwhere(rows < 0)[0]
        raise ValueError(f"{name}[{e}, {f}] is {rows[e, f]}; probabilities are ≥ 0")
    sums = rows.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > ROW_SUM_TOLERANCE)
    if len(wrong):
        raise ValueError(f"{name} row {wrong[0]} sums to {float(sums[wrong[0]])!r}; expected 1")


def check_chain(name: str, transition: Floats) -> None:
    """Raise ValueError if an array is not a chain (E, E)."""
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1] or not len(transition):
        raise ValueError(f"{name} has shape {transition.shape}; expected (E, E) with E ≥ 1")
    check_rows(name, transition)


def check_single_class(name: str, transition: Floats) -> None:
    """Raise ValueError if the chain has two closed classes: the average would depend on the start."""
    edges = transition > 0
    first = _closed_class(edges, 0)
    outside = ~_reach(edges.T, first)  # states from which the first class is never reached
    if outside.any():
        second = _closed_class(edges, int(np.flatnonzero(outside)[0]))
        raise ValueError(two_classes(_some(first), _some(second), name))


def _period(transition: Floats) -> int:
    """Return the period of a chain's closed class: the divisor that all its cycles share."""
    edges = transition > 0
    members = _closed_class(edges, 0)
    edges = edges[members][:, members]
    distance = np.full(len(edges), -1)
    front = np.arange(len(edges)) == 0
    for steps in range(len(edges)):
        distance[front] = steps
        front = edges[front].any(axis=0) & (distance < 0)
    start, end = np.nonzero(edges)
    return int(np.gcd.reduce(distance[start] + 1 - distance[end]))


def _closed_class(edges: NDArray[np.bool_], start: int) -> NDArray[np.bool_]:
    """Return the members of a closed class that `start` leads to."""
    here = np.zeros(len(edges), dtype=bool)
    here[start] = True
    while True:
        reached = _reach(edges, here)
        coming = _reach(edges.T, here)
        away = reached & ~coming  # reached, but with no way back: move on to there
        if not away.any():
            return reached
        here = np.zeros(len(edges), dtype=bool)
        here[np.flatnonzero(away)[0]] = True


def _reach(edges: NDArray[np.bool_], start: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the states that `start` leads to, itself included."""
    reached = start.copy()
    front = reached
    while front.any():
        front = edges[front].any(axis=0) & ~reached
        reached |= front
    return reached


def _some(members: Iterable[bool]) -> str:
    listed = [str(i) for i, inside in enumerate(members) if inside]
    return ", ".join(listed[:5]) + (" …" if len(listed) > 5 else "")
