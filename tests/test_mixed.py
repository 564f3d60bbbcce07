"""Variant × precision: int8 answers like fp32, without torch; a mixed ladder keeps what no other beats."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adaphi import Client
from adaphi.errors import LadderError
from adaphi.model_zoo import Ladder, Latency, Profile, Variant, VariantProfile, get_ladder
from adaphi.model_zoo.backends import get_backend, installed_backends
from adaphi.model_zoo.choosing import settle_backend
from adaphi.model_zoo.frontier import undominated
from adaphi.model_zoo.images import example_image
from adaphi.model_zoo.ladders import fitted
from adaphi.model_zoo.pool import WarmPool
from adaphi.model_zoo.profiling import measure, pool_of

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")

MIXED = get_ladder("efficientnet-lite-mixed")
BY_NAME = {v.name: v for v in MIXED.variants}
WHOLE, INT8 = BY_NAME["tf_efficientnet_lite0"], BY_NAME["tf_efficientnet_lite0-int8"]
OTHERS = [name for name in installed_backends() if name != "torch"]
NO_TORCH = """
import sys
from adaphi import AdaptiveModel
from adaphi.model_zoo.images import example_image
model = AdaptiveModel.from_ladder("efficientnet-lite-mixed", profile=sys.argv[1], policy="greedy")
for phi in (0, 1):
    answer = model(example_image(), deadline_ms=10_000, max_phi=phi, top=1)
    assert answer.phi == phi and answer.top, answer
print(sorted({"torch", "timm", "onnx", "skimage"} & set(sys.modules)))
"""


@pytest.fixture(scope="module", autouse=True)
def cache(exports: Path) -> Iterator[Path]:
    """Let exports go into a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(exports))
        yield exports


def profile_of(names: Sequence[str], latency_ms: Sequence[float], backend: str) -> Profile:
    """Return a profile as if these variants of the mixed ladder had been measured, in this order."""
    count = len(names)
    return Profile(
        ladder=MIXED.name,
        backend=backend,
        variants=tuple(
            VariantProfile(
                phi, name, BY_NAME[name].quality, Latency(mean=ms, p50=ms, p95=ms, p99=ms)
            )
            for phi, (name, ms) in enumerate(zip(names, latency_ms, strict=True))
        ),
        stall_ms=tuple(tuple(float(m != a) * (10 * m + a) for a in range(count)) for m in range(count)),
    )  # fmt: skip


def error_of(got: Any, expected: Any) -> float:
    """Return the relative error of logits."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", OTHERS)
def test_int8_answers_like_fp32_on_real_pictures(name: str, photographs: list[Any]) -> None:
    """Nine of ten first classes are the same, and logits are off by less than a fifth (14 dB)."""
    backend = get_backend(name)
    whole, int8 = backend.build(WHOLE), backend.build(INT8)
    assert int8.weights_bytes < 0.3 * whole.weights_bytes
    outputs = [(int8(picture), whole(picture)) for picture in photographs]
    same = sum(a.argmax() == b.argmax() for a, b in outputs)
    assert same >= 0.9 * len(photographs)
    assert error_of(*map(np.concatenate, zip(*outputs, strict=True))) < 0.2


def test_no_kernel_cuts_a_sum_off(photographs: list[Any]) -> None:
    """What the processor's int8 kernels answer is what plain arithmetic says, but for rounding."""
    import onnxruntime

    from adaphi.model_zoo.backends.export import exported

    export = exported(INT8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(export.path, options, providers=["CPUExecutionProvider"])
    quick = get_backend("onnx").build(INT8)
    for picture in photographs[:4]:
        expected = plain.run(None, {"image": export.about.preprocessing(picture)})[0][0]
        assert error_of(quick(picture), expected) < 0.1


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([1, 3, 4, 8, 12]))
@settings(max_examples=50, deadline=None)
def test_rounded_weights_of_neighbours_fit_16_bits(seed: int, outputs: int, inputs: int) -> None:
    """For any weights and any two neighbours of a block, 255 · (a + b) lies within ± 32768; and no scale is
    wider than twice what the largest weight needs."""
    from adaphi.model_zoo.backends.quantize import _widest

    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs, 2, 1)) ** 3
    weight[0] *= seed % 2  # at times all zeros
    widest = _widest(weight)
    rounded = np.round(weight / widest[:, None, None, None] * 127)
    block = 4 if inputs % 4 == 0 else inputs
    for o, place in product(range(outputs), range(2)):
        for start in range(0, inputs, block):
            some = rounded[o, start : start + block, place, 0]
            for a, b in product(range(len(some)), repeat=2):
                assert a == b or -(2**15) <= 255 * (some[a] + some[b]) < 2**15
    assert (widest <= 2 * np.abs(weight).reshape(outputs, -1).max(axis=1) + 1e-30).all()


def test_torch_says_who_runs_int8() -> None:
    """torch has no int8 here; the error names the backends that have."""
    with pytest.raises(LadderError, match=r"int8.*onnx, openvino or auto"):
        get_backend("torch").build(INT8)


def test_ranges_are_found_on_the_given_pictures(tmp_path: Path, photographs: list[Any]) -> None:
    """Other pictures make another model; a folder without any is refused in words."""
    from adaphi.model_zoo.backends.export import exported

    empty = replace(INT8, calibration=str(tmp_path))
    with pytest.raises(LadderError, match="holds no pictures"):
        exported(empty)
    (tmp_path / "notes.txt").write_text("")
    Image.fromarray(photographs[0]).save(tmp_path / "one.png")
    own = exported(replace(INT8, calibration=str(tmp_path)))
    assert own.path.read_bytes() != exported(INT8).path.read_bytes()
    assert exported(replace(INT8, calibration=str(tmp_path))) == own


figures = st.lists(
    st.tuples(st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0]), st.sampled_from([0.5, 0.6, 0.7, 0.8])),
    min_size=1,
    max_size=7,
)


@given(figures)
def test_what_is_kept_is_what_no_other_beats(costs: list[tuple[float, float]]) -> None:
    """Cost and quality rise along what is kept; whatever is dropped has a quicker or equal one at least as
    good among it; stalls still belong to their variants."""
    count = len(costs)
    stalls = [[0.0 if m == a else 10.0 * m + a for a in range(count)] for m in range(count)]
    variants = [
        VariantProfile(phi, f"v{phi}", quality, Latency(mean=ms, p50=ms))
        for phi, (ms, quality) in enumerate(costs)
    ]
    profile = Profile(ladder="x", variants=tuple(variants), stall_ms=tuple(map(tuple, stalls)))
    left = undominated(profile)
    kept = [int(v.name[1:]) for v in left.variants]
    assert [v.phi for v in left.variants] == list(range(len(kept)))
    for earlier, later in pairwise(kept):
        assert costs[earlier][0] < costs[later][0] and costs[earlier][1] < costs[later][1]
    for phi in set(range(count)) - set(kept):
        assert any(costs[k][0] <= costs[phi][0] and costs[k][1] >= costs[phi][1] for k in kept)
        assert f"v{phi} (" in str(left.conditions["dropped"])
    assert [list(row) for row in left.stall_ms] == [[stalls[m][a] for a in kept] for m in kept]


def test_a_profile_says_which_candidates_are_left_and_in_which_order() -> None:
    """The worker builds what the profile names, with the pictures it names; other ladders stay."""
    names = ["tf_efficientnet_lite1-int8", "tf_efficientnet_lite0", "tf_efficientnet_lite2"]
    profile = profile_of(names, [1.0, 2.0, 3.0], "onnx")
    profile = msgspec.structs.replace(profile, conditions={"calibration": "/pictures"})
    ladder = fitted(MIXED, profile)
    assert [(v.phi, v.network, v.precision) for v in ladder.variants] == [
        (0, "tf_efficientnet_lite1", "int8"),
        (1, "tf_efficientnet_lite0", "fp32"),
        (2, "tf_efficientnet_lite2", "fp32"),
    ]
    assert [v.calibration for v in ladder.variants] == ["/pictures", "", ""]
    plain = get_ladder("efficientnet-lite")
    assert fitted(plain, profile) is plain
    only = Ladder("less", MIXED.variants[:1], candidates=True)
    with pytest.raises(LadderError, match="no variant 'tf_efficientnet_lite1-int8'"):
        fitted(only, profile)


def test_a_mixed_ladder_is_measured_and_what_is_left_runs() -> None:
    """Real models: the profile is in order of cost and says how often int8 agrees; the pool that fits it
    answers with what its names say. A backend is compared on what it can run."""
    ladder = Ladder("two", (replace(WHOLE, phi=0), replace(INT8, phi=1)), candidates=True)
    name, measured = settle_backend("auto", ladder, None)
    assert name in OTHERS and measured[0].refused == "it runs no int8 variant"
    pool = WarmPool(ladder, get_backend(name))
    profile = measure(pool, rounds=3, cold_rounds=0)
    assert profile.typical_ms("mean") == sorted(profile.typical_ms("mean"))
    assert "tf_efficientnet_lite0-int8 on " in str(profile.conditions["agreement_with_fp32"])
    assert profile.origin["quality"] == "published"
    left = pool_of(profile, pool)
    assert not pool.resident and len(left.ladder) == len(profile)
    for variant in profile.variants:
        expected = get_backend(name).build(BY_NAME[variant.name])(example_image())
        np.testing.assert_array_equal(left.run(variant.phi, example_image()).output, expected)


@pytest.mark.parametrize("name", OTHERS)
def test_int8_needs_no_torch_once_it_is_made(name: str, tmp_path: Path) -> None:
    """A process that answers in int8 and fp32 imports no torch, timm, onnx or scikit-image."""
    get_backend(name).build(INT8), get_backend(name).build(WHOLE)
    profile_of([INT8.name, WHOLE.name], [1.0, 2.0], name).save(tmp_path / "profile.json")
    command = [sys.executable, "-c", NO_TORCH, str(tmp_path / "profile.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_solve_simulate_and_serve_take_a_mixed_profile(tmp_path: Path) -> None:
    """The files of the plain ladder's life serve the mixed one; the daemon's φ is the network and precision
    that the profile names, and its worker maps no torch."""
    get_backend("onnx").build(INT8), get_backend("onnx").build(WHOLE)
    profile_of([INT8.name, WHOLE.name], [10.0, 20.0], "onnx").save(tmp_path / "profile.json")
    rows = "".join(f"{t},{15 + 10 * (t % 7 > 3)}\n" for t in range(100))
    (tmp_path / "trace.csv").write_text("time_s,budget_ms\n" + rows)
    address = f"ipc://{tmp_path}/a.sock"
    (tmp_path / "adaphi.toml").write_text(
        'ladder = "profile.json"\npolicy = "policy.npz"\n'
        f'[zmq]\nbind = ["{address}"]\n[http]\nport = 0\n[budget]\nsources = ["pushed"]\n'
    )
    adaphi = [sys.executable, "-m", "adaphi"]
    given = ["--profile", "profile.json", "--trace", "trace.csv"]
    for command in (
        ["solve", *given, "-o", "policy.npz"],
        ["simulate", *given, "--policy", "policy.npz"],
    ):
        subprocess.run([*adaphi, *command], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    with subprocess.Popen(
        [*adaphi, "serve", "--config", "adaphi.toml"], cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            with Client(address) as client:
                client.wait_until_ready(60)
                for phi, variant in enumerate((INT8, WHOLE)):
                    answer = client.infer(example_image(), deadline_ms=5000, phi=phi)
                    expected = get_backend("onnx").build(variant)(example_image())
                    assert answer.name == variant.name
                    np.testing.assert_array_equal(answer.output, expected)
            (worker,) = psutil.Process(daemon.pid).children()
            libraries = {Path(mapped.path).name for mapped in worker.memory_maps()}
            assert any("onnxruntime" in name for name in libraries)
            assert not any("torch" in name for name in libraries)
        finally:
            daemon.terminate()
            daemon.wait(20)


def test_names_tell_network_and_precision() -> None:
    """Also in a ladder of timm's models by name."""
    ladder = get_ladder("timm:resnet18,resnet18-int8", quality=[0.7, 0.69], calibration="/pictures")
    assert [(v.network, v.precision) for v in ladder.variants] == [
        ("resnet18", "fp32"),
        ("resnet18", "int8"),
    ]
    assert [v.calibration for v in ladder.variants] == ["", "/pictures"]
    assert Variant(0, "resnet18", 0.7).precision == "fp32"
