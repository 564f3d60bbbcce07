"""The CUDA backend: half precision answers as stock does; what needs a GPU runs where there is one.

Without a GPU the same networks run in half precision on the processor, without graphs.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from adaphi.errors import LadderError
from adaphi.model_zoo import Variant, get_ladder
from adaphi.model_zoo.backends import get_backend, installed_backends, torch_cuda
from adaphi.model_zoo.backends.torch_cuda import CudaBackend
from adaphi.model_zoo.images import example_image

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
    alike = np.stack([photographs[0]] * 2)
    np.testing.assert_allclose(runner.batch(alike), one_by_one[[0, 0]], rtol=0, atol=0.1)
    assert runner.weights_bytes < 0.6 * stock.weights_bytes


def test_where_half_precision_answers_otherwise_single_does(
    backend: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose sums leave the range of half precision is run in single."""

    def load(variant: Variant) -> torch.nn.Module:
        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = torch.nn.Parameter(torch.full((1,), 1e4))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                steps = torch.arange(1.0, 4.0, device=x.device, dtype=x.dtype)
                return (self.scale * 10 * (2 + x.mean((2, 3))) * steps) / 1e5

        return Net().eval()

    monkeypatch.setattr(torch_cuda, "load_timm", load)
    monkeypatch.setattr(
        torch_cuda, "timm_preprocess", lambda _: lambda image: np.zeros((1, 3, 8, 8), np.float32)
    )
    logits = backend.build(LITE[0])(example_image())
    np.testing.assert_allclose(logits, [2.0, 4.0, 6.0], rtol=1e-5)


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
def test_one_is_captured_while_another_runs(backend: CudaBackend, photographs: list[Any]) -> None:
    """A load behind changes no answer of the running variant, and spoils no capture."""
    runner = backend.build(LITE[0])
    expected = runner(photographs[0])
    built: list[Any] = []
    load = threading.Thread(target=lambda: built.extend(backend.build(v) for v in LITE[1:]))
    load.start()
    while load.is_alive():
        np.testing.assert_array_equal(runner(photographs[0]), expected)
    assert len(built) == 2
    for one in built:
        assert np.isfinite(one(photographs[0])).all()
