"""Run the benchmarks that are named, or all: `python -m benchmarks [NAME …] [--quick]`."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import import_module

from adaphi.model_zoo.profiling import device_name

from .harness import show

NAMES = (
    "decision",
    "replay",
    "requests",
    "fleet",
    "queue",
    "fidelity",
    "solver",
    "policy",
    "bound",
    "certificate",
    "resident",
    "battery",
    "heat",
    "environments",
    "blur",
    "fuzz",
    "backends",
    "serving",
    "overload",
    "batching",
    "loading",
    "cuda",
    "mixed",
)
LONG = ("faults", "storm", "growth", "pressure", "hardware")
"""Trials of a daemon that take long, run by name alone, each with options of its own (`--help`)."""


def main() -> None:
    """Parse the arguments, run, print."""
    if sys.argv[1:] and sys.argv[1] in LONG:
        import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"any of {', '.join(NAMES)}; alone: {', '.join(LONG)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that all of it runs"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"no benchmark is called {name!r}; there are {', '.join(NAMES)}")
    print(f"{device_name()}, Python {platform.python_version()}; one thread each")
    for name in arguments.names or NAMES:
        module = import_module(f"benchmarks.{name}")
        show(f"{name}: {(module.__doc__ or '').splitlines()[0]}", module.run(arguments.quick))


if __name__ == "__main__":
    main()
