"""timm beside a torchvision whose operators are missing, and beside one that has them."""

from __future__ import annotations

import subprocess
import sys

import pytest

USE = """
import adaphi.model_zoo.timm_import as timm_import
import torch
before = torch.library.register_fake
timm = timm_import.import_timm()
assert torch.library.register_fake is before
model = timm.create_model("tf_efficientnet_lite0").eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
from PIL import Image
with torch.inference_mode():
    assert model(transform(Image.new("RGB", (300, 260)))[None]).shape == (1, 1000)
"""

BROKEN = """
import torch
if hasattr(torch.ops.torchvision, "nms"):
    raise SystemExit("not broken")
"""

# The two operators for which torchvision registers fakes at import, as a build that fits defines them.
MATCHING = """
import torch

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.impl("nms", lambda dets, scores, iou_threshold: scores.argsort(descending=True), "CPU")
"""

THE_FAKES_ARE_REGISTERED = """
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
with FakeTensorMode(shape_env=ShapeEnv()):
    kept = torch.ops.torchvision.nms(torch.rand(3, 4), torch.rand(3), 0.5)
assert kept.dtype == torch.int64 and kept.dim() == 1
assert torch.ops.torchvision.nms(torch.rand(3, 4), torch.rand(3), 0.5).shape == (3,)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_timm_runs_beside_a_torchvision_without_operators() -> None:
    """Where plain `import timm` dies, ours imports, builds a model and its preprocessing, and runs."""
    plain = run(BROKEN + "import timm")
    if "not broken" in plain.stderr:
        pytest.skip("the torchvision that is installed fits the torch that is installed")
    assert "torchvision::nms does not exist" in plain.stderr
    done = run(BROKEN + USE)
    assert done.returncode == 0, done.stderr


def test_timm_runs_beside_a_torchvision_that_fits() -> None:
    """With the operators there, every registration goes through, and nothing is left patched."""
    done = run(MATCHING + USE + THE_FAKES_ARE_REGISTERED)
    assert done.returncode == 0, done.stderr
