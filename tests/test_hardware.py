"""The roofline: sums by hand, operations by another's count, fits that come back, and what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import harmonic_mean, median
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import AdaphiError, InputError
from adaphi.model_zoo.scaling import calibrating
from adaphi.model_zoo.scaling.calibrating import LAYERS, Layer, Sample, fit, time_in_turn
from adaphi.model_zoo.scaling.counting import count, count_timm
from adaphi.model_zoo.scaling.hardware import (
    DATA_SHEETS,
    KINDS,
    Device,
    Prediction,
    Rate,
    Work,
    anchored,
    largest_fitting,
    load_device,
    portability,
    predict,
    predict_ladder,
    save_device,
)
from adaphi.model_zoo.timm_import import import_timm

KEPT = Path(__file__).parents[1] / "docs" / "scaling" / "hardware.json"
RATE = Rate(1e9, 1e8, 1e-3)


def device(value_bytes: int = 4) -> Device:
    """Return one that does everything at the same rates."""
    return Device("made up", "here", dict.fromkeys(KINDS, RATE), value_bytes, 1e9)


def prediction(latency_ms: float, memory_bytes: float = 1.0) -> Prediction:
    """Return one of these figures."""
    return Prediction(latency_ms, latency_ms, 0.0, 0.0, memory_bytes, 0.5)


def smallest_layers() -> list[Layer]:
    """Return the smallest layer of each kind."""
    return [
        min((x for x in LAYERS if x.kind == kind), key=lambda x: math.prod(x.shape))
        for kind in KINDS
    ]


def test_a_network_takes_the_sum_of_its_layers_each_bound_by_one_resource() -> None:
    works = [Work("dense", 4e9, 1e8, 0.0), Work("pointwise", 0.0, 0.0, 3e8)]
    found = predict(works, device())
    assert found.compute_ms == pytest.approx(4000)
    assert found.memory_ms == pytest.approx(3000)
    assert found.overhead_ms == pytest.approx(2)
    assert found.latency_ms == pytest.approx(7002)
    assert found.binds == "compute"
    assert found.efficiency == pytest.approx(4 / 7.002)
    assert predict(works, device(value_bytes=1)).memory_ms == pytest.approx(750)


@pytest.mark.parametrize(
    ("depth", "width", "side", "grows"),
    [(2, 1, 1, (2, 2, 2)), (1, 2, 1, (4, 4, 2)), (1, 1, 2, (4, 1, 4))],
)
def test_depth_width_and_resolution_load_a_device_differently(
    depth: int, width: int, side: int, grows: tuple[int, int, int]
) -> None:
    """Operations go with d·w²·r², weights with d·w², what is handed on with d·w·r²."""

    def loads(depth: int, width: int, side: int) -> tuple[float, ...]:
        def build() -> nn.Module:
            return nn.Sequential(
                *(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
            )

        works = count(build, (1, width, side, side))
        return tuple(
            sum(getattr(w, what) for w in works)
            for what in ("operations", "weight_bytes", "activation_bytes")
        )

    one, more = loads(2, 8, 12), loads(2 * depth, 8 * width, 12 * side)
    assert tuple(b / a for a, b in zip(one, more, strict=True)) == grows


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_operations_are_those_of_another_counter(name: str) -> None:
    model = import_timm().create_model(name).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    works = count_timm(name)
    mine = sum(w.operations for w in works if w.kind in ("dense", "grouped"))
    assert mine == pytest.approx(counter.get_total_flops(), rel=0.01)
    weights = sum(p.nbytes for p in model.parameters())
    assert sum(w.weight_bytes for w in works) == pytest.approx(weights, rel=0.02)


def test_bytes_of_a_convolution_are_its_input_its_output_and_its_weights() -> None:
    (work,) = count(lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), (1, 8, 10, 10))
    assert work == Work("grouped", 2 * 9 * 8 * 100, 4 * 72, 4 * 2 * 800)


def test_a_fit_gives_back_the_rates_that_made_the_samples() -> None:
    rates = {kind: Rate(1e9 * (k + 1), 1e8 * (k + 2), 1e-6 * k) for k, kind in enumerate(KINDS)}
    true = Device("made up", "here", rates, 4, 1e9)
    samples = []
    for kind in KINDS:
        for operations, moved in ((1e6, 1e3), (1e7, 1e4), (1e3, 1e6), (1e4, 1e7), (1e2, 1e2)):
            works = (Work(kind, operations, 0.0, moved),) * 3
            samples.append(Sample(kind, works, predict(works, true).latency_ms / 1e3))
    found = fit(samples)
    for kind in KINDS:
        assert found[kind].operations_per_s == pytest.approx(rates[kind].operations_per_s, rel=1e-6)
        assert found[kind].bytes_per_s == pytest.approx(rates[kind].bytes_per_s, rel=1e-6)
        assert found[kind].overhead_s == pytest.approx(rates[kind].overhead_s, abs=1e-10)


def test_what_comes_in_between_is_added_to_every_operator() -> None:
    pure = [
        Sample(kind, (Work(kind, f, 0.0, b),), predict([Work(kind, f, 0.0, b)], device()).latency_ms / 1e3)
        for kind in KINDS
        for f, b in ((1e6, 1e3), (1e3, 1e6), (1.0, 1.0))
    ]  # fmt: skip
    mixed = (Work("dense", 1e6, 0.0, 1.0), Work("pointwise", 0.0, 0.0, 1e6))
    taken = predict(mixed, device()).latency_ms / 1e3 + 2 * 5e-3
    assert fit([*pure, Sample(None, mixed, taken)])["dense"].overhead_s == pytest.approx(6e-3)


def test_real_layers_are_timed_and_fitted(tmp_path: Path) -> None:
    """One small layer of each kind, really run, makes a device that a file keeps."""
    small = smallest_layers()
    samples, _ = time_in_turn(1, rounds=2, layers=small)
    assert [sample.kind for sample in samples] == list(KINDS)
    assert all(sample.taken_s > 0 for sample in samples)
    here = Device("here", "measured", fit(samples), 4, 1e9)
    save_device(here, tmp_path / "here.json")
    assert load_device(tmp_path / "here.json") == here


def test_the_largest_that_meets_both_limits_is_chosen() -> None:
    some = [prediction(1, 10), prediction(2, 30), prediction(3, 20)]
    assert largest_fitting(some, 2.5) == 1
    assert largest_fitting(some, 5, 25) == 2
    assert largest_fitting(some, 0.5) is None


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_portability_is_the_harmonic_mean_and_0_where_it_does_not_run(shares: list[float]) -> None:
    assert portability(shares) == pytest.approx(harmonic_mean(shares))
    assert portability([*shares, None]) == 0
    with pytest.raises(InputError, match="efficiencies"):
        portability([])


def test_an_anchor_keeps_ratios() -> None:
    scaled = anchored([prediction(2), prediction(5)], 3)
    assert [p.latency_ms for p in scaled] == pytest.approx([3, 7.5])
    with pytest.raises(InputError, match="above 0"):
        anchored(scaled, 0)


def test_a_ladder_is_anchored_where_its_first_was_measured() -> None:
    """At what is said, else at what the device knows of that very network, else not at all."""
    works = [[Work("dense", f, 0.0, 1.0)] for f in (1e7, 3e7)]
    known = msgspec.structs.replace(device(), measured_ms={"first": 22.0})
    alone = [predict(some, known).latency_ms for some in works]
    for first, more, measured in (
        ("first", {}, 22.0),
        ("first", {"first_ms": 5.0}, 5.0),
        ("first", {"anchor": False}, None),
        ("other", {}, None),
    ):
        told, anchor = predict_ladder(first, works, known, **more)  # type: ignore[arg-type]
        assert (anchor and anchor.measured_ms) == measured
        factor = 1.0 if anchor is None else anchor.factor
        assert [p.latency_ms for p in told] == pytest.approx([factor * ms for ms in alone])
        assert measured is None or told[0].latency_ms == pytest.approx(measured)


def test_what_pads_writes_its_output_twice() -> None:
    """torch fills it, then copies the input into it."""
    (work,) = count(lambda: nn.ZeroPad2d(1), (1, 2, 4, 4))
    assert work.activation_bytes == 4 * (2 * 16 + 2 * (2 * 36))


def test_a_device_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "npu.json"
    save_device(DATA_SHEETS["npu"], path)
    assert load_device(path) == DATA_SHEETS["npu"]
    path.write_text("{}")
    with pytest.raises(InputError, match=r"npu\.json"):
        load_device(path)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_kept_rates_predict_the_kept_latencies(threads: int) -> None:
    """Three networks counted anew, the rest as written: the median error is below 20 %, as the page says."""
    kept = json.loads(KEPT.read_text())[f"threads_{threads}"]
    rates = msgspec.convert(kept["rates"], type=dict[str, Rate])
    here = Device("kept", "", rates, 4, 1e9)  # type: ignore[arg-type]
    networks = kept["networks"]
    assert len(networks) >= 8
    for name in ("resnet50", "mobilenetv3_large_100", "efficientnet_b0"):
        assert predict(count_timm(name), here).latency_ms == pytest.approx(
            networks[name]["predicted_ms"], rel=0.01
        )
    errors = [abs(row["predicted_ms"] / row[kept["clock"]] - 1) for row in networks.values()]
    assert median(errors) < 0.2


@pytest.mark.parametrize("threads", [1, 2])
def test_anchored_choices_were_the_measured_best(bench: Any, threads: int) -> None:
    """From the kept figures anew: as often as they say, with one thread at 9 of 10 limits in every family."""
    hardware = bench("hardware")
    kept = json.loads(KEPT.read_text())[f"threads_{threads}"]
    for ladder in hardware.LADDERS:
        rows = [kept["networks"][name] for name in hardware.FAMILIES[ladder]]
        told = [row["predicted_ms"] for row in rows]
        scale = kept["first_ms"][hardware.FAMILIES[ladder][0]] / told[0]
        took = [row[kept["clock"]] for row in rows]
        share = hardware.choices([scale * ms for ms in told], took)
        assert share == pytest.approx(kept["chosen_is_best_share"][ladder]["anchored"], abs=0.01)
        assert share >= 0.9 or threads == 2


def test_the_command_says_what_binds_and_what_fits(tmp_path: Path) -> None:
    run = ["plan", "hardware", "--ladder", "timm:resnet18,resnet50", "--latency-ms", "50"]
    said = CliRunner().invoke(app, [*run, "--json"], catch_exceptions=False)
    value = json.loads(said.output)
    assert [d["device"] for d in value["devices"]] == ["server-gpu", "edge-cpu", "npu"]
    assert [d["chosen_phi"] for d in value["devices"]] == [
        1,
        0,
        1,
    ]  # 8.2 GFLOP are much for a Raspberry Pi
    assert value["portability"]["φ1"] == 0 < value["portability"]["ladder"]
    one = [*run, "--devices", "npu", "--first-ms", "60", "--json"]
    (npu,) = json.loads(CliRunner().invoke(app, one, catch_exceptions=False).output)["devices"]
    assert npu["chosen_phi"] is None and npu["variants"][0]["latency_ms"] == pytest.approx(60)
    page = tmp_path / "hardware.html"
    CliRunner().invoke(app, [*run, "--report", str(page)], catch_exceptions=False)
    assert "Plotly.newPlot" in page.read_text()


def test_a_plan_here_is_anchored_and_its_file_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small network is really run beside a few layers; for that ladder the file tells the same."""

    def calibrate(threads: int, *, networks: Sequence[str], progress: object) -> Device:
        samples, measured_ms = time_in_turn(
            threads, rounds=2, layers=smallest_layers(), networks=networks
        )
        return Device("here", "measured", fit(samples), 4, 1e9, measured_ms)

    monkeypatch.setattr(calibrating, "calibrate", calibrate)
    here = str(tmp_path / "here.json")
    ladder = "timm:mobilenetv3_small_050,mobilenetv3_small_075"

    def plan(*options: str, ladder: str = ladder) -> dict[str, Any]:
        run = ["plan", "hardware", "--ladder", ladder, *options, "--json"]
        value = json.loads(CliRunner().invoke(app, run, catch_exceptions=False).output)
        return dict(value["devices"][-1])

    def latencies(plan: dict[str, Any]) -> list[float]:
        return [v["latency_ms"] for v in plan["variants"]]

    found = plan("--here", "--save", here)
    assert load_device(here).measured_ms.keys() == {"mobilenetv3_small_050"}
    assert latencies(found)[0] == pytest.approx(found["anchor"]["measured_ms"])
    alone = plan("--devices", here, "--no-anchor")
    assert alone["anchor"] is None
    factor = found["anchor"]["factor"]
    assert latencies(found) == pytest.approx([factor * ms for ms in latencies(alone)])
    assert plan("--devices", here) == found
    assert latencies(plan("--devices", here, "--first-ms", "60"))[0] == pytest.approx(60)
    assert plan("--devices", here, ladder="timm:mobilenetv3_small_075")["anchor"] is None
    assert plan("--here", "--no-anchor")["anchor"] is None
    run = ["plan", "hardware", "--ladder", ladder, "--devices", f"npu,{here}"]
    said = CliRunner().invoke(app, run, catch_exceptions=False).output
    assert "here: anchored at φ = 0: measured " in said and "npu: by the roofline alone" in said


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--devices", "abacus", "no device is called 'abacus'"),
        ("--save", "x.json", "--here"),
        ("--first-ms", "3", "one device"),
        ("--ladder", "timm: ,", "names no model"),
    ],
)
def test_what_is_no_device_is_refused(option: str, value: str, says: str) -> None:
    with pytest.raises(AdaphiError, match=says):
        CliRunner().invoke(app, ["plan", "hardware", option, value], catch_exceptions=False)
