"""Networks of the family EfficientNet-Lite at any depth, width and resolution, and what a run of each costs.

timm builds them (`_gen_efficientnet_lite`), so depth comes in whole blocks (rounded up in each stage but the
first and last) and width in multiples of 8 channels. `Lite.size` says what came of the multipliers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..timm_import import import_timm

if TYPE_CHECKING:
    import torch

Size = tuple[float, float, float]
"""Depth, width and resolution, relative to φ = 0."""

SIDE = 224
"""Pixels of the smallest one's input."""
_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_CHANNELS = (16, 24, 40, 80, 112, 192, 320)
_DEEPEST = 1000  # hundredths


@dataclass(frozen=True)
class Lite:
    """One network: timm's multipliers of depth and width, and the side of its input in pixels."""

    depth_multiplier: float
    width_multiplier: float
    side: int

    @classmethod
    def nearest(cls, size: Size) -> Lite:
        """Return the network that comes nearest to `size`, its depth measured in blocks."""
        depth, width, resolution = size
        multiplier = min(
            (hundredths / 100 for hundredths in range(100, _DEEPEST + 1)),
            key=lambda m: abs(blocks(m) / blocks(1.0) - depth),
        )
        return cls(multiplier, width, round(SIDE * resolution))

    @cached_property
    def size(self) -> Size:
        """Return blocks, the multiplier that the channels follow, and side, relative to φ = 0.

        The multiplier is that of least squares, so that rounding of the narrow stages weighs little.
        """
        depth = blocks(self.depth_multiplier) / blocks(1.0)
        grown = sum(c * one for c, one in zip(self.channels, _CHANNELS, strict=True))
        return depth, grown / sum(one * one for one in _CHANNELS), self.side / SIDE

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of each stage."""
        return tuple(_rounded(c * self.width_multiplier) for c in _CHANNELS)

    def build(self) -> torch.nn.Module:
        """Return the network with random weights, batch norms folded and channels last."""
        import torch

        import_timm()
        from timm.models.efficientnet import _gen_efficientnet_lite

        from ..backends.folding import fold_batch_norms

        model: Any = _gen_efficientnet_lite(
            "tf_efficientnet_lite0",
            channel_multiplier=self.width_multiplier,
            depth_multiplier=self.depth_multiplier,
            pad_type="same",
        )
        fold_batch_norms(model.eval())
        ready: torch.nn.Module = model.to(memory_format=torch.channels_last)
        return ready

    def example(self) -> torch.Tensor:
        """Return an input of this network."""
        import torch

        x = torch.rand(1, 3, self.side, self.side, generator=torch.Generator().manual_seed(0))
        return x.to(memory_format=torch.channels_last)


def blocks(depth_multiplier: float, *, ends_too: bool = False) -> int:
    """Return how many blocks timm builds; `ends_too` as in EfficientNet-B, where all stages deepen."""
    ends = (0, len(_REPEATS) - 1)
    return sum(
        r if i in ends and not ends_too else math.ceil(r * depth_multiplier)
        for i, r in enumerate(_REPEATS)
    )


def _rounded(channels: float) -> int:
    """Return the multiple of 8 that timm takes: the nearest, unless that is less than nine tenths."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def memory_bytes(network: Lite) -> int:
    """Return the bytes of the weights and of the largest input and output that one layer holds together."""
    import torch

    model, peak = network.build(), 0

    def seen(_: Any, inputs: Any, output: Any) -> None:
        nonlocal peak
        peak = max(peak, sum(x.nbytes for x in (*inputs, output)))

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(seen)
    with torch.inference_mode():
        model(network.example())
    return peak + sum(p.nbytes for p in model.parameters())


def run_ms(
    networks: Sequence[Lite],
    *,
    rounds: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> NDArray[np.float64]:
    """Return the milliseconds of one run of each network in each round (rounds, N), one thread, all in turn.

    Processor time: on a machine that others use as well it is what a run would take if they did not.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ready = [(network.build(), network.example()) for network in networks]
    taken = np.empty((rounds + 1, len(networks)))
    try:
        with torch.inference_mode():
            for number in range(rounds + 1):  # the first is to warm up
                if progress is not None:
                    progress(number, rounds + 1, f"round {number} of {rounds}")
                for place, (model, x) in enumerate(ready):
                    began = time.thread_time()
                    model(x)
                    taken[number, place] = 1e3 * (time.thread_time() - began)
    finally:
        torch.set_num_threads(threads)
    return taken[1:]
