"""One series out of Prometheus: asked for over HTTP, or read from a saved answer.

Both are what `/api/v1/query_range` answers: JSON, with times in seconds and values as strings. Samples that
are no finite numbers, as a quantile of nothing is, are left out, so there is a gap where they were.
"""

from __future__ import annotations

import http.client
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError

Floats = NDArray[np.float64]

MOST_POINTS = 11_000
"""What Prometheus answers at a time; longer ranges are asked for piece by piece."""
_TIMEOUT_S = 30.0
_ONE = "narrow the query to one series, with labels or with an aggregation like max(…)"


@dataclass(frozen=True)
class Series:
    """One series: `time_s` (T,) from 0, `value` (T,); `left_out` samples were no finite numbers."""

    time_s: Floats
    value: Floats
    left_out: int


class _Samples(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]] = []


class _Data(msgspec.Struct):
    resultType: str
    result: msgspec.Raw


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


def read_range(path: str | Path) -> Series:
    """Return the one series of a saved answer; raise `TraceError` naming the file and the place in it."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    return _one_series(_decode(content, str(path)), str(path))


def query_range(url: str, query: str, start_s: float, end_s: float, step_s: float) -> Series:
    """Return one series of the Prometheus at `url` (http:// or https://), from `start_s` to `end_s`.

    Times are in seconds since 1970. Raises `TraceError` with what the server said.
    """
    if not url.startswith(("http://", "https://")):
        raise TraceError(f"{url}: expected the address of a Prometheus, http://HOST:9090")
    if not (math.isfinite(start_s) and math.isfinite(end_s) and start_s < end_s and step_s >= 1e-3):
        raise TraceError(f"a range from {start_s:g} s to {end_s:g} s by {step_s:g} s is none")
    samples: list[_Samples] = []
    for first_s, last_s in _pieces(start_s, end_s, step_s):
        asked = {"query": query, "start": first_s, "end": last_s, "step": step_s}
        address = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        samples += _decode(_get(address, url), url)
    return _one_series(samples, url)


def _pieces(start_s: float, end_s: float, step_s: float) -> Iterator[tuple[float, float]]:
    """Yield (first, last) of ranges that have no more points than Prometheus answers at a time."""
    points = math.floor((end_s - start_s) / step_s + 1e-9) + 1
    for point in range(0, points, MOST_POINTS):
        last = min(point + MOST_POINTS, points) - 1
        yield start_s + point * step_s, start_s + last * step_s


def _get(address: str, url: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        body = error.read()
        if error.code in (400, 422, 503) and body.startswith(b"{"):
            return body  # JSON that says what is wrong with the query
        raise TraceError(f"{url}: HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise TraceError(f"{url}: no Prometheus answers there ({why})") from None


def _decode(content: bytes, where: str) -> list[_Samples]:
    """Return the series of an answer; raise `TraceError` for what is none."""
    try:
        answer = msgspec.json.decode(content, type=_Answer)
        if answer.status != "success" or answer.data is None:
            raise TraceError(f"{where}: Prometheus says: {answer.error or answer.status}")
        if answer.data.resultType != "matrix":
            raise TraceError(
                f"{where}: expected a matrix, found a {answer.data.resultType}",
                help="ask /api/v1/query_range, and for an expression without [range]",
            )
        return msgspec.json.decode(answer.data.result, type=list[_Samples])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"{where}: not an answer of /api/v1/query_range ({error})") from None


def _one_series(samples: list[_Samples], where: str) -> Series:
    labels = {tuple(sorted(part.metric.items())) for part in samples if part.values}
    if len(labels) != 1:
        names = [
            "{" + ", ".join(f'{k}="{v}"' for k, v in label) + "}" for label in sorted(labels)[:3]
        ]
        found = f"{len(labels)} series ({', '.join(names)}, …)" if labels else "no samples"
        raise TraceError(f"{where}: expected one series, found {found}", help=_ONE)
    pairs = [pair for part in samples for pair in part.values]
    try:
        value = np.array([float(text) for _, text in pairs])
    except ValueError as error:
        raise TraceError(f"{where}: a sample is no number: {error}") from None
    time_s = np.array([at for at, _ in pairs])
    known = np.isfinite(value)
    if not known.any():
        raise TraceError(f"{where}: none of {len(value)} samples is a finite number")
    time_s, left_out = time_s[known], int((~known).sum())
    # Prometheus counts milliseconds; rounding takes back what the difference of large numbers lost.
    return Series(np.round(time_s - time_s[0], 3), value[known], left_out)
