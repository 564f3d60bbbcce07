"""The README, run as it is printed: each shell block by bash, each Python block by python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
ENDING = "trap 'code=$?; kill $(jobs -p) 2>/dev/null || true; wait; exit $code' EXIT\n"
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def run(block: str, folder: Path) -> str:
    """Run a shell block; what it leaves in the background ends with it."""
    binaries = Path(sys.executable).parent
    done = subprocess.run(
        [
            "bash",
            "-e",
            "-o",
            "pipefail",
            "-c",
            ENDING + block,
        ],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, block + done.stdout + done.stderr
    return done.stdout


def block_with(text: str) -> str:
    found = [block for _, block in BLOCKS if text in block]
    assert len(found) == 1, f"{len(found)} blocks with {text!r}"
    return found[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder: a checkout's examples, a cat, a log of the processor's load."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(ROOT / "examples", folder / "examples")
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    Image.fromarray(data.chelsea()).save(folder / "cat.jpg")
    (folder / "load.csv").write_text("time_s,load\n0,20\n60,75\n120,40.5\n")
    return folder


def test_the_first_lines_make_a_policy_and_a_picture(folder: Path) -> None:
    """Profile, split, solve, simulate, compare, explain, in order; the picture is one."""
    out = run(block_with("adaphi profile"), folder)
    assert "best rule" in out and "clairvoyant" in out and "with φ=1 active:" in out
    assert (folder / "replay.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.alone
def test_the_embedded_model_answers(folder: Path) -> None:
    """The Python block, on a profile and a policy as the first block makes them."""
    shutil.copy(folder / "examples" / "profile.json", folder)
    trace = "--trace examples/trace.csv"
    run(f"adaphi solve --profile profile.json {trace} -o policy.npz", folder)
    done = subprocess.run(
        [sys.executable, "-c", block_with("AdaptiveModel.from_ladder")],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "cat" in done.stdout


@pytest.mark.alone
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_daemon_answers_and_can_be_watched(folder: Path) -> None:
    """Serve, infer, and the metrics of that very daemon."""
    out = run(block_with("adaphi serve") + block_with("/metrics"), folder)
    assert "cat" in out and "on time" in out
    assert re.search(r'adaphi_requests_total\{.*outcome="ok".*\} 1.0', out)


def test_traces_are_recorded_and_imported(folder: Path) -> None:
    """Record, import, describe."""
    run(block_with("adaphi record"), folder)
    assert len((folder / "monday.csv").read_text().splitlines()) > 40
    assert (folder / "budget.csv").read_text().splitlines()[0] == "time_s,budget_ms"


def test_pip_would_install_it() -> None:
    """The line for pip resolves, constraints and extras included."""
    line = block_with("pip install").strip()
    command = line.replace("pip install", f"{sys.executable} -m pip install --dry-run --no-deps", 1)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Would install adaphi" in done.stdout, done.stderr


def test_nothing_else_is_promised() -> None:
    """Every `make` verb exists, every file linked is there, and no block is left without a test."""
    for verb in re.findall(r"(?:`|^)make (\w+)", README, re.MULTILINE):
        assert verb in TARGETS, verb
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    tested = ("adaphi profile", "AdaptiveModel.from", "adaphi serve", "/metrics", "adaphi record")
    tested += ("pip install", "make test")
    assert all(any(text in block for text in tested) for _, block in BLOCKS)
