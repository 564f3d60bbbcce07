"""The Open Inference Protocol v2 as bytes: requests read, answers formed. No sockets, no HTTP framework.

A body is JSON, or, with the binary tensor extension, as many bytes of JSON as a header says, followed by
the raw tensors (little-endian, row-major) in the order of `inputs`. An image is one input, `image`, UINT8
(height, width, 3); what is no image is called `input`. The answer is one output, `logits` (classes,), or its
likeliest classes as strings.

Sources: the specification, github.com/kserve/open-inference-protocol; Triton's extensions binary_data,
schedule_policy, classification, parameters and statistics, github.com/triton-inference-server/server.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ..errors import InvalidRequest, ProtocolError, RequestError, TooLarge
from .protocol import MAX_AXES, MAX_HEADER_BYTES, AnswerHeader

IMAGE_NAME, INPUT_NAME, OUTPUT = "image", "input", "logits"
MAX_JSON_BYTES = 16_000_000
"""What a body without binary tensors may have: numbers as text are slow to read."""
MAX_CLASSES = 1000

DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
"""Names of the protocol's datatypes in numpy; BYTES and BF16 are not taken."""
_NAMES = {np.dtype(numpy): name for name, numpy in DATATYPES.items()}
_LISTS: dict[str, Any] = {"b": list[bool], "i": list[int], "u": list[int], "f": list[float]}
_NOT_LAYOUT = bytes(set(range(256)) - set(b"[],"))

STATUS = {
    "invalid_request": 400,
    "protocol": 400,
    "not_allowed": 403,
    "too_large": 413,
    "model_failed": 500,
    "expired": 504,
}
"""HTTP's status for an error's code; what may be otherwise a moment later is 503."""

Size = Annotated[int, Meta(ge=0, le=2**53)]
Side = Annotated[int, Meta(ge=1, le=2**53)]


class Parameters(msgspec.Struct, frozen=True):
    """A request's parameters: `timeout` in µs and `deadline_ms` count from arrival; others are ignored."""

    timeout: Size = 0
    deadline_ms: float | None = None
    priority: Size = 0
    variant: str | int | None = None
    min_quality: float | None = None
    reading_ms: float | None = None
    blur_px: float | None = None
    binary_data_output: bool = False

    @property
    def budget_ms(self) -> float | None:
        """Return the time from arrival to answer; `timeout` counts before `deadline_ms`, None if neither."""
        return self.timeout / 1e3 if self.timeout else self.deadline_ms


class InputParameters(msgspec.Struct, frozen=True):
    """Where an input's data is, if not in the JSON."""

    binary_data_size: Size | None = None
    shared_memory_region: str | None = None


class Input(msgspec.Struct, frozen=True):
    """An input tensor; `data` is undecoded JSON."""

    name: str
    shape: Annotated[tuple[Side, ...], Meta(max_length=MAX_AXES)]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: InputParameters = InputParameters()


class OutputParameters(msgspec.Struct, frozen=True):
    """How an output is wanted; `classification` is a number of classes, 0 for the tensor itself."""

    binary_data: bool | None = None
    classification: Annotated[int, Meta(ge=0, le=MAX_CLASSES)] = 0
    shared_memory_region: str | None = None


class Output(msgspec.Struct, frozen=True):
    """An output that is asked for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferBody(msgspec.Struct, frozen=True):
    """The JSON of a request."""

    inputs: list[Input]
    outputs: list[Output] = []
    parameters: Parameters = Parameters()
    id: str = ""


class RepositoryBody(msgspec.Struct, frozen=True):
    """The JSON of a request to the model repository; an empty body is the same as `{}`."""

    ready: bool = False
    parameters: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a model takes, or gives: a tensor's name, its datatype, and its shape with -1 for any side."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def metadata(self) -> dict[str, Any]:
        """Return it as a model's metadata has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape}

    @property
    def configuration(self) -> dict[str, Any]:
        """Return it as Triton's model configuration has it."""
        return {"name": self.name, "data_type": f"TYPE_{self.datatype}", "dims": self.shape}


IMAGE = Kind(IMAGE_NAME, "UINT8", (-1, -1, 3))
LOGITS = Kind(OUTPUT, "FP32", (-1,))


def kind_of(name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> Kind:
    """Return the kind of which an array of `dtype` and `shape` is an example: every side may differ."""
    return Kind(name, _NAMES.get(dtype, dtype.name.upper()), (-1,) * len(shape))


@dataclass(frozen=True, slots=True)
class Asked:
    """An inference as it was asked for; `classes` is 0 where the tensor itself is wanted."""

    id: str
    tensor: NDArray[Any]
    parameters: Parameters
    classes: int
    binary: bool


Body = TypeVar("Body", bound=msgspec.Struct)


def decode(kind: type[Body], text: bytes | memoryview) -> Body:
    """Return a JSON body; raise `ProtocolError` saying where it is wrong."""
    try:
        decoded: Body = _decoder(kind).decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the JSON cannot be used: {error}") from None
    return decoded


@cache
def _decoder(kind: type[Body]) -> msgspec.json.Decoder[Body]:
    return msgspec.json.Decoder(kind)


# -------------------------------------------------------------------------------- requests


def read(
    body: bytes | bytearray | memoryview, header_length: str | None, name: str = IMAGE_NAME
) -> Asked:
    """Return what a body asks for; `header_length` is the header Inference-Header-Content-Length.

    The one input is called `name`. Tensors are views of the body. Raises `ProtocolError`, `InvalidRequest` or
    `TooLarge`.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    if length > (MAX_JSON_BYTES if header_length is None else MAX_HEADER_BYTES):
        raise TooLarge(
            f"a body has at most {MAX_HEADER_BYTES} bytes of JSON beside binary tensors, "
            f"{MAX_JSON_BYTES} without; got {length}"
        )
    view = memoryview(body)
    asked = decode(InferBody, view[:length])
    tensors = _tensors(asked.inputs, view[length:])
    if [i.name for i in asked.inputs] != [name]:
        names = ", ".join(repr(i.name[:50]) for i in asked.inputs[:5])
        raise InvalidRequest(f"expected one input, {name!r}; got {names or 'none'}")
    output = _wanted(asked.outputs)
    binary = output.binary_data
    return Asked(
        id=asked.id,
        tensor=tensors[0],
        parameters=asked.parameters,
        classes=output.classification,
        binary=asked.parameters.binary_data_output if binary is None else binary,
    )


def _length(text: str, total: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12) or int(text) > total:
        raise ProtocolError(
            f"Inference-Header-Content-Length is {text[:20]!r}; expected at most the body's {total} bytes"
        )
    return int(text)


def _tensors(inputs: Sequence[Input], raw: memoryview) -> list[NDArray[Any]]:
    """Return the tensors of `inputs`, those that are binary from `raw`, which they use up."""
    tensors = []
    for place, tensor in enumerate(inputs):
        path = f"`$.inputs[{place}]`"
        if tensor.datatype not in DATATYPES:
            raise InvalidRequest(
                f"datatype {tensor.datatype[:20]!r} is not one of {', '.join(DATATYPES)} - at {path}"
            )
        if tensor.parameters.shared_memory_region is not None:
            raise InvalidRequest(f"shared memory is not supported - at {path}")
        size = tensor.parameters.binary_data_size
        if size is None:
            tensors.append(_from_json(tensor, path))
        else:
            tensors.append(_from_binary(tensor, raw[:size], path))
            raw = raw[size:]
    if raw.nbytes:
        raise InvalidRequest(f"{raw.nbytes} bytes follow the last binary tensor")
    return tensors


def _from_binary(tensor: Input, raw: memoryview, path: str) -> NDArray[Any]:
    dtype = np.dtype(DATATYPES[tensor.datatype]).newbyteorder("<")
    needs = math.prod(tensor.shape) * dtype.itemsize
    if not needs == raw.nbytes == tensor.parameters.binary_data_size:
        raise InvalidRequest(
            f"shape {list(tensor.shape)} of {tensor.datatype} needs {needs} bytes, binary_data_size is "
            f"{tensor.parameters.binary_data_size}, and {raw.nbytes} are there - at {path}"
        )
    if len(tensor.data):
        raise InvalidRequest(f"a tensor has data or binary_data_size, not both - at {path}")
    return np.frombuffer(raw, dtype=dtype).reshape(tensor.shape)


def _from_json(tensor: Input, path: str) -> NDArray[Any]:
    """Return a tensor from a list that is flat, or nested as the shape says.

    The nesting is compared as text and then taken away: many small lists are slow to make.
    """
    text, shape, dtype = bytes(tensor.data), tensor.shape, np.dtype(DATATYPES[tensor.datatype])
    count = math.prod(shape)
    layout = text.translate(None, _NOT_LAYOUT)
    if count > len(text) or layout not in (_layout((count,)), _layout(shape)):
        raise InvalidRequest(
            f"data is a list of {count} elements, flat or nested as the shape {list(shape)} - at {path}"
        )
    try:
        flat = _list_decoder(dtype.kind).decode(b"[%b]" % text.translate(None, b"[]"))
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=dtype).reshape(shape)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"{error} in the flat data - at {path}") from None


def _layout(shape: Sequence[int]) -> bytes:
    """Return the brackets and commas of a nested list."""
    inner = b""
    for side in reversed(shape):
        inner = b"[%b]" % b",".join([inner] * side)
    return inner


@cache
def _list_decoder(kind: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_LISTS[kind])


def _wanted(outputs: Sequence[Output]) -> OutputParameters:
    if not outputs:
        return OutputParameters()
    if [o.name for o in outputs] != [OUTPUT]:
        names = ", ".join(repr(o.name[:50]) for o in outputs[:5])
        raise InvalidRequest(f"there is one output, {OUTPUT!r}; asked for {names}")
    if outputs[0].parameters.shared_memory_region is not None:
        raise InvalidRequest("shared memory is not supported - at `$.outputs[0]`")
    return outputs[0].parameters


# -------------------------------------------------------------------------------- answers


def answer(
    asked: Asked, model: str, quality: float, header: AnswerHeader, output: NDArray[Any]
) -> tuple[bytes, bytes]:
    """Return the JSON of an answer and the raw bytes that follow it (b"" if it is all JSON)."""
    tensor: dict[str, Any] = {"name": OUTPUT}
    if asked.classes:
        labels, shape = classification(output, asked.classes, [name for name, _ in header.top])
        tensor |= {"datatype": "BYTES", "shape": shape}
        raw = b"".join(struct.pack("<I", len(b)) + b for b in map(str.encode, labels))
    else:
        labels = []
        tensor |= {"datatype": _NAMES[output.dtype], "shape": list(output.shape)}
        raw = output.tobytes() if asked.binary else b""
    if asked.binary:
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = labels if asked.classes else output.ravel().tolist()
    whole = {
        "model_name": model,
        "model_version": path_name(header.name),
        "id": asked.id,
        "parameters": {
            "variant": path_name(header.name),
            "phi": header.phi,
            "quality": quality,
            "latency_ms": header.latency_ms,
            "queue_ms": header.queue_ms,
            "inference_ms": header.inference_ms,
            "late": header.late,
        },
        "outputs": [tensor],
    }
    return msgspec.json.encode(whole), raw if asked.binary else b""


def classification(
    output: NDArray[Any], count: int, names: Sequence[str]
) -> tuple[list[str], tuple[int, ...]]:
    """Return the `count` largest of `output` (…, classes) as "value:index:name", and their shape (…, count).

    They are in one flat list; where no names are known, these are left out.
    """
    rows = np.atleast_1d(output)
    best = np.argsort(-rows.astype(np.float64), axis=-1, kind="stable")[..., :count]
    values = np.take_along_axis(rows, best, axis=-1)
    found = [f"{v:f}:{index}" for v, index in zip(values.flat, best.flat, strict=True)]
    if names:
        found = [f"{f}:{name}" for f, name in zip(found, names, strict=True)]
    return found, best.shape


def path_name(name: str) -> str:
    """Return a ladder's or a variant's name as one that can stand in a path."""
    return name.replace("/", "_")


def status_of(error: RequestError) -> int:
    """Return HTTP's status for an error."""
    return STATUS.get(error.code, 503)
