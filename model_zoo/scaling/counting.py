"""What a network does, operator by operator: operations and bytes, counted without running it.

The network is called once on tensors that have a shape and nothing else (torch's device `meta`), and every
operator that it comes down to is noted. Operations are those of torch's own `flop_counter`, two for each
multiply-add; an exponential counts one for each value, a maximum one for each value of its windows. Bytes are
those of the tensors that go in and come out, each moved once; torch pads by filling all of the output first,
so that is moved twice. A view costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ...errors import LadderError
from ..timm_import import import_timm
from .hardware import Kind, Work

_FREE = {"_unsafe_view", "detach", "empty"}
_NORMALISING = {"native_batch_norm", "native_layer_norm", "native_group_norm"}
_EXPONENTIAL = {"silu", "gelu", "sigmoid", "softmax", "exp", "tanh", "mish", "elu", "erf"}


def count(build: Callable[[], torch.nn.Module], shape: Sequence[int]) -> tuple[Work, ...]:
    """Return the operators of the module that `build` makes, called on one input of `shape` (batch first)."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("meta"):
        model = build().eval()
        x = torch.empty(*shape)
        with _Recording(model) as recording:
            model(x)
    return tuple(recording.works)


def count_timm(name: str) -> tuple[Work, ...]:
    """Return the operators of timm's model at its own resolution; raise `LadderError` if there is none."""
    shape = input_shape(name)
    return count(lambda: import_timm().create_model(name), shape)


def input_shape(name: str) -> tuple[int, ...]:
    """Return the shape of timm's model's input, a batch of one; raise `LadderError` if there is none."""
    timm = import_timm()
    if not timm.is_model(name.partition(".")[0]):
        raise LadderError(f"timm has no model called {name!r}")
    return (1, *timm.get_pretrained_cfg(name).input_size)


def seen_side(name: str) -> float:
    """Return what timm's evaluation makes of a picture's shorter side (pixels) before it is cropped."""
    height = input_shape(name)[-2]
    return float(height / import_timm().get_pretrained_cfg(name).crop_pct)


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that reads or writes memory; bytes of `model`'s own tensors are weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {id(t) for t in (*model.parameters(), *model.buffers())}
        self.works: list[Work] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view and func.overloadpacket.__name__ not in _FREE:
            self.works.append(self._work(func.overloadpacket, args, kwargs, out))
        return out

    def _work(self, operator: Any, args: Any, kwargs: Any, out: Any) -> Work:
        counted = flop_registry.get(operator)
        kind = _kind(operator.__name__, args, counted is not None)
        outs = _tensors(out)
        operations = counted(*args, **kwargs, out_val=out) if counted else 0
        if kind == "exponential":
            operations = outs[0].numel()
        if kind == "pooling":
            operations = outs[0].numel() * math.prod(args[1])
        ins = _tensors((args, kwargs))
        weights = sum(t.nbytes for t in ins if self._is_weight(t))
        passes = 2 if operator.__name__ == "constant_pad_nd" else 1
        moved = sum(t.nbytes for t in ins) + passes * sum(t.nbytes for t in outs)
        return Work(kind, float(operations), float(weights), float(moved - weights))

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        base = tensor if tensor._base is None else tensor._base
        return id(base) in self._weights


def _kind(name: str, args: Any, counted: bool) -> Kind:
    if name == "convolution":
        groups: int = args[8]
        return "grouped" if groups > 1 else "dense"
    if counted:
        return "dense"
    if name == "max_pool2d_with_indices":
        return "pooling"
    if name in _NORMALISING:
        return "normalising"
    return "exponential" if name.strip("_").removeprefix("safe_") in _EXPONENTIAL else "pointwise"


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
