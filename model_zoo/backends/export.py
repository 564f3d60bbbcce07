"""A variant as an ONNX file, made once in a process of its own and kept in the user's cache.

torch exports the network with its batch norms folded; beside it lies what else an answer needs, the
preprocessing and the names of the classes. An int8 variant is made of the export of its network. Whoever runs
it imports no torch. An export is found again by a digest of everything that it depends on: the variant, its
weights, the versions that made it, and the pictures that ranges are found on. (Weights from timm's hub are
known by their name alone, whose tag names the training.)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from ...errors import LadderError, MissingExtraError
from ..calibration import calibration_digest, calibration_pictures
from ..preprocessing import Preprocessing
from ..variants import Variant
from ..weights import packaged_file

_FORMAT = 1  # of the folder; counts up where what is written changes
_MADE_BY = ("torch", "timm", "onnxscript")
_QUANTIZED_BY = ("onnxruntime",)
_MODEL, _ABOUT = "model.onnx", "about.json"


class About(msgspec.Struct, frozen=True):
    """What an answer needs besides the network."""

    preprocessing: Preprocessing
    classes: tuple[str, ...]


class Export(msgspec.Struct, frozen=True):
    """An exported variant: the ONNX file, input (1, 3, side, side) float32, output (1, classes)."""

    path: Path
    about: About


def cache_folder() -> Path:
    """Return the user's folder for what can be made again: $XDG_CACHE_HOME/adaphi or ~/.cache/adaphi."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "adaphi"


def exported(variant: Variant) -> Export:
    """Return the export of `variant`, made first if the cache has none.

    Raises `LadderError` if the variant cannot be exported, `MissingExtraError` without the exporter.
    """
    if variant.weights == "module":
        raise LadderError(f"variant {variant.name!r} is a module: it runs in torch alone")
    folder = cache_folder() / "exports" / f"{variant.name}-{_digest(variant)}"
    if not (folder / _ABOUT).exists():
        _make(variant, folder)
    about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=About)
    return Export(folder / _MODEL, about)


@cache  # the weights are read once, not at every load
def _digest(variant: Variant) -> str:
    """Return 16 hex digits of everything that an export depends on."""
    int8 = variant.precision == "int8"
    try:
        versions = [f"{name} {version(name)}" for name in _MADE_BY + _QUANTIZED_BY * int8]
    except PackageNotFoundError:
        raise MissingExtraError("exporting a model", "onnx") from None
    digest = hashlib.sha256("\n".join((str(_FORMAT), variant.weights, *versions)).encode())
    if variant.weights == "package":
        digest.update(packaged_file(variant.network).read_bytes())
    if int8:
        digest.update(calibration_digest(variant.calibration).encode())
    return digest.hexdigest()[:16]


def _make(variant: Variant, folder: Path) -> None:
    """Export into a folder beside `folder`, in another process, and move it into place when it is whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix=".making-", dir=folder.parent)
    except OSError as error:
        raise LadderError(
            f"{variant.name} cannot be exported to {folder.parent}: {error.strerror}",
            help="let XDG_CACHE_HOME name a folder that can be written",
        ) from None
    try:
        command = [
            sys.executable,
            "-m",
            f"{__package__}.export",  # this module, also where it is the main one
            msgspec.json.encode(variant).decode(),
            unfinished,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise LadderError(
                f"{variant.name} could not be exported: {why}",
                help="use the backend torch" if variant.precision == "fp32" else "",
            )
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not folder.exists():  # else another process has just made the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main(variant_json: str, folder: str) -> None:
    """Make one variant in `folder`; what goes wrong is the last line on stderr."""
    from ...errors import AdaphiError

    variant = msgspec.json.decode(variant_json, type=Variant)
    try:
        (export if variant.precision == "fp32" else quantize_export)(variant, Path(folder))
    except AdaphiError as error:
        sys.exit(str(error))


def export(variant: Variant, folder: Path) -> None:
    """Write `variant`'s network, preprocessing and class names into `folder`, by torch."""
    import torch

    from ..timm_import import import_timm
    from .folding import fold_batch_norms
    from .torch_eager import imagenet_names, load_timm

    model = load_timm(variant)
    config = import_timm().data.resolve_model_data_config(model)
    preprocessing = Preprocessing.of_timm(config)
    fold_batch_norms(model)
    x = torch.zeros(1, 3, preprocessing.side, preprocessing.side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own workings
        torch.onnx.export(
            model,
            (x,),
            folder / _MODEL,
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    about = About(preprocessing, imagenet_names())
    (folder / _ABOUT).write_bytes(msgspec.json.encode(about))


def quantize_export(variant: Variant, folder: Path) -> None:
    """Write the int8 form of the export of `variant`'s network into `folder`."""
    from .quantize import quantize

    pictures = calibration_pictures(variant.calibration)
    whole = exported(replace(variant, name=variant.network, calibration=""))
    quantize(whole.path, pictures, whole.about.preprocessing, folder / _MODEL)
    (folder / _ABOUT).write_bytes(msgspec.json.encode(whole.about))


if __name__ == "__main__":
    main(*sys.argv[1:])
