"""Backends give equal answers; what needs no torch imports none; `auto` takes the fastest that is right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaphi import Client
from adaphi.errors import LadderError
from adaphi.model_zoo import Ladder, Profile, Variant, choosing, get_ladder
from adaphi.model_zoo.backends import get_backend, installed_backends
from adaphi.model_zoo.choosing import Measured, best, settle_backend
from adaphi.model_zoo.images import example_image
from adaphi.model_zoo.preprocessing import Preprocessing

LITE = get_ladder("efficientnet-lite").variants
OTHERS = [name for name in installed_backends() if name != "torch"]
NO_TORCH = """
import sys, time
from adaphi import AdaptiveModel
from adaphi.model_zoo.images import example_image
model = AdaptiveModel.from_ladder(profile=sys.argv[1], policy="greedy")
answer = model(example_image(), deadline_ms=10_000, top=1)
assert answer.top, answer
print(sorted({"torch", "timm"} & set(sys.modules)))
"""


def saved_for(backend: str, profile: Profile) -> Profile:
    """Return `profile` as if the default ladder had been measured in `backend`."""
    variants = tuple(msgspec.structs.replace(v, name=LITE[v.phi].name) for v in profile.variants)
    return msgspec.structs.replace(
        profile, ladder="efficientnet-lite", backend=backend, variants=variants
    )


@pytest.fixture(scope="module", autouse=True)
def cache(exports: Path) -> Iterator[Path]:
    """Let exports go into a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(exports))
        yield exports


@pytest.fixture(scope="module")
def stock() -> list[Any]:
    """Return timm's models as they come, with timm's own preprocessing: what every backend must equal."""
    import torch

    from adaphi.model_zoo.backends.torch_eager import load_timm, timm_preprocess

    def forward(model: torch.nn.Module, preprocess: Any, picture: Any) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(preprocess(picture)))[0].numpy()

    models = [load_timm(variant) for variant in LITE]
    return [partial(forward, model, timm_preprocess(model)) for model in models]


@pytest.mark.parametrize("phi", [0, 1, 2])
@pytest.mark.parametrize("name", ["torch", *OTHERS])
def test_every_backend_answers_as_stock_timm_does(
    name: str, phi: int, stock: list[Any], photographs: list[Any]
) -> None:
    """On real pictures the first class is the same and no logit differs by more than 1e-4."""
    runner = get_backend(name).build(LITE[phi])
    for picture in photographs:
        expected, got = stock[phi](picture), runner(picture)
        assert got.argmax() == expected.argmax()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_the_torch_default_has_no_batch_norm_left() -> None:
    """Every one of the 49 of lite0 is folded, and loading again gives the same answer to the last bit."""
    import torch

    from adaphi.model_zoo.backends.folding import fold_batch_norms
    from adaphi.model_zoo.backends.torch_eager import load_timm

    model = load_timm(LITE[0])
    assert fold_batch_norms(model) == 49
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())
    backend = get_backend("torch")
    first, second = (backend.build(LITE[0])(example_image()) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_model_that_folding_would_change_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the batch norm after a convolution is fed by something else, the answer stays stock's."""
    import torch

    from adaphi.model_zoo.backends import torch_eager

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)
            self.norm = torch.nn.BatchNorm2d(3)
            self.norm.running_mean = torch.tensor([1.0, 2.0, 3.0])

        def forward(self, x: Any) -> Any:
            return (self.conv(x) + self.norm(x)).mean((2, 3))

    def load(variant: Variant) -> Any:
        torch.manual_seed(0)
        return Odd().eval()

    monkeypatch.setattr(torch_eager, "load_timm", load)
    monkeypatch.setattr(torch_eager, "timm_preprocess", lambda model: preprocess)
    preprocess = Preprocessing(32, 36, "bicubic", (0.5,) * 3, (0.5,) * 3)
    backend = get_backend("torch")
    with torch.inference_mode():
        expected = Odd.forward(load(LITE[0]), torch.from_numpy(preprocess(example_image())))[0]
    for _ in range(2):
        got = backend.build(LITE[0])(example_image())
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    side=st.tuples(st.integers(5, 24), st.integers(5, 24)),
    kernel=st.integers(1, 6),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 16]),
)
def test_same_padding_keeps_its_meaning_without_a_copy(
    side: tuple[int, int], kernel: int, stride: int, dilation: int, groups: int
) -> None:
    """timm's "same" padding of any kernel and side, packed: what it computes is as before."""
    import torch

    from adaphi.model_zoo.backends import packing
    from adaphi.model_zoo.timm_import import import_timm

    if not packing.can_pack():
        pytest.skip("this build of torch has no oneDNN, or the processor no AVX")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        import_timm().layers.Conv2dSame(
            16, 16, kernel, stride=stride, dilation=dilation, groups=groups
        )
    ).eval()
    x = torch.randn(1, 16, *side).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = model(x)
        packing.make_packable(model, packing.input_shapes(model, x))
        packing.pack(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_convolutions_are_packed_with_what_follows_them_and_others_left() -> None:
    """Strides, groups, dilation and a clip keep their meaning; reflecting padding stays torch's own."""
    import torch
    from torch import nn

    from adaphi.model_zoo.backends import packing

    if not packing.can_pack():
        pytest.skip("this build of torch has no oneDNN, or the processor no AVX")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, groups=8, padding=2, dilation=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"),
    ).eval()
    x = 20 * torch.randn(1, 3, 15, 17)
    with torch.inference_mode():
        expected = model(x)
        packing.make_packable(model, packing.input_shapes(model, x))
        packing.pack(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    kept = [type(part) for part in model if isinstance(part, nn.Conv2d | nn.ReLU6 | nn.ReLU)]
    assert kept == [nn.ReLU, nn.Conv2d]


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (224, 224), (37, 300), (1000, 999)])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "efficientnet_b1.ft_in1k"])
def test_pictures_are_prepared_as_timm_does_it(name: str, shape: tuple[int, int]) -> None:
    """PIL and numpy give what timm's transform gives, bit for bit, upright, lying, square and small."""
    from adaphi.model_zoo.backends.torch_eager import timm_preprocess
    from adaphi.model_zoo.timm_import import import_timm

    timm = import_timm()
    model = timm.create_model(name, pretrained=False)
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ours = Preprocessing.of_timm(timm.data.resolve_model_data_config(model))
    np.testing.assert_array_equal(ours(picture), timm_preprocess(model)(picture))


def test_preprocessing_that_is_not_known_is_refused() -> None:
    """What would be prepared otherwise than timm does it is not prepared at all."""
    config = {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "crop_pct": 0.9,
    }
    assert Preprocessing.of_timm(config | {"crop_mode": "center"}).resize == 248
    for other in ({"crop_mode": "border"}, {"crop_mode": "center", "input_size": (3, 224, 192)}):
        with pytest.raises(LadderError, match="backend torch"):
            Preprocessing.of_timm(config | other)


@pytest.mark.parametrize("name", OTHERS)
def test_no_torch_is_imported_where_none_is_needed(
    name: str, tmp_path: Path, profile: Profile, cache: Path
) -> None:
    """A process that answers in another backend, chosen by its profile, never imports torch or timm."""
    saved_for(name, profile).save(tmp_path / "profile.json")
    command = [sys.executable, "-c", NO_TORCH, str(tmp_path / "profile.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif("onnx" not in OTHERS, reason="onnxruntime is not installed")
def test_the_daemons_worker_maps_no_torch(tmp_path: Path, profile: Profile, cache: Path) -> None:
    """A worker whose profile says onnx answers a request, and no library of torch is in its memory."""
    saved_for("onnx", profile).save(tmp_path / "profile.json")
    address = f"ipc://{tmp_path}/a.sock"
    (tmp_path / "adaphi.toml").write_text(
        f'ladder = "profile.json"\n[zmq]\nbind = ["{address}"]\n[http]\nport = 0\n'
    )
    command = [sys.executable, "-m", "adaphi", "serve", "--config", str(tmp_path / "adaphi.toml")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
        try:
            with Client(address) as client:
                client.wait_until_ready(60)
                assert client.infer(example_image(), deadline_ms=5000).output.shape == (1000,)
            (worker,) = psutil.Process(daemon.pid).children()
            libraries = {Path(mapped.path).name for mapped in worker.memory_maps()}
            assert any("onnxruntime" in name for name in libraries)
            assert not any("torch" in name for name in libraries)
        finally:
            daemon.terminate()
            daemon.wait(20)


@pytest.mark.skipif("onnx" not in OTHERS, reason="onnxruntime is not installed")
def test_an_export_is_made_once_and_a_failed_one_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second load finds the first one's file; a model that cannot be exported leaves no folder behind."""
    from adaphi.model_zoo.backends.export import exported

    first = exported(LITE[0])
    stamp = first.path.stat().st_mtime_ns
    assert exported(LITE[0]).path.stat().st_mtime_ns == stamp
    assert len(first.about.classes) == 1000
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(LadderError, match=r"nosuchnet could not be exported.*no model called"):
        exported(Variant(0, "nosuchnet", 0.5))
    assert not list((tmp_path / "adaphi" / "exports").iterdir())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(LadderError, match="XDG_CACHE_HOME"):
        exported(Variant(0, "nosuchnet", 0.5))


def test_the_fastest_backend_that_answers_right_is_chosen() -> None:
    """Refused backends are out, however fast; every variant counts alike."""
    measured = (
        Measured("torch", (20.0, 40.0)),
        Measured("even", (15.0, 41.0)),
        Measured("wrong", (1.0, 1.0), 0.5, refused="its answers differ"),
    )
    assert best(measured) == "even"
    with pytest.raises(LadderError, match="its answers differ"):
        best(measured[2:])


def test_auto_measures_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes answer; one that cannot run the ladder is refused in words, not a failure of all."""
    ladder = Ladder("one", LITE[:1])
    monkeypatch.setattr(choosing, "installed_backends", lambda: ("torch", *OTHERS, "nosuch"))
    name, measured = settle_backend("auto", ladder, None)
    assert [m.backend for m in measured] == ["torch", *OTHERS, "nosuch"]
    *ran, refused = measured
    assert refused.refused and name != "nosuch"
    assert all(len(m.latency_ms) == 1 and m.difference <= 1e-4 for m in ran)
    assert name == min(ran, key=lambda m: m.latency_ms).backend


def test_a_backend_with_other_answers_is_refused() -> None:
    """Outputs that differ from torch's beyond the tolerance put a backend out of the question."""
    right, wrong = [np.array([1.0, 2.0])], [np.array([1.0, 2.001])]
    assert not choosing._judged("near", [1.0], right, right, "").refused
    assert "differ from torch's by 0.001" in choosing._judged("x", [1.0], wrong, right, "").refused


def test_without_a_name_the_profile_says_which_backend_runs(profile: Profile) -> None:
    """None and auto follow the profile; a name is obeyed; with neither it is torch, or what is measured."""
    measured = msgspec.structs.replace(profile, backend="openvino")
    ladder = profile.as_ladder()
    assert settle_backend(None, ladder, measured)[0] == "openvino"
    assert settle_backend("auto", ladder, measured)[0] == "openvino"
    assert settle_backend("torch", ladder, measured)[0] == "torch"
    assert settle_backend(None, ladder, None)[0] == "torch"


def test_a_tuned_process_reuses_what_it_frees() -> None:
    """Buffers of 8 MiB, written and freed again and again, fault their pages once; untuned, every time."""
    code = (
        "import resource, sys, numpy as np\n"
        "from adaphi.model_zoo.allocator import tune_allocator\n"
        "if sys.argv[1] == 'tuned' and not tune_allocator(): sys.exit('no glibc')\n"
        "def work():\n"
        "    [np.empty(8 << 20, np.uint8).fill(1) for _ in range(20)]\n"
        "    x = [np.empty(8 << 20, np.uint8) for _ in range(8)]\n"
        "    [y.fill(1) for y in x]\n"
        "work()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(4): work()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {}
    for how in ("tuned", "stock"):
        command = [sys.executable, "-c", code, how]
        done = subprocess.run(command, capture_output=True, text=True)
        if "no glibc" in done.stderr:
            pytest.skip("this system's allocator is not glibc's")
        faults[how] = int(done.stdout)
    assert faults["tuned"] < 100 < faults["stock"], faults
