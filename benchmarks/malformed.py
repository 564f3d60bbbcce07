"""Malformed requests of the inference protocol, random and nearly sound, and what becomes of them.

Used by the benchmark `fuzz` and by the tests.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import re
import socket
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from adaphi.controller import oip
from adaphi.errors import RequestError

MODEL = "efficientnet-lite"
ODD: list[Any] = [
    *(None, True, 0, 1, -1, 3.5, 1e308, -0.0, 2**31, 2**53, 2**63, 2**64, 10**400),
    *("", "image", "logits", "UINT8", "BYTES", "FP16", "BOOL", "\x00", "é" * 300, "[[[", "8" * 99),
    *([], {}, [[]], [None], [[1], [2, 3]], [1] * 5000, {"binary_data_size": 1}, [{}]),
]


def paths(model: str) -> tuple[str, ...]:
    """Return where requests go, the first of them right."""
    return (
        f"/v2/models/{model}/infer",
        f"/v2/models/{model}/versions/x/infer",
        "/v2/models//infer",
        "/v2/repository/index",
        f"/v2/repository/models/{model}/unload",
        "/v2/repository/models/%00/load",
        "/v2/models/stats",
        "/v2/health/ready",
        "/v2/%f0%28%8c/%ff",
        "/",
        "/metrics",
    )


def sound(draw: random.Random) -> tuple[dict[str, Any], bytes]:
    """Return the JSON and the raw tensor of a sound request, which has no time to be answered."""
    height, width = draw.randint(1, 4), draw.randint(1, 4)
    pixels = draw.randbytes(height * width * 3)
    tensor: dict[str, Any] = {"name": "image", "shape": [height, width, 3], "datatype": "UINT8"}
    request = {"id": "1", "inputs": [tensor], "parameters": {"timeout": 1, "priority": 2}}
    if draw.random() < 0.5:
        request["outputs"] = [{"name": "logits", "parameters": {"classification": 3}}]
    if draw.random() < 0.5:
        tensor["data"] = list(pixels)
        return request, b""
    tensor["parameters"] = {"binary_data_size": len(pixels)}
    return request, pixels


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) in a JSON document, outer ones first."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in list(keys):
        yield node, key
        yield from places(node[key])


def bend(draw: random.Random, document: dict[str, Any]) -> None:
    """Change one place of a document: another value, nothing, or the same twice."""
    if not document:
        return
    container, key = draw.choice(list(places(document)))
    kind = draw.random()
    if kind < 0.7:
        container[key] = copy.deepcopy(draw.choice(ODD))
    elif kind < 0.85:
        del container[key]
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[key] = [container[key]] * 2


def bodies(seed: int) -> Iterator[tuple[bytes, str | None]]:
    """Yield bodies and what the header Inference-Header-Content-Length says of them, without end."""
    draw = random.Random(seed)
    while True:
        if draw.random() < 0.1:
            yield draw.randbytes(draw.randint(0, 300)), draw.choice([None, "0", "7", "x", "-1"])
            continue
        document, raw = sound(draw)
        for _ in range(draw.choice((0, 1, 1, 2, 4))):
            bend(draw, document)
        text = json.dumps(document).encode()
        body, length = text + raw, str(len(text)) if raw else None
        kind = draw.random()
        if kind < 0.1:
            body = body[: draw.randint(0, len(body))]
        elif kind < 0.2:
            place = draw.randrange(len(body))
            body = body[:place] + draw.randbytes(draw.randint(1, 8)) + body[place + 4 :]
        elif kind < 0.25:
            place = draw.randrange(len(body))
            body = body[:place] + draw.choice((b"[", b'{"a":', b"\xff")) * 3000 + body[place:]
        elif kind < 0.35:
            length = draw.choice([None, "", "0", "-5", "1e3", "99999999999", str(len(body) + 1)])
        yield body, length


def try_codec(count: int, seed: int = 0) -> Counter[str]:
    """Give `count` bodies to the codec; count what became of them. Any other exception is a finding."""
    seen: Counter[str] = Counter()
    for (body, length), _ in zip(bodies(seed), range(count), strict=False):
        try:
            asked = oip.read(body, length)
        except RequestError as error:
            seen[error.code] += 1
        else:
            seen["request"] += 1
            assert asked.tensor.nbytes <= len(body)
    return seen


# -------------------------------------------------------------------------------- over sockets


def framed(seed: int, model: str = MODEL) -> Iterator[bytes]:
    """Yield requests of sound framing, so that the connection lives on, and with little else, without end."""
    draw = random.Random(seed)
    for body, length in bodies(seed):
        yield b"\r\n".join(_head(draw, body, length, model)) + b"\r\n\r\n" + body


def requests(seed: int, model: str = MODEL) -> Iterator[bytes]:
    """Yield whole HTTP requests, most of them broken somewhere, without end."""
    draw = random.Random(seed)
    for body, length in bodies(seed):
        body, coded = _encoded(draw, body)
        claimed = len(body) if draw.random() < 0.95 else draw.choice([0, max(0, len(body) - 1), -1])
        head = b"\r\n".join(
            [*_head(draw, body, length, model, claimed), b"Connection: close", *coded]
        )
        if draw.random() < 0.05:
            place = draw.randrange(len(head))
            head = head[:place] + draw.randbytes(draw.randint(1, 20)) + head[place:]
        yield head + b"\r\n\r\n" + body


def _head(
    draw: random.Random, body: bytes, length: str | None, model: str, claimed: int | None = None
) -> list[bytes]:
    """Return the lines of a head that claims `claimed` bytes to follow (None: as many as there are)."""
    targets = paths(model)
    path = targets[0] if draw.random() < 0.7 else draw.choice(targets)
    method = "POST" if draw.random() < 0.9 else draw.choice(["GET", "PUT", "PATCH", "PURGE"])
    size = len(body) if claimed is None else claimed
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", b"Content-Length: %d" % size]
    if length is not None:
        lines.append(b"Inference-Header-Content-Length: " + length.encode())
    return lines


def _encoded(draw: random.Random, body: bytes) -> tuple[bytes, list[bytes]]:
    """Return a body, perhaps compressed or said to be, and the header that says so."""
    if draw.random() >= 0.2:
        return body, []
    name, packed = draw.choice(
        [("gzip", gzip.compress(body)), ("deflate", zlib.compress(body)), ("br", body)]
    )
    if draw.random() < 0.3:
        packed = packed[: draw.randint(0, len(packed))] + draw.randbytes(3)
    return packed, [b"Content-Encoding: " + name.encode()]


def exchange(host: str, port: int, request: bytes) -> int:
    """Send one request; return the answer's status, after a look at its form; 0 if none came in a second.

    There is none where the request promises more than it brings: the daemon waits for the rest.
    """
    with socket.create_connection((host, port), timeout=1) as connection:
        received = b""
        try:
            connection.sendall(request)
            while chunk := connection.recv(65536):
                received += chunk
        except OSError:  # closed while we were sending, or nothing more in time
            pass
    if not received:
        return 0
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    length = re.search(rb"content-length: (\d+)", head)
    if (
        status >= 400 and length and body
    ):  # what follows answers bytes beyond the request's own length
        assert json.loads(body[: int(length[1])])["error"], received
    return status


def try_daemon(url: str, count: int, seed: int = 0) -> Counter[int]:
    """Send `count` requests to a daemon; count the statuses. Raises where an answer has not its form."""
    at = urlsplit(url)
    assert at.hostname and at.port
    sent = zip(requests(seed), range(count), strict=False)
    return Counter(exchange(at.hostname, at.port, request) for request, _ in sent)
