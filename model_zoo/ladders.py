"""Ladders by name, `timm:NAME,NAME,…` of timm's models, a TOML file, or `python:MODULE:FUNCTION`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import LadderError
from .ladder_file import SUFFIX, read_ladder
from .own import PREFIX, own_ladder
from .profile import Profile
from .variants import Ladder, Variant

DEFAULT = "efficientnet-lite"

# ImageNet validation top-1 as published: by the authors of EfficientNet-Lite, for int8 after quantising these
# weights (github.com/tensorflow/tpu, models/official/efficientnet/lite), and by timm for its own
# training of EfficientNet.
_NAMED = {
    "efficientnet-lite": Ladder(
        "efficientnet-lite",
        (
            Variant(0, "tf_efficientnet_lite0", 0.751, weights="package"),
            Variant(1, "tf_efficientnet_lite1", 0.767, weights="package"),
            Variant(2, "tf_efficientnet_lite2", 0.776, weights="package"),
        ),
    ),
    "efficientnet-lite-mixed": Ladder(
        "efficientnet-lite-mixed",
        (
            Variant(0, "tf_efficientnet_lite0-int8", 0.744, weights="package"),
            Variant(1, "tf_efficientnet_lite1-int8", 0.759, weights="package"),
            Variant(2, "tf_efficientnet_lite2-int8", 0.770, weights="package"),
            Variant(3, "tf_efficientnet_lite0", 0.751, weights="package"),
            Variant(4, "tf_efficientnet_lite1", 0.767, weights="package"),
            Variant(5, "tf_efficientnet_lite2", 0.776, weights="package"),
        ),
        candidates=True,
    ),
    "efficientnet": Ladder(
        "efficientnet",
        (
            Variant(0, "efficientnet_b0.ra_in1k", 0.777),
            Variant(1, "efficientnet_b1.ft_in1k", 0.787),
            Variant(2, "efficientnet_b2.ra_in1k", 0.804),
        ),
    ),
}


def get_ladder(
    name: str,
    *,
    quality: Sequence[float] | None = None,
    untrained: bool = False,
    calibration: str = "",
    profile: Profile | None = None,
) -> Ladder:
    """Return the ladder called `name`.

    A `timm:NAME,NAME,…` ladder needs `quality`, one number in [0, 1] for each model in order,
    because it cannot be guessed. With `untrained` the weights are random: right for measuring cost,
    useless for answers. `calibration` is a folder of pictures for int8 variants. With a `profile` it is
    `fitted` to that. Raises `LadderError`.
    """
    ladder = _NAMED.get(name)
    if ladder is None and name.startswith("timm:"):
        ladder = _timm_ladder(name, quality)
        quality = None
    if ladder is None and name.endswith(SUFFIX):
        ladder = read_ladder(name)
    if ladder is None and name.startswith(PREFIX):
        ladder = own_ladder(name)
    if ladder is None:
        raise LadderError(
            f"no ladder is called {name!r}",
            help=f"use {', '.join(_NAMED)}, timm:NAME,NAME,…, python:MODULE:FUNCTION, a ladder.toml or a "
            "profile.json",
        )
    if profile is not None:
        ladder = fitted(ladder, profile)
    variants = list(ladder.variants)
    if quality is not None:
        _check_quality(name, quality, len(variants))
        variants = [
            replace(v, quality=q, quality_origin="stated")
            for v, q in zip(variants, quality, strict=True)
        ]
    if untrained:
        variants = [replace(v, weights="none") for v in variants]
    if calibration:
        variants = [
            replace(v, calibration=calibration) if v.precision == "int8" else v for v in variants
        ]
    return replace(ladder, variants=tuple(variants))


def fitted(ladder: Ladder, profile: Profile) -> Ladder:
    """Return what is left of a ladder of candidates in `profile`, in its order; another ladder as it is.

    Raises `LadderError` where the profile has a variant that is no candidate.
    """
    if not ladder.candidates:
        return ladder
    by_name = {v.name: v for v in ladder.variants}
    calibration = str(profile.conditions.get("calibration", ""))
    variants = []
    for measured in profile.variants:
        if measured.name not in by_name:
            raise LadderError(
                f"ladder {ladder.name!r} has no variant {measured.name!r}, but the profile has",
                help="measure again with `adaphi profile`",
            )
        variant = replace(by_name[measured.name], phi=measured.phi)
        if variant.precision == "int8":
            variant = replace(variant, calibration=calibration)
        variants.append(variant)
    return Ladder(ladder.name, tuple(variants))


def timm_models(name: str) -> list[str]:
    """Return the models that a `timm:NAME,NAME,…` ladder names; raise `LadderError` where it names none."""
    models = [part.strip() for part in name.removeprefix("timm:").split(",") if part.strip()]
    if not models:
        raise LadderError(f"ladder {name!r} names no model", help="write timm:NAME,NAME,…")
    return models


def _timm_ladder(name: str, quality: Sequence[float] | None) -> Ladder:
    models = timm_models(name)
    _check_quality(name, quality, len(models))
    assert quality is not None
    return Ladder(
        name,
        tuple(
            Variant(phi, model, float(q), "stated")
            for phi, (model, q) in enumerate(zip(models, quality, strict=True))
        ),
    )


def _check_quality(name: str, quality: Sequence[float] | None, count: int) -> None:
    if quality is None or len(quality) != count:
        raise LadderError(
            f"ladder {name!r} needs the quality of its {count} models, "
            f"got {0 if quality is None else len(quality)}",
            help="pass one number in [0, 1] for each, such as --quality 0.70,0.76",
        )
