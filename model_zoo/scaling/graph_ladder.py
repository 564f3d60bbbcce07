"""A trained ladder of graph networks in a folder, as `adaphi plan graph --output` leaves it to be served.

The folder has a module, so that `python:graph_ladder:ladder` is a ladder for whoever is started in it, the
weights of each variant, and `ladder.json`, which says what they are and where the graph's file lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import msgspec
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ...errors import InputError, LadderError
from ..own import OwnVariant
from .citations import Citations
from .graph import GraphNetwork

if TYPE_CHECKING:
    from .graph_network import NodeClassifier, Trained

NAME = "python:graph_ladder:ladder"
_ABOUT, _MODULE = "ladder.json", "graph_ladder.py"
_AGAIN = "write the ladder again with `adaphi plan graph -o`"
_CODE = '''\
"""A ladder of trained graph networks: start `adaphi` in this folder with --ladder {name}."""

from pathlib import Path

from adaphi.model_zoo.scaling.graph_ladder import saved_ladder


def ladder():
    return saved_ladder(Path(__file__).parent)
'''


class About(msgspec.Struct, frozen=True):
    """A saved ladder: the graph's file, the networks, and the share of test nodes that each names right."""

    graph: str
    networks: tuple[GraphNetwork, ...]
    quality: tuple[float, ...]


def save_ladder(
    folder: Path,
    graph: Path,
    networks: Sequence[GraphNetwork],
    trained: Sequence[Sequence[Trained]],
) -> None:
    """Write a ladder into `folder`, made if need be; raise `InputError` where that is not possible.

    Of each network's trainings the one that validated best is kept. Its quality is the mean accuracy of all:
    what its own test says beyond that is mostly luck.
    """
    quality = tuple(mean(one.accuracy for one in some) for some in trained)
    about = About(str(graph.resolve()), tuple(networks), quality)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for phi, some in enumerate(trained):
            best = max(some, key=lambda one: one.validated)
            save_file(best.weights, _weights(folder, phi))
        (folder / _MODULE).write_text(_CODE.format(name=NAME))
        (folder / _ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about)))
    except OSError as error:
        raise InputError(f"cannot write the ladder to {folder}: {error.strerror}") from None


def saved_ladder(folder: Path) -> list[OwnVariant]:
    """Return the variants in `folder`; raise `LadderError` where it holds no ladder."""
    try:
        about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError) as error:
        raise LadderError(f"{folder / _ABOUT} cannot be read: {error}", help=_AGAIN) from None
    return [
        OwnVariant(
            phi,
            f"gcn2-{network.steps}x{network.width}-{network.features}",
            quality,
            quality_origin="measured",
            load=partial(load_saved, folder, about.graph, phi, network),
        )
        for phi, (network, quality) in enumerate(zip(about.networks, about.quality, strict=True))
    ]


def load_saved(folder: Path, graph: str, phi: int, network: GraphNetwork) -> NodeClassifier:
    """Return variant `phi` of a saved ladder, computing with one thread.

    Raises `LadderError` where its weights cannot be read, `InputError` where the graph cannot.
    """
    import torch

    from .graph_network import NodeClassifier

    torch.set_num_threads(1)
    try:
        weights = load_file(_weights(folder, phi))
    except (OSError, SafetensorError) as error:
        raise LadderError(f"{_weights(folder, phi)} cannot be read: {error}", help=_AGAIN) from None
    return NodeClassifier(_read(graph), network, weights)


@cache
def _read(graph: str) -> Citations:
    return Citations.read(graph)


def _weights(folder: Path, phi: int) -> Path:
    return folder / f"phi{phi}.safetensors"
