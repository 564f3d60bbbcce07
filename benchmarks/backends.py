"""Backends against timm as it comes, each in a process of its own, all in turn.

Stock is timm's model in torch eager with glibc's default malloc; every other process tunes malloc as the
worker does. Timed is the forward of one picture, batch 1, prepared before; a figure is the mean over starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import mean, median
from typing import Any

import numpy as np
import psutil

from adaphi.model_zoo import get_ladder
from adaphi.model_zoo.allocator import tune_allocator
from adaphi.model_zoo.backends import get_backend, installed_backends
from adaphi.model_zoo.images import example_image
from adaphi.model_zoo.trial import Trial, answer, in_turn

from .harness import Row

STOCK, TUNED = "stock", "stock, malloc tuned"
RESIDENT = "resident "
PEER = "timm eager, stock malloc"
TARGETS = {"torch": "≥ 1.8 ×", "onnx": "≥ 3 ×", "openvino": "≥ 3 ×"}
LADDER = get_ladder("efficientnet-lite")


def run(quick: bool) -> list[Row]:
    """Return the forward of every backend and variant, cold loads, and what three variants take."""
    installed = installed_backends()
    rows = []
    for variant in LADDER.variants[: 1 if quick else None]:
        samples, difference = _forwards(
            (STOCK, TUNED, *installed), variant.phi, 1 if quick else 5, 3 if quick else 6
        )
        for name in (TUNED, *installed):
            figures = mean(samples[name]), "ms", "less", PEER, mean(samples[STOCK])
            rows.append(Row(f"{variant.name}, {name}", *figures, TARGETS.get(name, "")))
        worst = max(difference.values())
        rows.append(
            Row(f"{variant.name}, largest difference", worst, "logit", "less", target="≤ 1e-4")
        )
    if not quick:
        rows += [_cold(name, rounds=3) for name in installed]
        rows += [_resident(name) for name in installed]
    return rows


def _forwards(
    names: tuple[str, ...], phi: int, passes: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the median forward of each pass (ms), and the largest difference from stock's answer.

    In every pass the processes are new: whether stock malloc faults on every call or on none depends on
    what was freed before, which differs from start to start.
    """
    samples: dict[str, list[float]] = {name: [] for name in names}
    difference = dict.fromkeys(names, 0.0)
    for _ in range(passes):
        with ExitStack() as stack:
            trials = [stack.enter_context(Trial(__name__, name)) for name in names]
            outputs = [np.array(trial.ask(phi, 1).output) for trial in trials]
            for name, some, output in zip(
                names, in_turn(trials, phi, rounds, 2), outputs, strict=True
            ):
                samples[name].append(median(some))
                difference[name] = max(difference[name], float(np.abs(output - outputs[0]).max()))
    return samples, difference


def _cold(name: str, rounds: int) -> Row:
    """Return what loading a variant and its first run take beyond a run, the slowest variant's."""
    extra: list[list[float]] = [[] for _ in LADDER.variants]
    with Trial(__name__, name) as trial:
        for number in range(-1, rounds):  # the first brings the library in
            for phi in range(len(LADDER)):
                told = trial.ask(phi, 5)
                if number >= 0:
                    extra[phi].append(told.load_ms - median(told.latency_ms))
    target = "≤ 40" if name == "onnx" else ""
    slowest = max(median(some) for some in extra)
    return Row(f"cold load, the slowest, {name}", slowest, "ms", "less", target=target)


def _resident(name: str) -> Row:
    """Return the resident set of a process with three warm variants."""
    with Trial(__name__, RESIDENT + name) as trial:
        megabytes = trial.ask(0, 1).output[0]
    target = "" if name == "torch" else "≤ 250"
    return Row(f"three variants resident, {name}", megabytes, "MB", "less", target=target)


def main(name: str) -> None:
    """Be one backend's process."""
    if name.startswith(RESIDENT):
        tune_allocator()
        answer(partial(_load_all, name.removeprefix(RESIDENT)))
    elif name in (STOCK, TUNED):
        import torch

        torch.set_num_threads(1)
        if name == TUNED:
            tune_allocator()
        answer(_load_stock)
    else:
        tune_allocator()
        backend: Any = get_backend(name)
        backend.prepare()
        answer(partial(_load, backend))


def _load(backend: Any, phi: int) -> Callable[[], Any]:
    runner = backend.build(LADDER.variants[phi])
    return partial(runner.forward, runner.preprocess(example_image()))


def _load_stock(phi: int) -> Callable[[], Any]:
    import torch

    from adaphi.model_zoo.backends.torch_eager import load_timm, timm_preprocess

    model = load_timm(LADDER.variants[phi])
    x = torch.from_numpy(timm_preprocess(model)(example_image()))

    def forward() -> Any:
        with torch.inference_mode():
            return model(x).numpy()

    return forward


def _load_all(name: str, _: int) -> Callable[[], Any]:
    backend = get_backend(name)
    backend.prepare()
    runners = [backend.build(variant) for variant in LADDER.variants]

    def resident_megabytes() -> Any:
        for runner in runners:
            runner(runner.example)
        return np.array([psutil.Process().memory_info().rss / 1e6])

    return resident_megabytes


if __name__ == "__main__":
    main(sys.argv[1])
