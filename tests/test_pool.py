"""The warm pool and the measuring of profiles, on models whose cost is known; ladders by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaphi.errors import LadderError
from adaphi.model_zoo import Ladder, Profile, Variant, get_ladder, pool
from adaphi.model_zoo.pool import WarmPool
from adaphi.model_zoo.profiling import _pairs_walk, measure

MB = 1_000_000


class SleepingRunner:
    """Takes as long as it is told, and longer the first time."""

    needs_warm_up = True
    returns_memory = False

    def __init__(self, phi: int) -> None:
        self.weights_bytes = (10 + 10 * phi) * MB
        self.example = np.zeros((2, 2, 3), np.uint8)
        self._run_s = 0.002 * (phi + 1)

    def __call__(self, x: Any) -> Any:
        time.sleep(self._run_s)
        return x

    def labels(self, output: Any, top: int) -> tuple[tuple[str, float], ...]:
        return ()


class SleepingBackend:
    """Builds sleeping runners, 10 ms each, and remembers which."""

    name = "sleeping"

    def __init__(self) -> None:
        self.built: list[int] = []

    def prepare(self) -> None:
        pass

    def build(self, variant: Variant) -> SleepingRunner:
        time.sleep(0.01)
        self.built.append(variant.phi)
        return SleepingRunner(variant.phi)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> SleepingBackend:
    # These models take no memory but claim some: only their claims shall count.
    monkeypatch.setattr(pool, "_resident_set_bytes", lambda: 0)
    return SleepingBackend()


LADDER = Ladder("sleepers", tuple(Variant(phi, f"s{phi}", 0.5 + phi / 10) for phi in range(3)))


def test_the_least_recently_used_variant_makes_room(backend: SleepingBackend) -> None:
    """10, 20 and 30 MB under a limit of 50: whoever ran longest ago goes, and comes back cold."""
    pool = WarmPool(LADDER, backend, memory_limit_bytes=50 * MB)
    pool.load_all()
    assert pool.resident == {0, 1}
    x = np.zeros(1)
    pool.run(1, x)
    pool.run(2, x)
    assert pool.resident == {1, 2}
    assert pool.run(2, x).cold is False
    assert pool.run(0, x).cold is True and pool.resident == {2, 0}
    assert pool.run(1, x).cold is True and pool.resident == {0, 1}
    assert sum(map(pool.memory_bytes, pool.resident)) <= 50 * MB


def test_a_load_holds_up_no_run_of_another(backend: SleepingBackend) -> None:
    """While a load behind does not end, what is resident answers, and can be evicted."""
    pool, begun, released = WarmPool(LADDER, backend), threading.Event(), threading.Event()
    pool.load(0)
    pool.load(1)
    build = backend.build

    def endless(variant: Variant) -> SleepingRunner:
        begun.set()
        assert released.wait(20)
        return build(variant)

    backend.build = endless  # type: ignore[method-assign]
    pool.load_behind(2)
    assert begun.wait(20)
    done: list[bool] = []

    def run() -> None:
        done.append(pool.run(0, np.zeros(1)).cold)
        pool.evict(1)

    runs = threading.Thread(target=run, daemon=True)
    runs.start()
    runs.join(5)
    assert done == [False] and pool.resident == {0} and pool.loading
    released.set()
    while pool.loading:
        time.sleep(0.001)
    assert pool.resident == {0, 2}


def test_the_pool_carries_a_plan_out(
    backend: SleepingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is loaded behind the run and then hot; what is not goes; a failed load stops nothing."""
    warm = WarmPool(LADDER, backend, memory_limit_bytes=60 * MB)
    x = np.zeros(1)
    warm.run(0, x, keep={0, 2})
    _wait_for(warm, {0, 2})
    assert not warm.run(2, x, keep={2}).cold and warm.resident == {2}
    assert warm.run(0, x, keep={2, 1}).cold  # answered cold, not kept
    _wait_for(warm, {1, 2})
    assert warm.run(1, x, keep=frozenset()).cold is False and warm.resident == frozenset()
    monkeypatch.setattr(backend, "build", lambda variant: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        warm.run(0, x, keep={1})
    warm._runners[0] = SleepingBackend().build(LADDER.variants[0])
    assert not warm.run(0, x, keep={0, 1}).cold
    _wait_for(warm, {0})


def _wait_for(warm: WarmPool, resident: set[int]) -> None:
    until = time.monotonic() + 10
    while (warm.resident != resident or warm.loading) and time.monotonic() < until:
        time.sleep(0.002)
    assert warm.resident == resident


def test_a_variant_over_the_limit_is_refused_and_the_others_stay(backend: SleepingBackend) -> None:
    """The message says what it takes and what the limit is."""
    pool = WarmPool(LADDER, backend, memory_limit_bytes=25 * MB)
    pool.load(1)
    with pytest.raises(LadderError, match="30 MB, the limit is 25 MB"):
        pool.load(2)
    assert pool.resident == {1}
    with pytest.raises(LadderError, match="φ=7"):
        pool.load(7)


@pytest.mark.parametrize("count", range(1, 6))
def test_the_measuring_walk_takes_every_ordered_pair_once(count: int) -> None:
    """M² runs, read in a circle, are all pairs (previous, now), each exactly once."""
    walk = _pairs_walk(count)
    pairs = list(zip([walk[-1], *walk], walk, strict=False))
    assert len(walk) == count**2 == len(set(pairs))


def test_a_measured_profile_says_what_the_models_cost(
    backend: SleepingBackend, tmp_path: Path
) -> None:
    """Known run and load times come out as latency and cold stall; nothing unknown is invented."""
    steps: list[tuple[int, int]] = []
    profile = measure(
        WarmPool(LADDER, backend),
        rounds=6,
        cold_rounds=2,
        progress=lambda done, total, _: steps.append((done, total)),
    )
    for variant in profile.variants:
        assert variant.latency_ms.p50 is not None and variant.latency_ms.p95 is not None
        assert 2 * (variant.phi + 1) <= variant.latency_ms.p50 <= variant.latency_ms.p95
        assert variant.memory_bytes == (10 + 10 * variant.phi) * MB
    assert profile.cold_stall_ms is not None
    assert min(profile.cold_stall_ms[0][1:]) >= 10  # the load, and the first run to warm it up
    assert steps[-1][0] == steps[-1][1] and sorted(steps) == steps
    assert all(
        (v.energy_mj is None) == (profile.origin["energy_mj"] != "measured")
        for v in profile.variants
    )
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == profile


def test_ladders_by_name() -> None:
    """`timm:` ladders need their qualities; what is unknown is named beside what there is."""
    ladder = get_ladder("timm:resnet18,resnet50", quality=[0.7, 0.8])
    assert [v.name for v in ladder.variants] == ["resnet18", "resnet50"]
    with pytest.raises(LadderError, match="quality of its 2 models, got 1"):
        get_ladder("timm:a,b", quality=[0.5])
    with pytest.raises(LadderError, match=r"'nosuch'.*efficientnet-lite"):
        get_ladder("nosuch")


def test_weights_that_cannot_be_had_give_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub is out of reach the error says so, and names the ladder that needs none."""
    pytest.importorskip("torch")
    from adaphi.model_zoo.backends import get_backend, torch_eager

    monkeypatch.setattr(torch_eager, "_reachable", lambda _: False)
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    variant = get_ladder("timm:mobilenetv3_small_050.nosuch_tag", quality=[0.5]).variants[0]
    with pytest.raises(LadderError, match=r"efficientnet-lite"):
        get_backend("torch").build(variant)
    with pytest.raises(LadderError, match="no model called 'nosuchnet'"):
        get_backend("torch").build(Variant(0, "nosuchnet", 0.5))


def test_a_load_that_is_asked_for_while_the_loader_ends_is_not_lost(
    backend: SleepingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader gives memory back before it ends, which takes a while: who asks meanwhile is served."""
    warm, ending = WarmPool(LADDER, backend), threading.Event()

    def give_back() -> None:
        if threading.current_thread() is not threading.main_thread() and not ending.is_set():
            ending.set()
            time.sleep(0.05)

    monkeypatch.setattr(pool, "return_free_memory", give_back)
    warm.load_behind(1)
    assert ending.wait(10)
    warm.keep({1, 2})
    _wait_for(warm, {1, 2})


@pytest.mark.parametrize("returns_memory", [False, True])
def test_evicted_memory_goes_back_at_once_or_soon(
    backend: SleepingBackend, monkeypatch: pytest.MonkeyPatch, returns_memory: bool
) -> None:
    """Where malloc holds the weights, `evict` trims; else what malloc keeps follows within the promised time,
    evictions in a row sharing one trim; and `keep` trims at once."""
    trims: list[int] = []
    timers: list[tuple[float, Callable[[], None]]] = []

    def trim() -> None:
        if (
            threading.current_thread() is threading.main_thread()
        ):  # not a timer of another test's pool
            trims.append(1)

    class Timer:
        def __init__(self, after_s: float, call: Callable[[], None]) -> None:
            timers.append((after_s, call))

        def start(self) -> None:
            pass

    monkeypatch.setattr(SleepingRunner, "returns_memory", returns_memory)
    monkeypatch.setattr(pool, "return_free_memory", trim)
    monkeypatch.setattr(threading, "Timer", Timer)
    warm = WarmPool(LADDER, backend)
    for _ in range(2):
        for phi in (1, 2):
            warm.load(phi)
            warm.evict(phi)
            warm.evict(phi)
        assert len(trims) == (0 if returns_memory else 2)
        assert [after_s for after_s, _ in timers] == [pool.TIDY_WITHIN_S] * returns_memory
        while timers:
            timers.pop()[1]()
        assert len(trims) == (1 if returns_memory else 2)
        trims.clear()
    warm.load(0)
    warm.load(1)
    trims.clear()
    warm.keep({0})
    assert trims
    trims.clear()
    warm.keep({0})
    assert not trims
