"""Malformed requests of the inference protocol: refused in words, or requests after all.

`python -m benchmarks fuzz` tries the codec. With a daemon, over real sockets and with broken HTTP as well:

    python -m benchmarks.fuzz http://127.0.0.1:8757 100000
"""

from __future__ import annotations

import argparse
import time

from .harness import Row
from .malformed import try_codec, try_daemon


def run(quick: bool = False) -> list[Row]:
    """Return how many bodies the codec withstood, and at which rate."""
    count = 3_000 if quick else 1_000_000
    began = time.perf_counter()
    seen = try_codec(count)
    taken = time.perf_counter() - began
    return [
        Row("bodies withstood", sum(seen.values()), "bodies", "more"),
        Row("of which refused in words", 1 - seen["request"] / count, "share", "more"),
        Row("making and reading them", count / taken, "1/s", "more"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    print(dict(sorted(try_daemon(arguments.url, arguments.count).items())))
