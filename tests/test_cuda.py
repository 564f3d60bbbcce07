"""The CUDA backend: half precision answers as stock does; what needs a GPU runs where there is one.

Without a GPU the same networks run in half precision on the processor, without graphs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from adaphi.errors import LadderError
from adaphi.model_zoo import Variant, get_ladder
from adaphi.model_zoo.backends import get_backend, installed_backends, torch_cuda
from adaphi.model_zoo.backends.cuda_graphs import Graphs
from adaphi.model_zoo.backends.torch_cuda import CudaBackend
from adaphi.model_zoo.backends.torch_pictures import MOST_KNOWN, DevicePreprocessing
from adaphi.model_zoo.images import example_image
from adaphi.model_zoo.preprocessing import INTERPOLATIONS, Preprocessing

LITE = get_ladder("efficientnet-lite").variants
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
gpu = pytest.mark.skipif(DEVICE == "cpu", reason="torch sees no CUDA device here")


@pytest.fixture(scope="module")
def backend() -> CudaBackend:
    made = CudaBackend(device=DEVICE)
    made.prepare()
    return made


def test_half_precision_answers_as_stock_does(backend: CudaBackend, photographs: list[Any]) -> None:
    """No logit is off by more than a hundredth of the largest, and where the first class leads by as much it
    is the same; a batch gives the same."""
    stock, runner = get_backend("torch").build(LITE[0]), backend.build(LITE[0])
    one_by_one = np.stack([runner(picture) for picture in photographs])
    for picture, got in zip(photographs, one_by_one, strict=True):
        expected = stock(picture)
        assert got.dtype == np.float32 and not np.array_equal(got, expected)  # it is half precision
        limit = 0.01 * np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=limit)
        second, first = np.sort(expected)[-2:]
        assert first - second <= 2 * limit or got.argmax() == expected.argmax()
    assert runner.batch is not None
    for k in (2, 3):  # of a size that is captured, and of another
        alike = np.stack([photographs[0]] * k)
        np.testing.assert_allclose(runner.batch(alike), one_by_one[[0] * k], rtol=0, atol=0.1)
    assert runner.weights_bytes < 0.6 * stock.weights_bytes


def test_where_half_precision_answers_otherwise_single_does(
    backend: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose sums leave the range of half precision is run in single; its pictures, which this
    module cannot prepare, are prepared by timm."""

    def load(variant: Variant) -> torch.nn.Module:
        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = torch.nn.Parameter(torch.full((1,), 1e4))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                steps = torch.arange(1.0, 4.0, device=x.device, dtype=x.dtype)
                return (self.scale * 10 * (2 + x.mean((2, 3))) * steps) / 1e5

        return Net().eval()

    def refuse(_: Any) -> Any:
        raise LadderError("a crop of another kind")

    monkeypatch.setattr(torch_cuda.Preprocessing, "of_timm", refuse)
    monkeypatch.setattr(torch_cuda, "load_timm", load)
    monkeypatch.setattr(
        torch_cuda, "timm_preprocess", lambda _: lambda image: np.zeros((1, 3, 8, 8), np.float32)
    )
    runner = backend.build(LITE[0])
    np.testing.assert_allclose(runner(example_image()), [2.0, 4.0, 6.0], rtol=1e-5)
    assert runner.batch is not None
    np.testing.assert_allclose(
        runner.batch(np.stack([example_image()] * 2)), [[2.0, 4.0, 6.0]] * 2, rtol=1e-5
    )


@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_pictures_are_prepared_as_pil_prepares_them(
    height: int, width: int, interpolation: str, seed: int
) -> None:
    """To the last bit, on the processor first and, once the shape is known, on the device; pictures of a
    batch are what each is alone."""
    assume(max(height, width) <= 10 * min(height, width))
    prepared = Preprocessing(60, 70, interpolation, (0.4, 0.5, 0.6), (0.2, 0.25, 0.5))
    pictures = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    expected = np.concatenate([prepared(picture) for picture in pictures])
    on_device = DevicePreprocessing(prepared, Graphs(torch.device(DEVICE)), at_once)
    for _ in range(3):
        np.testing.assert_array_equal(on_device.many(pictures).cpu().numpy(), expected)
    on_device.learn((1, height, width))
    for picture, alone in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(on_device(picture).cpu().numpy()[0], alone)


def at_once(work: Callable[[], None]) -> None:
    work()


def test_shapes_are_learnt_when_they_come_again_and_not_all_kept() -> None:
    """The first time nothing is made, and with many shapes those that came last are known."""
    prepared = Preprocessing(8, 9, "bilinear", (0.5,) * 3, (0.5,) * 3)
    made: list[Any] = []

    def note(work: Callable[[], None]) -> None:
        made.append(work)
        work()

    on_device = DevicePreprocessing(prepared, Graphs(torch.device(DEVICE)), note)
    pictures = [example_image(10 + number, 20) for number in range(MOST_KNOWN + 1)]
    for picture in pictures:
        on_device(picture)
    assert not made
    for picture in [pictures[-1]] * 3 + [pictures[0]]:
        expected = prepared(picture)
        np.testing.assert_array_equal(on_device(picture).cpu().numpy(), expected)
    assert len(made) == 1  # the first had been forgotten


def test_a_large_picture_s_matrices_are_made_in_blocks() -> None:
    """Larger than a block, read-only as PIL's are: prepared all the same, and nothing warns."""
    prepared = Preprocessing(224, 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
    picture = np.random.default_rng(1).integers(0, 256, (1080, 1920, 3), np.uint8)
    picture.flags.writeable = False
    on_device = DevicePreprocessing(prepared, Graphs(torch.device(DEVICE)), at_once)
    on_device.learn((1, 1080, 1920))
    np.testing.assert_array_equal(on_device(picture).cpu().numpy(), prepared(picture))


def test_it_is_asked_for_by_name() -> None:
    """`auto` does not try it; without a device, or for what it cannot run, it says so."""
    assert "cuda" not in installed_backends()
    if DEVICE == "cpu":
        with pytest.raises(LadderError, match="no CUDA device"):
            get_backend("cuda")
    int8 = Variant(0, "tf_efficientnet_lite0-int8", 0.7)
    with pytest.raises(LadderError, match="cannot run on CUDA"):
        CudaBackend(device=DEVICE).build(int8)


@gpu
def test_a_graph_is_its_variant_s_own(backend: CudaBackend, photographs: list[Any]) -> None:
    """Variants that take turns answer as each does alone, and what was answered stays as it was."""
    runners = [backend.build(variant) for variant in LITE]
    alone = [[runner(picture) for picture in photographs] for runner in runners]
    for number, picture in enumerate(photographs):
        for runner, expected in zip(runners, alone, strict=True):
            np.testing.assert_array_equal(runner(picture), expected[number])


@gpu
def test_one_is_captured_while_another_runs(backend: CudaBackend) -> None:
    """A load behind changes no answer of the running variant and spoils no capture, nor does a picture of
    a shape that was not seen before."""
    runner = backend.build(LITE[0])
    pictures = [example_image(100 + 20 * i, 300) for i in range(40)]
    expected = [backend.build(LITE[0])(picture) for picture in pictures[:8]]
    built: list[Any] = []
    load = threading.Thread(target=lambda: built.extend(backend.build(v) for v in LITE[1:]))
    load.start()
    number = 0
    while load.is_alive():
        got = runner(pictures[number % 40])
        if number % 40 < 8:
            np.testing.assert_array_equal(got, expected[number % 40])
        number += 1
    assert len(built) == 2
    for variant, one in zip(LITE[1:], built, strict=True):
        alone = backend.build(variant)(pictures[0])
        np.testing.assert_array_equal(one(pictures[0]), alone)


@gpu
def test_what_goes_gives_its_memory_back(backend: CudaBackend) -> None:
    """A moment later the driver has it, and variants can be built again."""
    runner = backend.build(LITE[2])
    runner(example_image())
    taken = torch.cuda.memory_reserved()
    del runner
    until_s = time.monotonic() + 5
    while torch.cuda.memory_reserved() > taken - 10_000_000 and time.monotonic() < until_s:
        time.sleep(0.05)
    assert torch.cuda.memory_reserved() <= taken - 10_000_000
    assert np.isfinite(backend.build(LITE[2])(example_image())).all()
