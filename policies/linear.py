"""Small and dense linear systems, compiled: elimination with pivoting, and GMRES (Saad & Schultz 1986)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .jit import MATH, njit

Floats = NDArray[np.float64]


@njit(cache=True, nogil=True, fastmath=MATH)
def eliminate(system: Floats, right: Floats) -> bool:
    """Solve a small system in place (right ← solution), with pivoting; return False if it is singular."""
    size = len(right)
    for k in range(size):
        pivot = k
        for i in range(k + 1, size):
            if abs(system[i, k]) > abs(system[pivot, k]):
                pivot = i
        if abs(system[pivot, k]) < 1e-12:
            return False
        if pivot != k:
            for j in range(k, size):
                system[k, j], system[pivot, j] = system[pivot, j], system[k, j]
            right[k], right[pivot] = right[pivot], right[k]
        inverse = 1.0 / system[k, k]
        for i in range(k + 1, size):
            factor = system[i, k] * inverse
            if factor != 0.0:
                for j in range(k + 1, size):
                    system[i, j] -= factor * system[k, j]
                right[i] -= factor * right[k]
    for k in range(size - 1, -1, -1):
        total = right[k]
        for j in range(k + 1, size):
            total -= system[k, j] * right[j]
        right[k] = total / system[k, k]
    return True


@njit(cache=True, nogil=True, fastmath=MATH)
def gmres(transition: Floats, gamma: float, average: bool, right: Floats, tol: float) -> Floats:
    """Solve (I − γ P) v = right, or for the average with v(0)'s column left to the gain."""
    states, most = len(right), 80
    x = np.zeros(states)
    out = np.empty(states)
    for _ in range(20):
        r = right - _apply(transition, gamma, average, x, out)
        norm = np.sqrt((r * r).sum())
        if norm <= tol:
            return x
        basis = np.empty((most + 1, states))
        h = np.zeros((most + 1, most))
        cosine, sine, g = np.zeros(most), np.zeros(most), np.zeros(most + 1)
        basis[0], g[0] = r / norm, norm
        used = 0
        for k in range(most):
            w = _apply(transition, gamma, average, basis[k], out).copy()
            for i in range(k + 1):
                h[i, k] = (w * basis[i]).sum()
                w -= h[i, k] * basis[i]
            h[k + 1, k] = np.sqrt((w * w).sum())
            if h[k + 1, k] > 0:
                basis[k + 1] = w / h[k + 1, k]
            for i in range(k):
                a, b = h[i, k], h[i + 1, k]
                h[i, k], h[i + 1, k] = cosine[i] * a + sine[i] * b, cosine[i] * b - sine[i] * a
            length = np.sqrt(h[k, k] ** 2 + h[k + 1, k] ** 2)
            cosine[k], sine[k] = h[k, k] / length, h[k + 1, k] / length
            h[k, k] = length
            g[k], g[k + 1] = cosine[k] * g[k], -sine[k] * g[k]
            used = k + 1
            if abs(g[k + 1]) <= 0.5 * tol:
                break
        y = np.zeros(used)
        for k in range(used - 1, -1, -1):
            total = g[k]
            for j in range(k + 1, used):
                total -= h[k, j] * y[j]
            y[k] = total / h[k, k]
        for k in range(used):
            x += y[k] * basis[k]
    return x


@njit(cache=True, nogil=True, fastmath=MATH)
def _apply(transition: Floats, gamma: float, average: bool, x: Floats, out: Floats) -> Floats:
    states = len(x)
    for e in range(states):
        total = 0.0
        row = transition[e]
        for f in range(states):
            total += row[f] * x[f]
        out[e] = x[e] - gamma * total
        if average:  # column 0 of I − P is replaced by ones
            out[e] += row[0] * x[0] + x[0] - (x[0] if e == 0 else 0.0)
    return out
