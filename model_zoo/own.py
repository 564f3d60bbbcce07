"""Ladders of your own code: `python:MODULE:FUNCTION`, a function without arguments that returns variants.

    # networks.py, installed or in the folder where the daemon is started
    def ladder() -> list[OwnVariant]:
        return [OwnVariant(0, "small", 0.70, load=small), OwnVariant(1, "large", 0.76, load=large)]

`load` is called in the worker when the variant becomes resident and returns what answers: image in
(height × width × 3, uint8), array out. It may use any framework, or none. If what it returns has a method
`batch`, images of one size (k × height × width × 3) in and k answers out, requests can be answered together.
If it has an array `example`, requests bring no image but an array of the same dtype and number of axes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ..errors import LadderError
from .backends import Array
from .variants import Ladder, Origin, Variant, Weights

PREFIX = "python:"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnVariant(Variant):
    """A variant that `load` brings into memory; `classes` names its outputs, if they are logits."""

    load: Callable[[], Callable[[Array], Array]]
    classes: tuple[str, ...] = ()
    quality_origin: Origin = "stated"
    weights: Weights = "own"


def own_ladder(name: str) -> Ladder:
    """Return the ladder called `python:MODULE:FUNCTION`; raise `LadderError` if there is none."""
    module_name, _, function_name = name.removeprefix(PREFIX).partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        variants = tuple(getattr(import_module(module_name), function_name)())
    except Exception as error:  # the module is the user's: it may raise anything
        raise LadderError(
            f"ladder {name!r}: {type(error).__name__}: {error}",
            help="write python:MODULE:FUNCTION; the module is installed or in the present folder",
        ) from None
    for variant in variants:
        if not isinstance(variant, OwnVariant):
            raise LadderError(
                f"ladder {name!r}: expected OwnVariant, got {type(variant).__name__}",
                help="return a list of adaphi.model_zoo.OwnVariant",
            )
    return Ladder(name, variants)
