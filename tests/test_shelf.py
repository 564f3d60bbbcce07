"""A network that was shelved comes back as it was: bit for bit, as often as one likes, and on its own."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adaphi.model_zoo import Variant, get_ladder
from adaphi.model_zoo.backends.shelf import Shelf
from adaphi.model_zoo.backends.torch_eager import TorchBackend
from adaphi.model_zoo.images import example_image


class Twice(nn.Module):
    """Uses one layer in two places, and has buffers, an integer among them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm = nn.BatchNorm2d(4)
        self.layer = self.again = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(torch.relu(self.layer(self.norm(self.first(x)))))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Twice().eval()


@torch.inference_mode()
def test_it_comes_back_bit_for_bit_and_alone(network: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 9, 9)
    expected = network(x)
    shelf = Shelf(network, tmp_path / "new" / "folder")
    one, two = shelf.take(), shelf.take()
    assert torch.equal(one(x), expected)
    assert one.again is one.layer and one.layer is not two.layer
    assert one.first.weight.stride() == network.first.weight.stride()
    for parameter in one.parameters():
        parameter.zero_()
    assert torch.equal(two(x), expected) and torch.equal(network(x), expected)
    assert torch.equal(shelf.take()(x), expected)
    assert not list((tmp_path / "new" / "folder").iterdir())  # the file has no name


def test_what_cannot_be_kept_is_told(network: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        Shelf(network, tmp_path / "file")
    network.first.bias = nn.Parameter(torch.zeros(8)[::2])
    with pytest.raises(ValueError, match=r"first\.bias has gaps"):
        Shelf(network, tmp_path)


@pytest.mark.parametrize("network", ["resnet18", "efficientnet_b0", "vit_tiny_patch16_224"])
def test_timms_networks_come_back(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first, second and third build answer alike; the third comes from the shelf and needs no warm-up."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend, variant = TorchBackend(), Variant(0, network, 0.5, weights="none")
    runners = [backend.build(variant) for _ in range(3)]
    assert [runner.needs_warm_up for runner in runners] == [True, True, False]
    first, *others = [runner(example_image()) for runner in runners]
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_without_room_for_a_shelf_it_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backend, variant = TorchBackend(), get_ladder("efficientnet-lite").variants[0]
    runners = [backend.build(variant) for _ in range(3)]
    assert all(runner.needs_warm_up for runner in runners)
    np.testing.assert_array_equal(runners[0](example_image()), runners[2](example_image()))


def tensors_alive() -> int:
    gc.collect()
    return sum(type(x) in (torch.Tensor, nn.Parameter) for x in gc.get_objects())


def test_a_shelf_holds_no_tensors_in_memory(network: nn.Module, tmp_path: Path) -> None:
    before = tensors_alive()
    shelf = Shelf(network, tmp_path)
    taken = shelf.take()
    assert tensors_alive() > before
    del taken
    assert tensors_alive() == before
