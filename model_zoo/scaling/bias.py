"""Texture or shape: by what a network names a picture whose outline and surface disagree.

A cue-conflict picture has the shape of one class and the texture of another (Geirhos et al. 2019,
arXiv:1811.12231). A network's probabilities are averaged over the ImageNet classes that belong to each of the
sixteen, the best of the sixteen is its answer, and

    shape bias = shape answers / (shape answers + texture answers)

over the pictures that it names by either. The interval is Wilson's. Whether the bias moves along an ordered
series of networks (φ, or one network's resolution) is asked twice: by the Cochran–Armitage test for trend in
proportions (Armitage, Biometrics 11, 1955), which takes the answers to be independent, and, as all networks
see the same pictures, by a logistic regression whose errors are clustered by picture (generalised estimating
equations: Liang and Zeger, Biometrika 73, 1986). Needs the extra `plan` (statsmodels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingExtraError
from .classifier import Floats
from .labels import CLASSES, imagenet_index, rows

Ints = NDArray[np.int64]

SHAPE, TEXTURE, NEITHER = 1, 0, -1
"""What an answer follows."""
_HELP = "the folder holds pictures, labels.csv and class16_to_imagenet.csv"
_SURE = 0.05


@dataclass(frozen=True)
class CueConflicts:
    """Pictures whose cues disagree: `files` (n,), the class of the `shape` (n,) and of the `texture` (n,).

    `members` holds, for each of the few classes, the places of ImageNet's that belong to it.
    """

    files: tuple[Path, ...]
    shape: Ints
    texture: Ints
    members: tuple[Ints, ...]

    @classmethod
    def read(cls, folder: Path) -> CueConflicts:
        """Read a folder with pictures, `labels.csv` and `class16_to_imagenet.csv`; raise `InputError`.

        The columns are `file,shape_class,texture_class` and `class16,imagenet_index`, among others.
        """
        places: dict[str, list[int]] = {}
        mapping, labels = folder / "class16_to_imagenet.csv", folder / "labels.csv"
        for line, (name, index) in rows(mapping, "class16", "imagenet_index", help=_HELP):
            places.setdefault(name, []).append(imagenet_index(mapping, line, index))
        number = {name: k for k, name in enumerate(places)}
        pictures = rows(labels, "file", "shape_class", "texture_class", help=_HELP)
        for line, (_, *classes) in pictures:
            if unknown := set(classes) - set(number):
                raise InputError(f"{labels}:{line}: {mapping.name} has no class {min(unknown)!r}")
        shape, texture = (np.array([number[row[k]] for _, row in pictures]) for k in (1, 2))
        files = tuple(folder / row[0] for _, row in pictures)
        return cls(files, shape, texture, tuple(np.array(p) for p in places.values()))

    def followed(self, picture: int, logits: Floats) -> int:
        """Return what the answer `logits` (1000,) to this picture follows; raise `InputError`."""
        if logits.shape != (CLASSES,):
            raise InputError(
                f"the model has {logits.shape[-1]} classes; the pictures are mapped to {CLASSES}"
            )
        probability = np.exp(logits - logits.max())
        answer = int(np.argmax([probability[places].mean() for places in self.members]))
        by_class = {int(self.texture[picture]): TEXTURE, int(self.shape[picture]): SHAPE}
        return by_class.get(answer, NEITHER)


class Bias(NamedTuple):
    """How many answers followed the shape, the texture, or neither."""

    shape: int
    texture: int
    neither: int

    @classmethod
    def of(cls, followed: Ints) -> Bias:
        """Count answers (n,)."""
        counts = [int((followed == what).sum()) for what in (SHAPE, TEXTURE, NEITHER)]
        return cls(*counts)

    @property
    def share(self) -> float:
        """Return the shape bias, NaN where no answer followed either."""
        named = self.shape + self.texture
        return self.shape / named if named else float("nan")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Wilson's interval of the shape bias."""
        _need_statsmodels()
        from statsmodels.stats.proportion import proportion_confint

        named = self.shape + self.texture
        if not named:
            return 0.0, 1.0
        low, high = proportion_confint(self.shape, named, 1 - confidence, method="wilson")
        return float(low), float(high)


class Trend(NamedTuple):
    """Whether the bias moves along a series: z > 0 where it rises.

    `z` and `p` are Cochran and Armitage's; `paired_z` and `paired_p` know that the pictures are the same.
    """

    z: float
    p: float
    paired_z: float
    paired_p: float

    @property
    def verdict(self) -> str:
        """Return in words what both tests say together at the level of 5 %."""
        sure = [p < _SURE for p in (self.p, self.paired_p)]
        if not any(sure):
            return "no trend shown"
        if not all(sure):
            which = "the first" if sure[0] else "the paired"
            return f"a trend by {which} test alone: not settled"
        return "the shape bias rises" if self.z > 0 else "the shape bias falls"


def trend(scores: Sequence[float], followed: Ints) -> Trend:
    """Test `followed` (k, n), the answers of k networks to the same n pictures, along `scores` (k,).

    Raises `InputError` where there are fewer than two different scores, or all answers are of one kind.
    """
    _need_statsmodels()
    from statsmodels.stats.contingency_tables import Table

    counts = [Bias.of(answers) for answers in followed]
    table = np.array([[c.texture for c in counts], [c.shape for c in counts]])
    if len(set(scores)) < 2 or not table.sum(axis=1).all():
        raise InputError(
            "a trend needs two networks or resolutions at least, and answers by shape and by texture"
        )
    # The scores are centred: the statistic does not change, and its sums stay small.
    centred = np.asarray(scores, np.float64) - np.mean(scores)
    outcome = Table(table, shift_zeros=False).test_ordinal_association(
        row_scores=np.array([0.0, 1.0]), col_scores=centred
    )
    return Trend(float(outcome.zscore), float(outcome.pvalue), *_paired(centred, followed))


def _paired(scores: Floats, followed: Ints) -> tuple[float, float]:
    """Return (z, p) of the slope of a logistic regression with errors clustered by picture."""
    from statsmodels.genmod.cov_struct import Independence
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_estimating_equations import GEE

    network, picture = np.nonzero(followed != NEITHER)
    order = np.argsort(picture, kind="stable")
    network, picture = network[order], picture[order]
    scale = float(np.abs(scores).max())
    design = np.column_stack([np.ones(len(network)), scores[network] / scale])
    model = GEE(
        followed[network, picture], design, picture, family=Binomial(), cov_struct=Independence()
    )
    fitted: Any = model.fit()
    return float(fitted.tvalues[1]), float(fitted.pvalues[1])


def _need_statsmodels() -> None:
    try:
        import statsmodels  # noqa: F401
    except ImportError:
        raise MissingExtraError("intervals and tests of shape bias", "plan") from None
