"""Convolutions packed for oneDNN: weights laid out once at load, the clipping of ReLU6 in the same pass.

Eager torch lays the weights of a convolution out anew on each call and clips in a pass of its own. The
operators that torch's own compiler emits for frozen networks do neither; they are used here directly, as it
uses them. They are not public: where they are missing, nothing is packed, and whoever packs compares the
outputs (`TorchBackend` does).

Nor is what enters a depthwise convolution padded by a copy, as timm's "same" padding is, which mostly has
one pixel more at the end than at the beginning: with a row and a column of zeros before its weights the
kernel may have as much at both ends, and that the operators do themselves.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ..timm_import import import_timm

Shapes = dict[str, list[int]]
"""The shape of what enters each convolution, by the convolution's name in the model."""


def can_pack() -> bool:
    """Say whether this build of torch has the operators, and a processor that they were measured on."""
    return (
        bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


def input_shapes(model: nn.Module, x: torch.Tensor) -> Shapes:
    """Return what enters each convolution when `model` runs on `x`: the layout is chosen for it."""
    shapes: Shapes = {}
    hooks = [
        part.register_forward_pre_hook(
            lambda _, inputs, name=name: shapes.__setitem__(name, list(inputs[0].shape))
        )
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d)
    ]
    with torch.inference_mode():
        model(x)
    for hook in hooks:
        hook.remove()
    return shapes


def make_packable(model: nn.Module, shapes: Shapes) -> None:
    """Replace, in place, every convolution of `shapes`, together with a ReLU6 registered right after it.

    What comes in their places has to be packed before it runs.
    """
    for prefix, parent in list(model.named_modules()):
        children = list(parent.named_children())
        for place, (name, child) in enumerate(children):
            path = f"{prefix}.{name}" if prefix else name
            if path not in shapes or not _is_plain(child):
                continue
            after = children[place + 1] if place + 1 < len(children) else ("", nn.Identity())
            clips = isinstance(after[1], nn.ReLU6)
            setattr(parent, name, _Packed(child, shapes[path], clips))
            if clips:
                setattr(parent, after[0], nn.Identity())


def pack(model: nn.Module) -> None:
    """Lay out the weights of the convolutions that `make_packable` has put into `model`."""
    for part in model.modules():
        if isinstance(part, _Packed):
            part.pack()


def _is_plain(child: nn.Module) -> bool:
    """Say whether a convolution does nothing but convolve, with zeros around or timm's "same" padding."""
    if type(child) is nn.Conv2d:
        return child.padding_mode == "zeros" and not isinstance(child.padding, str)
    return type(child) is import_timm().layers.Conv2dSame


class _Packed(nn.Module):
    """A convolution in evaluation, for inputs of one shape; to be packed before it runs."""

    def __init__(self, convolution: nn.Conv2d, shape: list[int], clips: bool) -> None:
        super().__init__()
        layers = import_timm().layers
        self.weight: torch.Tensor | None = convolution.weight  # None once it is packed
        self.bias = convolution.bias
        # What a copy is padded by, as torch's `pad` counts: left, right, top, bottom.
        self._before: list[int] | None = None
        padding = convolution.padding
        if isinstance(convolution, layers.Conv2dSame):
            same = _same_padding(convolution, shape)
            if all(end == begin for begin, end in same):
                padding = tuple(end for _, end in same)
            elif convolution.groups == shape[1] and set(convolution.dilation) == {1}:
                padding = tuple(end for _, end in same)
                more = [n for begin, end in reversed(same) for n in (end - begin, 0)]
                self.weight = nn.Parameter(nn.functional.pad(convolution.weight, more))
            else:
                padding = (0, 0)
                self._before = [n for ends in reversed(same) for n in ends]
                sides = zip(shape[2:], same, strict=True)
                shape = [*shape[:2], *(side + sum(ends) for side, ends in sides)]
        self._how = (
            list(cast(tuple[int, ...], padding)),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self._after = ("hardtanh", [0.0, 6.0]) if clips else ("none", [])
        self._shape = shape

    def pack(self) -> None:
        """Lay out the weights for inputs of the shape."""
        assert self.weight is not None
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight.detach(), *self._how, self._shape
        )
        self._bias = None if self.bias is None else self.bias.detach()
        self.weight = self.bias = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._before is not None:
            x = nn.functional.pad(x, self._before)
        return cast(
            torch.Tensor,
            torch.ops.mkldnn._convolution_pointwise(
                x, self._weight, self._bias, *self._how, *self._after, ""
            ),
        )


def _same_padding(convolution: nn.Conv2d, shape: list[int]) -> list[tuple[int, int]]:
    """Return what "same" padding adds before and after each axis, as timm splits it."""
    how = convolution.kernel_size, convolution.stride, convolution.dilation
    both = map(import_timm().layers.get_same_padding, shape[2:], *how)
    return [(added // 2, added - added // 2) for added in both]
