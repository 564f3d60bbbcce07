"""The ONNX Runtime backend (extra `onnx`): exported variants on the CPU; no torch in this process."""

from __future__ import annotations

from ...errors import MissingExtraError
from ..variants import Variant
from . import Array, Runner
from .export import exported
from .image import ImageRunner

try:
    import onnxruntime
except ImportError:
    raise MissingExtraError("the backend onnx", "onnx") from None


class OnnxBackend:
    """Runs variants in ONNX Runtime, each in a session of its own with `threads` threads."""

    name = "onnx"

    def __init__(self, threads: int = 1) -> None:
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        # An arena for each session would keep memory from the others; malloc, tuned, shares it.
        self._options.enable_cpu_mem_arena = False

    def prepare(self) -> None:
        """Nothing is shared: importing the library was it."""

    def build(self, variant: Variant) -> Runner:
        """Return `variant`, exported if it was not; raise `LadderError` if it cannot be had."""
        export = exported(variant)
        session = onnxruntime.InferenceSession(
            export.path, self._options, providers=["CPUExecutionProvider"]
        )

        def forward(x: Array) -> Array:
            logits: Array = session.run(None, {"image": x})[0]
            return logits

        about, size = export.about, export.path.stat().st_size
        return ImageRunner(forward, about.preprocessing, about.classes, size)
