"""An exported network in int8: static quantisation by ONNX Runtime, which OpenVINO reads as well.

Activations are unsigned with one range a tensor, the range seen on the pictures; weights are signed with one
scale a channel. Processors without VNNI add the products of two neighbours in 16 bits; 255 · (a + b) does not
fit there where the weights a + b pass 128, and is cut off silently. So 127 stands not for the largest weight
of a channel but for its largest sum of two neighbours, and answers are the same on every processor. That
costs half a decibel, where halving all weights (`reduce_range`) costs 5.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...errors import MissingExtraError
from . import Array

try:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError:
    raise MissingExtraError("quantising a model", "onnx") from None

_BLOCK = 4  # kernels take so many neighbouring input channels at once


def quantize(
    network: Path, pictures: Sequence[Array], preprocess: Callable[[Array], Array], into: Path
) -> None:
    """Write the int8 form of the exported `network`, its ranges found on `pictures`, to `into`."""
    logging.getLogger().setLevel(logging.ERROR)  # it advises what is done here
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(network), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            prepared,
            into,
            _Pictures({"image": preprocess(picture)} for picture in pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": _overrides(onnx.load(prepared))},
        )


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Inputs one after the other, as the quantiser asks for them."""

    def __init__(self, inputs: Iterator[dict[str, Array]]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, Array] | None:
        """Return the next input, None after the last."""
        return next(self._inputs, None)


def _overrides(model: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the scales of the weights that are multiplied in pairs: all but the depthwise ones."""
    weights = {i.name: i for i in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = onnx.numpy_helper.to_array(weights[node.input[1]])
        how = {a.name: a.i for a in node.attribute}
        if how.get("group", 1) > 1 or (node.op_type == "Gemm" and not how.get("transB")):
            continue
        found[node.input[1]] = [
            {
                "quant_type": QuantType.QInt8,
                "axis": 0,
                "symmetric": True,
                "rmin": np.float32(-widest),
                "rmax": np.float32(widest),
            }
            for widest in _widest(weight)
        ]
    return found


def _widest(weight: Array) -> Array:
    """Return (O,): the value that 127 stands for, for weights (O, I, …).

    The largest |a + b| of two weights of one sign in a block of four neighbouring inputs, or anywhere in the
    channel where I is no multiple of four. Rounded, such a sum is at most 128, and 255 · 128 fits 16 bits.
    """
    outputs, inputs = weight.shape[:2]
    by_place = weight.reshape(outputs, inputs, -1).transpose(0, 2, 1)
    blocks = by_place.reshape(outputs, -1, _BLOCK if inputs % _BLOCK == 0 else by_place[0].size)
    pairs = np.maximum(_two_largest(blocks), _two_largest(-blocks)).max(axis=1)
    widest: Array = np.maximum(pairs, np.finfo(np.float32).tiny)  # a channel may be all zeros
    return widest


def _two_largest(blocks: Array) -> Array:
    """Return the sum of the two largest of each block (…, n), negative ones counted as 0."""
    two: Array = np.sort(np.maximum(blocks, 0), axis=-1)[..., -2:].sum(axis=-1)
    return two
