"""The OpenVINO backend (extra `openvino`): exported variants on the CPU; no torch in this process."""

from __future__ import annotations

from ...errors import MissingExtraError
from ..variants import Variant
from . import Array, Runner
from .export import cache_folder, exported
from .image import ImageRunner

try:
    import openvino
except ImportError:
    raise MissingExtraError("the backend openvino", "openvino") from None


class OpenVinoBackend:
    """Runs variants in OpenVINO with `threads` threads; what it compiles is kept in the user's cache."""

    name = "openvino"

    def __init__(self, threads: int = 1) -> None:
        self._core = openvino.Core()
        self._settings = {
            # Left to itself it computes in bfloat16 where the processor can: other answers, unasked. What an
            # int8 variant's file says is done in int8 all the same.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same core
            "CACHE_DIR": str(cache_folder() / "openvino"),
        }

    def prepare(self) -> None:
        """Nothing is shared: importing the library was it."""

    def build(self, variant: Variant) -> Runner:
        """Return `variant`, exported if it was not; raise `LadderError` if it cannot be had."""
        export = exported(variant)
        compiled = self._core.compile_model(export.path, "CPU", self._settings)
        request = compiled.create_infer_request()

        def forward(x: Array) -> Array:
            logits: Array = request.infer({0: x}, share_inputs=True)[0]
            return logits

        about, size = export.about, export.path.stat().st_size
        return ImageRunner(forward, about.preprocessing, about.classes, size)
