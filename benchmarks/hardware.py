"""How well a machine's roofline, measured on synthetic layers, tells the latency of whole networks.

    python -m benchmarks hardware -o docs/scaling/hardware.json

Stock eager torch, batch 1, with `tune_allocator` as in the worker. Networks take turns; the lowest counts:
of one thread its processor time, of two the wall clock, for which the machine has to be left alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from adaphi.model_zoo.profiling import device_name
from adaphi.model_zoo.scaling.calibrating import calibrate
from adaphi.model_zoo.scaling.counting import count_timm, input_shape
from adaphi.model_zoo.scaling.hardware import predict, predict_ladder

FAMILIES = {
    "efficientnet-lite": [f"tf_efficientnet_lite{phi}" for phi in range(4)],
    "efficientnet": [f"efficientnet_b{phi}" for phi in range(5)],
    "resnet": ["resnet18", "resnet50"],
    "mobilenet": ["mobilenetv3_large_100", "mobilenetv2_100"],
    "regnet": ["regnetx_008", "regnety_008"],
    "others": [
        "densenet121",
        "ghostnet_100",
        "vit_tiny_patch16_224",
        "convnext_atto",
        "mobilevit_xs",
    ],
}
UNSEEN = (
    "mnasnet_100",
    "fbnetc_100",
    "tinynet_a",
    "mixnet_s",
    "dla34",
    "repvgg_a0",
    "resnet34",
    "edgenext_x_small",
    "deit_tiny_patch16_224",
    "hrnet_w18_small",
)
"""Networks that nobody looked at while the law's kinds were chosen; the others had been."""
LADDERS = ("efficientnet-lite", "efficientnet", "resnet")
LIMITS = 200
"""How many latency limits are tried, in equal ratios from half the fastest variant to twice the slowest."""


def time_networks(
    names: Sequence[str], threads: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Return each network's lowest processor and wall time (ms) in so many seconds of turns."""
    import torch

    from adaphi.model_zoo.allocator import tune_allocator
    from adaphi.model_zoo.timm_import import import_timm

    tune_allocator()
    torch.set_num_threads(threads)
    timm = import_timm()
    models = {name: timm.create_model(name).eval() for name in names}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with torch.inference_mode():
        inputs = {name: torch.randn(*input_shape(name)) for name in names}
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(taken[names[-1]]) < 3:
            for name, model in models.items():
                model(inputs[name])
                began = time.thread_time(), time.perf_counter()
                model(inputs[name])
                taken[name].append((time.thread_time() - began[0], time.perf_counter() - began[1]))
    return {
        name: dict(
            zip(
                ("thread_ms", "wall_ms"),
                (1e3 * np.array(some)).min(0).round(2).tolist(),
                strict=True,
            )
        )
        for name, some in taken.items()
    }


def choices(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> float:
    """Return the share of latency limits at which the largest φ predicted to fit is the measured one."""
    limits = np.geomspace(min(measured_ms) / 2, 2 * max(measured_ms), LIMITS)
    best = [
        [sum(ms <= limit for ms in some) for limit in limits]
        for some in (predicted_ms, measured_ms)
    ]
    return float(np.mean(np.array(best[0]) == np.array(best[1])))


def compare(threads: int, seconds: float, rounds: int) -> dict[str, object]:
    """Return the fitted rates, and every network's predicted and measured latency."""
    import msgspec

    # φ = 0 of each ladder is measured as `adaphi plan hardware --here` does it
    firsts = [FAMILIES[ladder][0] for ladder in LADDERS]
    device = calibrate(threads, rounds=rounds, networks=firsts)
    clock = "thread_ms" if threads == 1 else "wall_ms"
    names = [*(name for family in FAMILIES.values() for name in family), *UNSEEN]
    measured = time_networks(names, threads, seconds)
    works = {name: count_timm(name) for name in names}
    networks = {
        name: {"predicted_ms": round(predict(works[name], device).latency_ms, 2), **measured[name]}
        for name in names
    }
    errors = {name: abs(row["predicted_ms"] / row[clock] - 1) for name, row in networks.items()}
    unseen = [errors.pop(name) for name in UNSEEN]
    chosen: dict[str, dict[str, float]] = {}
    for ladder in LADDERS:
        family = FAMILIES[ladder]
        took, some = [measured[name][clock] for name in family], [works[name] for name in family]
        for how, anchor in (("alone", False), ("anchored", True)):
            told, _ = predict_ladder(family[0], some, device, anchor=anchor)
            chosen.setdefault(ladder, {})[how] = choices([p.latency_ms for p in told], took)
    return {
        "rates": msgspec.to_builtins(device.rates),
        "clock": clock,
        "median_error": round(float(np.median(list(errors.values()))), 4),
        "largest_error": round(max(errors.values()), 4),
        "median_error_unseen": round(float(np.median(unseen)), 4),
        "largest_error_unseen": round(max(unseen), 4),
        "first_ms": {name: round(ms, 2) for name, ms in device.measured_ms.items()},
        "chosen_is_best_share": chosen,
        "networks": networks,
    }


def main(arguments: Sequence[str]) -> None:
    """Measure with one thread and with two, and write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks hardware", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("hardware.json"))
    parser.add_argument("--seconds", type=float, default=60.0, help="for the networks, each time")
    parser.add_argument("--rounds", type=int, default=12, help="of the synthetic layers")
    options = parser.parse_args(arguments)
    value: dict[str, object] = {
        "machine": device_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks hardware -o docs/scaling/hardware.json",
    }
    for threads in (1, 2):
        value[f"threads_{threads}"] = found = compare(threads, options.seconds, options.rounds)
        print(
            f"{threads} threads: median error {found['median_error']:.1%}, "
            f"unseen {found['median_error_unseen']:.1%}, {found['chosen_is_best_share']}"
        )
    options.output.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
