"""The backend cuda against timm on the same GPU, as it comes and compiled; nothing where there is no GPU.

Each is a process of its own, and all take turns: a forward from an array on, as a peer gets it (the backend's
own begins with a picture that is prepared on the device), and a whole picture. `compiled` is torch.compile in
half precision and channels-last with its mode reduce-overhead, which captures graphs, too; it compiles for
half a minute a variant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from adaphi.model_zoo import get_ladder
from adaphi.model_zoo.backends.torch_cuda import CudaBackend
from adaphi.model_zoo.backends.torch_eager import load_timm, timm_preprocess
from adaphi.model_zoo.images import example_image
from adaphi.model_zoo.trial import Trial, answer, in_turn

from .harness import Row

DEVICE = "cuda"
OWN, STOCK, COMPILED = "cuda", "timm eager", "compiled, half"
PICTURE = ", picture to logits"
LADDER = get_ladder("efficientnet-lite")


def run(quick: bool) -> list[Row]:
    """Return forwards and whole pictures beside the peers'; `adaphi profile` has what switches cost."""
    if not torch.cuda.is_available():
        print("torch sees no CUDA device here")
        return []
    peers = [STOCK] if quick else [STOCK, COMPILED]
    pairs = [(OWN, peer) for peer in peers] + [(OWN + PICTURE, STOCK + PICTURE)]
    rounds, runs = (2, 3) if quick else (10, 30)
    rows = []
    with ExitStack() as stack:
        names = list(dict.fromkeys(name for pair in pairs for name in pair))
        trials = [stack.enter_context(Trial(__name__, name)) for name in names]
        for variant in LADDER.variants[: 1 if quick else None]:
            samples = in_turn(trials, variant.phi, rounds, runs)
            ms = {name: median(some) for name, some in zip(names, samples, strict=True)}
            for own, peer in pairs:
                what = variant.name + (PICTURE if PICTURE in own else ", forward")
                rows.append(Row(what, ms[own], "ms", "less", peer, ms[peer]))
    return rows


def main(name: str) -> None:
    """Be one process."""
    kind, whole = name.removesuffix(PICTURE), PICTURE in name
    if kind == OWN:
        backend = CudaBackend(device=DEVICE)
        backend.prepare()
        answer(partial(_load_own, backend, whole))
    else:
        answer(partial(_load_peer, kind == COMPILED, whole))


def _load_own(backend: CudaBackend, whole: bool, phi: int) -> Callable[[], Any]:
    runner: Any = backend.build(LADDER.variants[phi])
    picture = example_image()
    return (
        partial(runner, picture) if whole else partial(runner.forward, runner.preprocess(picture))
    )


def _load_peer(compiled: bool, whole: bool, phi: int) -> Callable[[], Any]:
    torch.set_num_threads(1)
    model: Any = load_timm(LADDER.variants[phi])
    preprocess = timm_preprocess(model)
    dtype = torch.float16 if compiled else torch.float32
    model.to(DEVICE, dtype)
    if compiled:
        model = torch.compile(model.to(memory_format=torch.channels_last), mode="reduce-overhead")

    def forward(x: np.ndarray[Any, Any]) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(x).to(DEVICE, dtype)).float().cpu().numpy()

    picture = example_image()
    return (
        (lambda: forward(preprocess(picture))) if whole else partial(forward, preprocess(picture))
    )


if __name__ == "__main__":
    main(sys.argv[1])
