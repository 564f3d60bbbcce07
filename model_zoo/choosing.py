"""The backend `auto`: every installed backend runs the ladder, and the fastest that answers right is taken.

Right is what torch answers in fp32: another backend's output for the example picture may differ by
`TOLERANCE`. torch runs no int8 variant, so of a ladder that has some it only says what is right. Fastest is
the smallest geometric mean over the variants, so that each counts alike.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import geometric_mean, median

import msgspec
import numpy as np

from ..errors import AdaphiError, LadderError
from .backends import Array, get_backend, installed_backends
from .profile import Profile
from .trial import Trial, answer, in_turn
from .variants import Ladder

log = logging.getLogger("adaphi")

AUTO = "auto"
TOLERANCE = 1e-4  # of the largest logit, or absolute where that is below 1
ROUNDS, RUNS = 5, 3
Progress = Callable[[int, int, str], None]


class Measured(msgspec.Struct, frozen=True):
    """What one backend did: median latencies (ms) of the variants, the largest difference from torch.

    `refused` says why it is out of the question, "" if it is not.
    """

    backend: str
    latency_ms: tuple[float, ...] = ()
    difference: float = 0.0
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return f"{self.backend}: {self.refused}"
        return f"{self.backend} {' / '.join(f'{ms:.1f}' for ms in self.latency_ms)} ms"


class Orders(msgspec.Struct):
    """What a child is told on its command line, as JSON."""

    backend: str
    ladder: Ladder
    threads: int


def settle_backend(
    wanted: str | None,
    ladder: Ladder,
    profile: Profile | None,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[str, tuple[Measured, ...]]:
    """Return the name of the backend to use, and what was measured for that.

    None and `auto` mean the one that the profile was measured with. Without a profile None is torch, and
    `auto` the best of what is installed. A ladder of the user's own code is its own backend.
    """
    if ladder.variants[0].weights == "own":
        return "own", ()
    if wanted is not None and wanted != AUTO:
        if profile is not None and profile.backend != wanted:
            log.warning("the profile was measured with %s: %s runs", profile.backend, wanted)
        return wanted, ()
    if profile is not None:
        return profile.backend, ()
    names = installed_backends()
    if wanted is None or names == ("torch",):
        return "torch", ()
    measured = compare(ladder, names, threads=threads, progress=progress)
    return best(measured), measured


def best(measured: Sequence[Measured]) -> str:
    """Return the backend with the smallest geometric mean; raise `LadderError` if every one is refused."""
    admitted = [m for m in measured if not m.refused]
    if not admitted:
        raise LadderError(f"no backend runs this ladder: {'; '.join(map(str, measured))}")
    return min(admitted, key=lambda m: geometric_mean(m.latency_ms)).backend


def compare(
    ladder: Ladder,
    backends: Sequence[str],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[Measured, ...]:
    """Measure every backend on every variant, in processes of their own that take turns; torch is one."""
    tell = progress or (lambda done, total, what: None)
    refused: dict[str, str] = {}
    outputs: dict[str, list[Array]] = {name: [] for name in backends}
    samples: dict[str, list[float]] = {name: [] for name in backends}
    with ExitStack() as stack:
        trials = {
            name: stack.enter_context(Trial(__name__, _orders(name, ladder, threads)))
            for name in backends
        }
        for variant in ladder.variants:
            tell(variant.phi, len(ladder), f"{' against '.join(trials)}, {variant.name}")
            exact = variant.precision == "fp32"
            able = {name: trial for name, trial in trials.items() if exact or name != "torch"}
            for name in list(able):
                try:
                    told = able[name].ask(variant.phi, 1)
                except LadderError as error:
                    refused[name] = error.message
                    del trials[name], able[name]
                    continue
                if exact:
                    outputs[name].append(np.array(told.output))
            for name, taken in zip(
                able, in_turn(list(able.values()), variant.phi, ROUNDS, RUNS), strict=True
            ):
                samples[name].append(median(taken))
    if any(variant.precision != "fp32" for variant in ladder.variants):
        refused.setdefault("torch", "it runs no int8 variant")
    return tuple(
        _judged(name, samples[name], outputs[name], outputs["torch"], refused.get(name, ""))
        for name in backends
    )


def _judged(
    name: str, latency_ms: list[float], outputs: list[Array], expected: list[Array], refused: str
) -> Measured:
    if refused:
        return Measured(name, refused=refused)
    differences = [float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True)]
    allowed = [TOLERANCE * max(1.0, float(np.abs(b).max())) for b in expected]
    if any(d > a for d, a in zip(differences, allowed, strict=True)):
        refused = f"its answers differ from torch's by {max(differences):.2g}"
    return Measured(name, tuple(latency_ms), max(differences), refused)


def _orders(backend: str, ladder: Ladder, threads: int) -> str:
    return msgspec.json.encode(Orders(backend, ladder, threads)).decode()


def main(orders_json: str) -> None:
    """Be one backend's process."""
    from .allocator import tune_allocator

    tune_allocator()
    orders = msgspec.json.decode(orders_json, type=Orders)

    def load(phi: int) -> Callable[[], Array]:
        runner = backend.build(orders.ladder.variants[phi])
        return partial(runner, runner.example)

    try:
        backend = get_backend(orders.backend, threads=orders.threads)
        answer(load)
    except AdaphiError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
