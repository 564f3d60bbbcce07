"""The inference protocol's codec: bytes in, a request or a clear error out; Triton's client reads answers."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaphi.controller import oip
from adaphi.controller.protocol import AnswerHeader, InferHeader, tensor_of
from adaphi.errors import InvalidRequest, ProtocolError, RequestError, TooLarge
from adaphi.model_zoo.profile import describe, read_description

PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


def body(**changes: Any) -> bytes:
    """Return a request whose image is JSON, with changes to its one input."""
    tensor = {"name": "image", "shape": [2, 2, 3], "datatype": "UINT8", "data": PIXELS.tolist()}
    return json.dumps({"inputs": [tensor | changes]}).encode()


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(), st.sampled_from(["", "flat", "nested"]))
def test_an_image_is_the_same_in_every_form(height: int, width: int, draw: Any, form: str) -> None:
    """Binary, flat and nested: the array is the one that was written."""
    image = np.frombuffer(draw.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
    tensor: dict[str, Any] = {"name": "image", "shape": image.shape, "datatype": "UINT8"}
    if form:
        tensor["data"] = image.tolist() if form == "nested" else image.ravel().tolist()
    else:
        tensor["parameters"] = {"binary_data_size": image.nbytes}
    text = json.dumps({"inputs": [tensor], "id": "é"}, ensure_ascii=False).encode()
    asked = oip.read(text + (b"" if form else image.tobytes()), None if form else str(len(text)))
    np.testing.assert_array_equal(asked.tensor, image)
    assert asked.tensor.dtype == np.uint8 and asked.id == "é"


@pytest.mark.parametrize("dtype", sorted(oip.DATATYPES.values()))
def test_what_one_interface_carries_the_other_carries(dtype: str) -> None:
    """Every type of number that can be asked with, or answered, over HTTP can be over ZeroMQ."""
    sent = np.arange(6).reshape(2, 3).astype(dtype)
    header = InferHeader(id=1, dtype=dtype, shape=sent.shape)
    heard = tensor_of(header, [sent.tobytes()])
    np.testing.assert_array_equal(heard, sent)
    assert heard.dtype == sent.dtype


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": [[[1, 2, 3]] * 2, [[1, 2, 3], [4, 5]]]}, "12 elements"),
        ({"data": [[1, 2, 3], [4, 5, 6], [1, 2, 3], [4, 5, 6]]}, "12 elements"),
        ({"data": [[[1, 2, 3]] * 2, [[1, 2, 3, 4], [5, 6]]]}, "12 elements"),
        ({"data": [1] * 11}, "12 elements"),
        ({"data": [256] + [1] * 11}, "256"),
        ({"data": [-1] + [1] * 11}, "-1"),
        ({"data": [1.5] + [1] * 11}, "Expected `int`, got `float`"),
        ({"data": [True] + [1] * 11}, "Expected `int`, got `bool`"),
        ({"data": ["[,]"] + [1] * 9}, "12 elements|Expected `int`"),
        ({"data": {"a": [1] * 12}}, "12 elements|Expected"),
        ({"data": None}, "12 elements"),
        ({"shape": [2, 2, 3] * 3}, "length <= 8"),
        ({"shape": [2**53, 2**53, 3]}, "elements"),
        ({"shape": [0, 2, 3]}, ">= 1"),
        ({"datatype": "BYTES"}, "datatype 'BYTES'"),
        ({"name": "x"}, "expected one input, 'image'; got 'x'"),
        ({"parameters": {"binary_data_size": 12}}, "12, and 0 are there"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said(changes: dict[str, Any], said: str) -> None:
    """Every error names what was expected or found."""
    with pytest.raises((InvalidRequest, ProtocolError), match=said):
        oip.read(body(**changes), None)


def test_lengths_have_to_agree() -> None:
    """Bytes left over, missing or claimed twice are errors; so is too much JSON beside binary tensors."""
    tensor = {"name": "image", "shape": [2, 2, 3], "datatype": "UINT8"}
    text = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 12}}]}).encode()
    assert oip.read(text + bytes(12), str(len(text))).tensor.sum() == 0
    for raw, length in ((bytes(13), len(text)), (bytes(11), len(text)), (bytes(12), len(text) + 1)):
        with pytest.raises((InvalidRequest, ProtocolError)):
            oip.read(text + raw, str(length))
    for length in ("", "-1", "1e3", "٣", str(len(text) + 13), "9" * 5000):
        with pytest.raises(ProtocolError, match="Inference-Header-Content-Length"):
            oip.read(text + bytes(12), length)
    with pytest.raises(InvalidRequest, match="not both"):
        both = body(parameters={"binary_data_size": 12})
        oip.read(both + bytes(12), str(len(both)))
    with pytest.raises(TooLarge):
        oip.read(text + b" " * 70_000, str(len(text) + 70_000))


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20),
    st.integers(0, 25),
    st.booleans(),
)
def test_tritons_client_reads_the_answers(logits: list[float], classes: int, binary: bool) -> None:
    """The client's own result class finds the same numbers, or the largest in order, in both forms."""
    tritonclient = pytest.importorskip("tritonclient.http")
    output = np.array(logits, np.float32)
    asked = oip.Asked("7", PIXELS, oip.Parameters(), classes, binary)
    header = AnswerHeader(1, 2, "v2", 3.0, 1.0, 2.0, False, "float32", output.shape)
    text, raw = oip.answer(asked, "three", 0.8, header, output)
    result = tritonclient.InferResult.from_response_body(
        text + raw, header_length=len(text) if binary else None
    )
    found = result.as_numpy("logits")
    if classes:
        rows = [str(row if isinstance(row, str) else row.decode()) for row in found.tolist()]
        index = [int(row.split(":")[1]) for row in rows]
        assert len(index) == len(set(index)) == min(classes, len(logits))
        np.testing.assert_array_equal(output[index], np.sort(output)[::-1][: len(index)])
    else:
        np.testing.assert_array_equal(found, output)
    parameters = result.get_response()["parameters"]
    assert (parameters["variant"], parameters["quality"], parameters["late"]) == ("v2", 0.8, False)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 8))
def test_of_many_answers_each_has_its_own_classes(rows: int, classes: int, count: int) -> None:
    """What is largest in a row is what it would be in that row alone."""
    output = np.random.default_rng(rows).integers(-9, 9, (rows, classes)).astype(np.float32)
    found, shape = oip.classification(output, count, [])
    assert shape == (rows, min(count, classes))
    assert found == [text for row in output for text in oip.classification(row, count, [])[0]]


@pytest.mark.parametrize("shape", [(), (1,), (480, 640, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "bool"])
def test_a_profile_tells_what_it_was_measured_on(shape: tuple[int, ...], dtype: str) -> None:
    """An array's dtype and shape come back from the words; from other words, nothing does."""
    array = np.zeros(shape, dtype)
    assert read_description(describe(array)) == (array.dtype, shape)
    for words in (None, "", "pictures", "3 apples", "3x4 uint8", "-1 int64"):
        assert read_description(words) is None


def test_thousands_of_malformed_bodies_are_refused_in_words(malformed: ModuleType) -> None:
    """Random and nearly sound bodies: a request or a `RequestError`, never anything else."""
    seen = malformed.try_codec(4000, seed=1)
    assert seen["protocol"] > 1000 and seen["invalid_request"] > 100 and seen["request"] > 100


def test_every_error_has_a_status() -> None:
    """A client's mistake is 4xx, what may be otherwise in a moment 503."""
    found = {error.code: oip.status_of(error("x")) for error in RequestError.__subclasses__()}
    assert {code for code, status in found.items() if status == 503} == {
        *("busy", "shed", "not_ready", "draining", "worker_lost", "no_answer")
    }
    assert found["expired"] == 504 and found["too_large"] == 413 and found["model_failed"] == 500
