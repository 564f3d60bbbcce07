"""A ladder in a TOML file, as `adaphi plan ladder` writes it and anyone may edit it.

[[variant]]                       # in order of cost
model = "tf_efficientnet_lite0"   # as timm calls it
quality = 0.751                   # in [0, 1]
origin = "published"              # of the quality: published, measured, modelled or stated
weights = "package"               # package, hub, or none (random)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ..errors import InputError, LadderError
from .variants import Ladder, Origin, Variant

SUFFIX = ".toml"


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    quality: Annotated[float, msgspec.Meta(ge=0, le=1)]
    origin: Origin = "stated"
    weights: Literal["package", "hub", "none"] = "hub"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    variant: Annotated[list[_Row], msgspec.Meta(min_length=1)]


def read_ladder(path: str | Path) -> Ladder:
    """Return the ladder in `path`, called by its absolute path; raise `LadderError`."""
    path = Path(path).resolve()
    try:
        rows = msgspec.toml.decode(path.read_bytes(), type=_File).variant
    except OSError as error:
        raise LadderError(
            f"{path}: {error.strerror}", help="write one with `adaphi plan ladder -o ladder.toml`"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LadderError(f"{path}: {error}") from None
    return Ladder(
        str(path),
        tuple(
            Variant(phi, row.model, row.quality, row.origin, row.weights)
            for phi, row in enumerate(rows)
        ),
    )


def write_ladder(
    variants: Sequence[Variant],
    path: str | Path,
    *,
    why: Sequence[str] = (),
    notes: Mapping[str, str],
) -> None:
    """Write timm's variants in this order, `why` as comments before them and `notes` by name beside them.

    Raises `InputError` where the file cannot be written.
    """
    lines = [f"# {line}" for line in why]
    for variant in variants:
        lines += [
            "",
            f"[[variant]]  # {notes[variant.name]}" if variant.name in notes else "[[variant]]",
            f"model = {json.dumps(variant.name)}",
            f"quality = {float(variant.quality)}",
            f"origin = {json.dumps(variant.quality_origin)}",
            f"weights = {json.dumps(variant.weights)}",
        ]
    try:
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
