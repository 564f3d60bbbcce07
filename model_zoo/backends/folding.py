"""Batch norms folded into the convolutions before them: the same function with fewer passes over memory.

In evaluation a batch norm is an affine map of each channel, so it can be multiplied into the weights of
the convolution that feeds it (torch.nn.utils.fusion). torch.fx finds such pairs by tracing, but cannot
trace timm's convolutions with "same" padding; here a pair is a convolution and the batch norm registered
right after it in the same module. That is how timm and torchvision write their networks, not a law:
whoever folds compares the outputs (`TorchBackend` does).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(model: nn.Module) -> int:
    """Fold, in place, every batch norm that follows a convolution; return how many.

    `model` is in evaluation mode. What a timm batch norm does besides (dropout, activation) stays.
    """
    folded = 0
    for parent in list(model.modules()):
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(before, nn.Conv2d) and _follows(child, before):
                _fold(before, child)
                setattr(parent, name, _rest(child))
                folded += 1
            before = child
    return folded


def _follows(norm: nn.Module, convolution: nn.Conv2d) -> bool:
    return (
        isinstance(norm, nn.BatchNorm2d)
        and norm.track_running_stats
        and norm.num_features == convolution.out_channels
    )


def _fold(convolution: nn.Conv2d, norm: nn.Module) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )


def _rest(norm: nn.Module) -> nn.Module:
    """Return what is left of a batch norm: timm's carries dropout and an activation."""
    rest = [part for part in norm.children() if not isinstance(part, nn.Identity)]
    return rest[0] if len(rest) == 1 else nn.Sequential(*rest)
