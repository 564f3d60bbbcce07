"""What tests share: a small profile that was written by hand, so that figures are exact."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from adaphi.model_zoo import Latency, Profile, VariantProfile


@pytest.fixture
def profile() -> Profile:
    """Return three variants of 10, 15 and 24 ms, with stalls that differ by pair."""
    latencies, qualities = (10.0, 15.0, 24.0), (0.70, 0.76, 0.80)
    return Profile(
        ladder="three",
        variants=tuple(
            VariantProfile(phi, f"v{phi}", quality, Latency(p50=ms, p95=ms))
            for phi, (ms, quality) in enumerate(zip(latencies, qualities, strict=True))
        ),
        stall_ms=((0.0, 0.5, 1.0), (0.25, 0.0, 0.75), (0.5, 0.5, 0.0)),
    )


@pytest.fixture(scope="session")
def malformed() -> ModuleType:
    """Return benchmarks/malformed.py, which is no part of an installed package."""
    path = Path(__file__).parents[1] / "benchmarks" / "malformed.py"
    spec = importlib.util.spec_from_file_location("malformed", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
