"""timm beside a torchvision whose operators are missing, and beside one that has them; without a compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest

USE = """
import sys
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
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
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


WHAT_WAS_MARKED_IS_NOT_COMPILED = """
import torch
from adaphi.model_zoo.compiler import compiler_put_off
with compiler_put_off():
    alone = torch.compiler.disable(lambda x: x + 1)
    later = torch.compiler.disable(reason="none")(lambda x: x - 1)
    from torch._dynamo.utils import is_compile_supported
    from torch._dynamo import config
assert is_compile_supported("cpu") and config.recompile_limit > 0
graphs = []

def backend(graph, inputs):
    graphs.append(graph.code)
    return graph

def whole(x):
    return later(alone(x * 2) * 4)

ones = torch.ones(3)
for function in whole, torch.compile(whole, backend=backend):
    assert function(ones).tolist() == [11, 11, 11]
assert len(graphs) == 2 and not any("+" in code or "-" in code.replace("->", "") for code in graphs)
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


def test_the_compiler_is_put_off_and_works() -> None:
    """What was taken from it while it was put off is its own, once somebody compiles."""
    done = run(WHAT_WAS_MARKED_IS_NOT_COMPILED)
    assert done.returncode == 0, done.stderr
