"""Variant × precision: what each of six costs, how far int8 agrees with fp32, what the mixed ladder gains.

Cost is the processor time of one picture's forward with one thread, which others on the machine hardly
change; each variant has a process, and they take turns. Agreement and top-1 are counted over the pictures
of `$ADAPHI_IMAGES` (a folder with `labels.csv`: file, imagenet_index); ranges are found on those in
`$ADAPHI_CALIBRATION`, else on installed photographs. The gain: both ladders, as measured here, replay the
same budgets, those of `benchmarks.policy` with medians of three sizes; stalls are 0, and a table learns on
the first half of a trace and is scored on the second.

    python -m benchmarks.mixed
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from adaphi.model_zoo import Latency, Profile, Variant, VariantProfile, get_ladder
from adaphi.model_zoo.allocator import tune_allocator
from adaphi.model_zoo.backends import get_backend, installed_backends
from adaphi.model_zoo.calibration import calibration_pictures
from adaphi.model_zoo.frontier import undominated
from adaphi.model_zoo.images import as_image, example_image
from adaphi.model_zoo.trial import Trial, answer
from adaphi.policies import TablePolicy
from adaphi.sim import Trace, clairvoyant, replay

from .harness import Row, show
from .policy import OBJECTIVE, SCORED_ROWS, trace_folder, traces
from .problems import ROOT

LADDER = get_ladder("efficientnet-lite-mixed", calibration=os.environ.get("ADAPHI_CALIBRATION", ""))
WHOLE = {v.network: v.phi for v in LADDER.variants if v.precision == "fp32"}
MEDIANS = {"tight": 1.0, "even": 1.7, "ample": 2.5}
"""The median budget of a trace, in runs of fp32 lite0."""
PICTURES = int(os.environ.get("ADAPHI_PICTURES", "200"))


def run(quick: bool = False) -> list[Row]:
    """Return cost, agreement and gain in every backend that runs int8; quick: of the smallest network."""
    rows = []
    variants = [v for v in LADDER.variants if not quick or v.network == LADDER.variants[0].network]
    for name in [n for n in installed_backends() if n != "torch"]:
        cost_ms = _forwards(name, variants, 1 if quick else 7)
        for variant in variants:
            whole = WHOLE[variant.network]
            peer = ("", None) if variant.phi == whole else ("the same in fp32", cost_ms[whole])
            rows.append(Row(f"{name}, {variant.name}", cost_ms[variant.phi], "ms", "less", *peer))
        rows += _agreements(name, variants, 4 if quick else PICTURES)
        rows += _gains(name, _profile(name, cost_ms), quick)
    return rows


def _forwards(name: str, variants: Sequence[Variant], rounds: int) -> dict[int, float]:
    """Return the processor time of a forward (ms), the median over rounds, by φ."""
    with ExitStack() as stack:
        trials = {v.phi: stack.enter_context(Trial(__name__, name, str(v.phi))) for v in variants}
        samples: dict[int, list[float]] = {phi: [] for phi in trials}
        for _ in range(rounds):
            for phi, trial in trials.items():
                samples[phi].append(trial.ask(0, 1).output[0])
    return {phi: median(taken) for phi, taken in samples.items()}


def _profile(name: str, cost_ms: Mapping[int, float]) -> Profile:
    """Return the candidates with what they cost."""
    count = len(cost_ms)
    variants = tuple(
        VariantProfile(place, v.name, v.quality, Latency(ms, ms, ms, ms))
        for place, (v, ms) in enumerate((LADDER.variants[phi], ms) for phi, ms in cost_ms.items())
    )
    return Profile(
        ladder=LADDER.name, backend=name, variants=variants, stall_ms=((0.0,) * count,) * count
    )


def _gains(name: str, candidates: Profile, quick: bool) -> Iterator[Row]:
    """Yield the mean score of the mixed ladder beside the plain one's, and of what is left of it."""
    whole = [v for v in candidates.variants if v.name in WHOLE]
    plain = Profile(
        ladder="plain",
        backend=name,
        variants=tuple(
            VariantProfile(phi, v.name, v.quality, v.latency_ms) for phi, v in enumerate(whole)
        ),
        stall_ms=((0.0,) * len(whole),) * len(whole),
    )
    mixed = undominated(candidates)
    yield Row(
        f"{name}, left: {', '.join(v.name for v in mixed.variants)}", len(mixed), "variants", "more"
    )
    unit_ms = plain.typical_ms("mean")[0]
    found = list(traces(trace_folder()))[: 1 if quick else None]
    for tightness, runs in MEDIANS.items():
        scores = [
            [_scores(budget / np.median(budget) * runs * unit_ms, p) for p in (mixed, plain)]
            for _, budget in found
        ]
        means = np.mean(scores, axis=0)
        for policy, ours, theirs in zip(("table", "clairvoyant"), *means, strict=True):
            yield Row(
                f"{name}, {tightness} budgets, {policy}",
                ours,
                "score",
                "more",
                "plain ladder",
                theirs,
            )


def _scores(budget_ms: Any, profile: Profile) -> tuple[float, float]:
    """Return the mean scores of the table and of the clairvoyant on the second half."""
    half = len(budget_ms) // 2
    test = Trace.from_budgets(budget_ms[half:][:SCORED_ROWS])
    table = TablePolicy.solve(profile, [budget_ms[:half]], objective=OBJECTIVE)
    return (
        replay(test, profile, table, objective=OBJECTIVE).mean_score,
        clairvoyant(test, profile, objective=OBJECTIVE).mean_score,
    )


def _agreements(name: str, variants: Sequence[Variant], most: int) -> Iterator[Row]:
    """Yield how often, on `most` pictures, int8 names fp32's first class, and the right one."""
    pictures, truth = _pictures(most)
    backend = get_backend(name)
    said = {}
    for variant in variants:
        runner = backend.build(variant)
        said[variant.phi] = np.array([int(runner(x).argmax()) for x in pictures])
    for variant in variants:
        whole = WHOLE[variant.network]
        if variant.phi == whole:
            continue
        ours, theirs = said[variant.phi], said[whole]
        same = float((ours == theirs).mean())
        yield Row(f"{name}, {variant.name}, first class as in fp32", same, "share", "more")
        if truth is not None:
            right, peer = float((ours == truth).mean()), float((theirs == truth).mean())
            yield Row(f"{name}, {variant.name}, top-1", right, "share", "more", "fp32", peer)


def _pictures(most: int) -> tuple[list[Any], Any]:
    """Return pictures and their classes; without a folder those that ranges are found on, without classes."""
    folder = Path(os.environ.get("ADAPHI_IMAGES", ROOT.parent / "shared" / "data" / "images"))
    if not (folder / "labels.csv").exists():
        return calibration_pictures()[:most], None
    with (folder / "labels.csv").open() as file:
        labelled = list(csv.DictReader(file))[:most]
    truth = np.array([int(row["imagenet_index"]) for row in labelled])
    return [as_image(folder / row["file"]) for row in labelled], truth


def main(name: str, phi: str) -> None:
    """Be the process of one variant in one backend."""
    tune_allocator()
    runner: Any = get_backend(name).build(LADDER.variants[int(phi)])
    x = runner.preprocess(example_image())

    def cpu_ms() -> Any:
        taken = []
        for _ in range(10):
            began = time.process_time()
            runner.forward(x)
            taken.append((time.process_time() - began) * 1e3)
        return np.array([median(taken)])

    answer(lambda _: cpu_ms)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(*sys.argv[1:])
    else:
        show("mixed", run())
