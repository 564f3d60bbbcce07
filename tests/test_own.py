"""Ladders of the user's own code: `python:MODULE:FUNCTION`."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from adaphi import AsyncClient, Client
from adaphi.controller.embedded import AdaptiveModel
from adaphi.controller.metrics import latency_buckets
from adaphi.errors import InvalidRequest, LadderError
from adaphi.model_zoo import Latency, Profile, VariantProfile, get_ladder

NETWORKS = """
from adaphi.model_zoo import OwnVariant

def ladder():
    return [
        OwnVariant(0, "sum", 0.7, load=lambda: lambda image: image.sum(axis=(0, 1)).astype("float32")),
        OwnVariant(1, "top", 0.8, load=lambda: lambda image: image.max(axis=(0, 1)).astype("float32"),
                   classes=("red", "green", "blue")),
    ]
"""
CONFIG = """
ladder = "python:networks:ladder"
[zmq]
bind = ["ipc://a.sock"]
[http]
port = {port}
[budget]
sources = []
"""


def test_a_daemon_serves_ones_own_functions(tmp_path: Path) -> None:
    """A module in the folder of the daemon is measured, served and answered by, every variant its own."""
    (tmp_path / "networks.py").write_text(NETWORKS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "adaphi.toml").write_text(CONFIG.format(port=port))
    command = [sys.executable, "-m", "adaphi", "serve", "--config", "adaphi.toml"]
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    with subprocess.Popen(command, cwd=tmp_path) as process:
        try:
            with Client(f"ipc://{tmp_path}/a.sock") as client:
                client.wait_until_ready(60)
                summed = client.infer(image, deadline_ms=5000, phi=0, top=2)
                largest = client.infer(image, deadline_ms=5000, phi=1, top=2)
            for seed in range(6):
                asyncio.run(ask_at_once(f"ipc://{tmp_path}/a.sock", 50, seed))
            asyncio.run(lose_a_worker(f"ipc://{tmp_path}/a.sock", process.pid))
        finally:
            process.terminate()
    assert summed.output.tolist() == image.sum(axis=(0, 1)).tolist()
    assert largest.output.tolist() == image.max(axis=(0, 1)).tolist()
    assert summed.top == () and len(largest.top) == 2
    assert process.returncode == 0


async def ask_at_once(address: str, count: int, seed: int) -> None:
    """Ask for much at once, short tensors and long ones mixed: each gets its own answer."""
    rng = np.random.default_rng(seed)
    sides = rng.choice([1, 20, 300], count)
    images = [rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for side in sides]
    async with AsyncClient(address) as client:
        asked = (
            client.infer(image, deadline_ms=30_000, phi=number % 2)
            for number, image in enumerate(images)
        )
        for number, answer in enumerate(await asyncio.gather(*asked)):
            whole = images[number].max(axis=(0, 1)) if number % 2 else images[number].sum((0, 1))
            assert answer.phi == number % 2
            assert answer.output.tolist() == whole.tolist()


async def lose_a_worker(address: str, daemon_pid: int) -> None:
    """Kill the worker under a crowd's requests, many of them told ahead: all are answered, and rightly."""
    (worker,) = psutil.Process(daemon_pid).children()
    crowd = asyncio.create_task(ask_at_once(address, 60, seed=7))
    await asyncio.sleep(0.01)
    worker.kill()
    assert not crowd.done()
    await crowd
    assert [child.pid for child in psutil.Process(daemon_pid).children()] != [worker.pid]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "has no attribute 'ladder'"),
        ("def ladder(): return [1]", "expected OwnVariant, got int"),
        ("def ladder(): raise OSError('no disk')", "OSError: no disk"),
    ],
)
def test_a_module_that_is_no_ladder_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    """Whatever the user's code does, one error says which ladder and why."""
    (tmp_path / "broken_ladder.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_ladder", raising=False)
    with pytest.raises(LadderError, match=words):
        get_ladder("python:broken_ladder:ladder")


@pytest.mark.parametrize("p50_ms", [0.0004, 0.1, 20.0])
def test_histograms_have_rising_bounds_however_quick_the_models(p50_ms: float) -> None:
    """A model of your own may take microseconds."""
    variant = VariantProfile(0, "quick", 0.7, Latency(p50=p50_ms, p95=p50_ms))
    bounds = latency_buckets(Profile(ladder="own", variants=(variant,), stall_ms=((0.0,),)))
    assert sorted(set(bounds)) == list(bounds)


NUMBERS = """
import numpy as np
from adaphi.model_zoo import OwnVariant

class Times:
    example = np.zeros(1, np.int64)
    def __init__(self, factor):
        self.factor = factor
    def __call__(self, numbers):
        return self.factor * numbers
    batch = __call__

def ladder():
    return [OwnVariant(phi, f"times{phi}", 0.5, load=lambda f=phi + 2: Times(f)) for phi in (0, 1)]
"""


def test_a_ladder_may_take_other_things_than_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a variant shows as its example is what it takes, one or many at a time; nothing else is."""
    (tmp_path / "number_ladder.py").write_text(NUMBERS)
    monkeypatch.syspath_prepend(tmp_path)
    model = AdaptiveModel.from_ladder("python:number_ladder:ladder")
    assert model.profile.input == model.profile.output == (np.dtype("int64"), (1,))
    for phi, pinned in enumerate(model.profile.variants):
        answer = model(np.array([4, 5]), deadline_ms=1e6, max_phi=phi, raw=True)
        assert answer.output.tolist() == [4 * (answer.phi + 2), 5 * (answer.phi + 2)]
        stack = np.array([[1, 2], [3, 4]])
        many = model.pool.run(phi, stack, batched=True).output
        assert (many == stack * (phi + 2)).all() and pinned.batch_ms is None
    for wrong in (np.zeros(2, np.int32), np.zeros((1, 1), np.int64), np.zeros((2, 2, 3), np.uint8)):
        with pytest.raises(InvalidRequest, match="takes int64 with 1 axes"):
            model(wrong, deadline_ms=1e6, raw=True)
    with pytest.raises(InvalidRequest, match="an image is uint8"):
        model(np.array([4]), deadline_ms=1e6)
