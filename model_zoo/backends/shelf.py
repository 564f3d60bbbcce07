"""Networks that went and may come back: their modules without tensors in memory, the tensors in a file.

To build a network anew is mostly Python: hundreds of modules are made and initialised, then filled, folded
and replaced, while whatever runs waits for the interpreter's lock. A copy of the finished modules and one
mapped file cost a tenth of that. A network that refers to its own parts in ways that a copy cannot follow
would answer otherwise: whoever shelves compares the outputs (`TorchBackend` does).
"""

from __future__ import annotations

import mmap
import tempfile
from math import prod
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch import nn

ALIGNED_BYTES = 64


class _Place(NamedTuple):
    """Where a tensor belongs, how it lies there, and where it begins in the file."""

    module: str
    name: str
    is_buffer: bool
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    begin: int


class Shelf:
    """One network; `take` returns it as it was put down, each time a new one.

    The file has no name, lies in `folder` and is gone with the process. Raises `OSError` where there is no
    room for it, `ValueError` for a tensor with gaps.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._places: list[_Place] = []
        with tempfile.TemporaryFile(dir=folder) as file:
            for path, module in model.named_modules():
                for is_buffer, tensors in enumerate((module._parameters, module._buffers)):
                    for name, tensor in tensors.items():
                        if tensor is not None:
                            self._put(file, path, name, bool(is_buffer), tensor.detach())
            file.flush()
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._modules = _copy(model, {})
        for module in self._modules.modules():
            _empty(module._parameters)
            _empty(module._buffers)

    def take(self) -> nn.Module:
        """Return the network, its tensors read anew."""
        model = _copy(self._modules, {})
        modules = dict(model.named_modules())
        for place in self._places:
            module, tensor = modules[place.module], self._read(place)
            if place.is_buffer:
                module._buffers[place.name] = tensor
            else:
                module._parameters[place.name] = nn.Parameter(tensor, requires_grad=False)
        self._mapped.madvise(mmap.MADV_DONTNEED)  # what was read is not kept in memory
        return model

    def _put(
        self, file: IO[bytes], path: str, name: str, is_buffer: bool, tensor: torch.Tensor
    ) -> None:
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        if not tensor.permute(order).is_contiguous():
            raise ValueError(f"{path}.{name} has gaps")
        begin = -(-file.tell() // ALIGNED_BYTES) * ALIGNED_BYTES
        file.seek(begin)
        flat = tensor.permute(order).reshape(-1).view(torch.uint8)
        file.write(flat.numpy().data)
        self._places.append(
            _Place(path, name, is_buffer, tensor.dtype, tensor.shape, tensor.stride(), begin)
        )

    def _read(self, place: _Place) -> torch.Tensor:
        flat = torch.frombuffer(
            self._mapped, dtype=place.dtype, count=prod(place.shape), offset=place.begin
        )
        return flat.clone().as_strided(place.shape, place.stride)


def _copy(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """Return a copy of a module and of those in it that shares everything else, tensors included."""
    if id(module) in made:
        return made[id(module)]
    copy = made[id(module)] = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy._parameters = module._parameters.copy()
    copy._buffers = module._buffers.copy()
    copy._modules = {
        name: None if child is None else _copy(child, made)
        for name, child in module._modules.items()
    }
    return copy


def _empty(tensors: dict[str, torch.Tensor | None] | dict[str, nn.Parameter | None]) -> None:
    for name in tensors:
        tensors[name] = None
