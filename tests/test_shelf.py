"""A network that went comes back as it was, bit for bit, and its memory is the system's while it is away."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adaphi.model_zoo import Variant, get_ladder
from adaphi.model_zoo.backends import shelf as shelves
from adaphi.model_zoo.backends.shelf import Shelf
from adaphi.model_zoo.backends.torch_eager import TorchBackend
from adaphi.model_zoo.images import example_image
from adaphi.model_zoo.pool import WarmPool

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """Uses one layer in two places, and has buffers, an integer among them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm = nn.BatchNorm2d(64)
        self.layer = self.again = nn.Conv2d(64, 64, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(torch.relu(self.layer(self.norm(self.first(x)))))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Twice().eval()


def leave(shelf: Shelf) -> None:
    """Wait until a network that nobody has any more is away."""
    assert shelf._leaving is not None
    shelf._leaving.join()


linux = pytest.mark.skipif(sys.platform != "linux", reason="pages can be given back on Linux alone")


@linux
@torch.inference_mode()
def test_it_comes_back_bit_for_bit(network: nn.Module, tmp_path: Path) -> None:
    """As often as one likes; while it is away its whole pages hold nothing; the file has no name."""
    expected, weight = network(X), network.layer.weight.detach()
    held = int(weight.count_nonzero())
    shelf = Shelf(network, tmp_path / "new" / "folder")
    for _ in range(3):
        loan = shelf.take()
        assert loan is not None and torch.equal(loan.model(X), expected)
        del loan
        leave(shelf)
        assert int(weight.count_nonzero()) < held / 5  # a page is 1,024 of its 36,864 numbers
    assert not list((tmp_path / "new" / "folder").iterdir())


@linux
@torch.inference_mode()
def test_it_stays_while_anybody_has_it(network: nn.Module, tmp_path: Path) -> None:
    expected, shelf = network(X), Shelf(network, tmp_path)
    one, two = shelf.take(), shelf.take()
    del one
    assert two is not None and torch.equal(two.model(X), expected)
    del two
    leave(shelf)
    one = shelf.take()
    two = shelf.take()
    del two
    assert one is not None and torch.equal(one.model(X), expected)


def test_where_it_cannot_be_kept_it_is_lost_and_freed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    network = Twice()
    shelf, alive = Shelf(network, tmp_path / "file"), weakref.ref(network)
    loan = shelf.take()
    assert loan is not None
    del loan, network
    leave(shelf)
    assert shelf.take() is None
    gc.collect()
    assert alive() is None


@linux
def test_a_file_that_was_cut_off_is_told_from_a_network(network: nn.Module, tmp_path: Path) -> None:
    shelf = Shelf(network, tmp_path)
    loan = shelf.take()
    del loan
    leave(shelf)
    assert shelf._file is not None
    os.ftruncate(shelf._file.fileno(), 1000)
    assert shelf.take() is None


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_what_is_moved_in_parts_arrives_whole(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls may move fewer bytes than asked, and take no more than so many pieces."""
    monkeypatch.setattr(shelves, "BUFFERS_PER_CALL", 2)

    def first(pieces: Sequence[memoryview]) -> list[memoryview]:
        assert len(pieces) <= 2
        cut, left = [], most
        for piece in pieces:
            cut.append(piece[:left])
            left -= len(cut[-1])
        return [piece for piece in cut if piece]

    pieces = [bytearray(os.urandom(size)) for size in (1, 4, 3, 7)]
    read = [bytearray(len(piece)) for piece in pieces]
    with tempfile.TemporaryFile(buffering=0) as file:
        shelves._transfer(
            lambda descriptor, parts, at: os.pwritev(descriptor, first(parts), at),
            file,
            [memoryview(piece) for piece in pieces],
        )
        shelves._transfer(
            lambda descriptor, parts, at: os.preadv(descriptor, first(parts), at),
            file,
            [memoryview(piece) for piece in read],
        )
    assert read == pieces


@linux
@pytest.mark.parametrize("network", ["resnet18", "efficientnet_b0", "vit_tiny_patch16_224"])
def test_timms_networks_come_back(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built, and twice from the shelf, they answer alike; what comes from the shelf needs no warm-up."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend, variant = TorchBackend(), Variant(0, network, 0.5, weights="none")
    answers = []
    for comes_back in (False, True, True):
        runner = backend.build(variant)
        assert runner.needs_warm_up is not comes_back
        answers.append(runner(example_image()))
        del runner
    for answer in answers[1:]:
        np.testing.assert_array_equal(answers[0], answer)


def test_without_room_for_a_shelf_it_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backend, variant = TorchBackend(), get_ladder("efficientnet-lite").variants[0]
    answers = []
    for _ in range(2):
        runner = backend.build(variant)
        assert runner.needs_warm_up
        answers.append(runner(example_image()))
        del runner
    np.testing.assert_array_equal(*answers)


@linux
def test_an_eviction_takes_nothing_from_a_run_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever still holds an evicted runner gets right answers from it, before and after the next load."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pool = WarmPool(get_ladder("efficientnet-lite"), TorchBackend())
    expected = pool.run(0, example_image()).output
    for _ in range(2):
        held = pool.runner(0)
        pool.evict(0)
        np.testing.assert_array_equal(held(example_image()), expected)
        np.testing.assert_array_equal(pool.run(0, example_image()).output, expected)
        np.testing.assert_array_equal(held(example_image()), expected)
        del held
        pool.evict(0)
        assert pool.run(0, example_image()).cold
    np.testing.assert_array_equal(pool.run(0, example_image()).output, expected)
