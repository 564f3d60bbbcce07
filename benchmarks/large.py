"""One problem of a million states in a process of its own: `python -m benchmarks.large KIND E M CRITERION`.

Prints the seconds from arrays to a certified solution (the better of two), and the process's peak memory in
GB, numpy, numba and the instance included. What is compiled is loaded beforehand, by a small instance.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from adaphi.policies import Banded, Kronecker, SwitchingMDP

from .problems import ar1, rewards, walk

TOLERANCE = 1e-6


def problem(
    kind: str, states: int, variants: int, discount: float | None
) -> tuple[Banded | Kronecker, np.ndarray, np.ndarray, float | None]:
    """Return a walk of at most 5 bins a step, or three factors that move as an AR(1) each."""
    if kind == "banded":
        return Banded(walk(states), 5), *rewards(np.linspace(-3, 3, states), variants), discount
    size = round(states ** (1 / 3))
    level = np.linspace(-3, 3, size) / np.sqrt(3)
    together = level[:, None, None] + level[:, None] + level
    return Kronecker([ar1(size)] * 3), *rewards(together.ravel(), variants), discount


def measure(kind: str, states: int, variants: int, discount: float | None) -> tuple[float, float]:
    """Return seconds and GB, measured in a fresh process."""
    arguments = [kind, str(states), str(variants), str(discount or "average")]
    command = [sys.executable, "-m", "benchmarks.large", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    took, memory = map(float, printed.split())
    return took, memory


def main(kind: str, states: int, variants: int, discount: float | None) -> None:
    """Solve, and print what it took."""
    SwitchingMDP(*problem(kind, 512, variants, discount)).solve(tol=TOLERANCE)
    arrays = problem(kind, states, variants, discount)
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        solution = SwitchingMDP(*arrays).solve(tol=TOLERANCE)
        taken.append(time.perf_counter() - began)
        assert solution.converged
    print(min(taken), peak_memory())


def peak_memory() -> float:
    """Return the peak of resident memory in GB; `getrusage` would count the parent's before the exec."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


if __name__ == "__main__":
    _, kind, states, variants, criterion = sys.argv
    main(kind, int(states), int(variants), None if criterion == "average" else float(criterion))
