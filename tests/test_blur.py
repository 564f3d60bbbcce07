"""Tables by motion blur: what each is optimal for, which one decides, how a request says its blur."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.controller import protocol
from adaphi.controller.oip import Parameters
from adaphi.controller.protocol import InferHeader
from adaphi.controller.scheduler import Limits, Request, Scheduler, Start
from adaphi.controller.step import Controller, Reading
from adaphi.errors import InvalidRequest, PolicyError, TraceError
from adaphi.model_zoo import Profile
from adaphi.policies import TablePolicy
from adaphi.policies.blur import BlurTable, nearest
from adaphi.policies.choose import choose
from adaphi.policies.table import solve_table
from adaphi.sim import Trace
from adaphi.sim.blur import replay_blur

ROOT = Path(__file__).parents[1]
SHARES = np.array([0.0, 0.02, 0.1])
KEPT = np.array([[1.0, 1.0, 1.0], [0.9, 0.9, 0.9], [0.5, 0.3, 0.1]])  # blur turns the ladder over


@pytest.fixture
def policy(profile: Profile) -> TablePolicy:
    """Return a policy that knows three blurs."""
    budgets = np.repeat(np.random.default_rng(0).uniform(8, 60, 60), 20)
    return TablePolicy.solve(profile, [budgets]).with_blur(profile, SHARES, KEPT)


def test_each_table_is_the_optimum_for_its_qualities(profile: Profile, policy: TablePolicy) -> None:
    """A table by blur is what solving with that blur's qualities gives; the plain one stays as it was."""
    costs = profile.costs("p95")
    assert policy.blur is not None
    for kept, table in zip(KEPT, policy.blur.tables, strict=True):
        worth = replace(costs, quality=costs.quality * kept)
        assert np.array_equal(
            table, solve_table(worth, policy.chain_ms(costs), policy.objective)[0]
        )
    assert np.array_equal(policy.blur.tables[0], policy.table)
    assert not np.array_equal(policy.blur.tables[2], policy.table)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True), st.floats(0, 2))
def test_the_nearest_blur_counts(shares: list[float], blur: float) -> None:
    known = np.sort(np.array(shares))
    distance = np.abs(known - blur)
    assert distance[int(nearest(known, blur))] <= distance.min() + 1e-12


def test_the_step_goes_by_the_requests_blur(profile: Profile, policy: TablePolicy) -> None:
    """With time for all, sharp pictures get the largest, blurred ones the smallest, others the plain one."""
    controller = Controller(choose(policy, profile), profile.costs("p95"))
    assert isinstance(controller.policy, BlurTable)
    chosen = [controller.step(Reading(1e3, blur_share=s)).phi for s in (0.0, 0.2, 0.0, None, 0.2)]
    assert chosen == [2, 0, 2, 2, 0]
    controller.reset()
    assert controller.step(Reading(1e3)).phi == 2


def test_a_file_keeps_the_tables_and_older_ones_have_none(
    profile: Profile, policy: TablePolicy, tmp_path: Path
) -> None:
    policy.save(tmp_path / "p.npz")
    again = TablePolicy.load(tmp_path / "p.npz")
    assert again.blur is not None and policy.blur is not None
    for name in ("shares", "quality", "tables"):
        assert np.array_equal(getattr(again.blur, name), getattr(policy.blur, name))
    plain = replace(policy, blur=None)
    assert TablePolicy.from_bytes(plain.to_bytes()).blur is None
    with pytest.raises(PolicyError, match="knows no blur"):
        plain.bind_blur(profile)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shares": SHARES[::-1]},
        {"shares": SHARES[:2]},
        {"quality": KEPT[:, :2]},
        {"tables": np.full((3, 1, 3), 7, np.uint8)},
    ],
)
def test_parts_that_do_not_fit_are_refused(policy: TablePolicy, wrong: dict[str, object]) -> None:
    assert policy.blur is not None
    damaged = replace(policy, blur=replace(policy.blur, **wrong))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="do not fit together"):
        TablePolicy.from_bytes(damaged.to_bytes())


@pytest.mark.parametrize(
    ("shares", "kept", "said"),
    [
        (SHARES, KEPT[:2], "needs as many qualities"),
        (SHARES[::-1], KEPT, "ascending"),
        (SHARES, -KEPT, "finite number ≥ 0"),
    ],
)
def test_impossible_blurs_are_refused(
    profile: Profile, policy: TablePolicy, shares: np.ndarray, kept: np.ndarray, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        policy.with_blur(profile, shares, kept)


def test_a_request_is_decided_on_by_its_own_blur(profile: Profile, policy: TablePolicy) -> None:
    """`blur_px` counts in the picture's own pixels: 30 of 1080 are a sharper picture than 30 of 270."""

    def answered(blur: float | None, height: int, reading_ms: float | None = None) -> int:
        controller = Controller(choose(policy, profile), profile.costs("p95"))
        scheduler = Scheduler(controller, profile.costs("p95"))
        picture = np.zeros((height, 2 * height, 3), np.uint8)
        request = Request(1, 0.0, 1.0, reading_ms, tensor=picture, blur_px=blur)
        scheduler.admit(request, 0.0, Limits())
        start = scheduler.next(0.0, Limits())
        assert isinstance(start, Start)
        return start.decision.phi

    assert [answered(30, 1080), answered(30, 270), answered(None, 270)] == [2, 0, 2]
    assert answered(30, 270, reading_ms=500.0) == 0
    assert Request(1, 0.0, 1.0, blur_px=3).blur_share is None  # no picture, no share


def test_older_and_newer_releases_understand_each_other() -> None:
    """A daemon that does not know the field reads the rest; a client that does not send it is blurless."""

    class Older(msgspec.Struct):
        id: int
        dtype: str
        shape: tuple[int, ...]

    header = InferHeader(1, "uint8", (4, 4, 3), blur_px=2.5)
    assert protocol.decode(Older, protocol.pack(header)) == Older(1, "uint8", (4, 4, 3))
    assert protocol.decode(InferHeader, protocol.pack(header)).blur_px == 2.5
    old = protocol.pack(Older(1, "uint8", (4, 4, 3)))
    assert protocol.decode(InferHeader, old).blur_px is None
    assert msgspec.json.decode(b'{"blur_px": 2.5}', type=Parameters).blur_px == 2.5
    for wrong in (-1.0, float("nan")):
        with pytest.raises(InvalidRequest, match="blur_px is"):
            protocol.check_numbers(InferHeader(1, "uint8", (4, 4, 3), blur_px=wrong))


def test_a_replay_pays_by_the_blur_of_the_picture(profile: Profile, policy: TablePolicy) -> None:
    """Scored row by row in plain Python; knowing the blur beats not knowing it on a changing flight."""
    rng = np.random.default_rng(5)
    budgets = np.repeat(rng.uniform(8, 60, 15), 20)
    blur = np.repeat(rng.choice([0.0, 0.02, 0.1], 30), 10)
    trace = Trace(np.arange(300.0), budgets, {"blur_share": blur}, "flight")
    costs = profile.costs("p95")
    worth = costs.quality * KEPT
    table = policy.bind_blur(profile)
    outcome = replay_blur(trace, profile, table, SHARES, worth)
    active, total, on_time = 0, 0.0, 0
    for t in range(1, 300):
        level = int(np.abs(SHARES - blur[t]).argmin())
        table.see(blur[t])
        a = table.decide(budgets[t - 1], active)
        in_time = costs.latency_ms[a] + costs.stall_ms[active][a] <= budgets[t]
        total += (worth[level, a] if in_time else -0.5) - 0.01 * (a != active)
        on_time += in_time
        active = a
    assert outcome.mean_score == pytest.approx(total / 299)
    assert outcome.on_time_share == pytest.approx(on_time / 299)
    blind = replay_blur(trace, profile, policy.bind(profile), SHARES, worth)
    assert outcome.mean_score > blind.mean_score
    with pytest.raises(TraceError, match="no column blur_share"):
        replay_blur(Trace(trace.time_s, budgets), profile, table, SHARES, worth)


def test_solve_takes_what_was_measured(tmp_path: Path, profile: Profile) -> None:
    """`adaphi solve --blur` writes a policy with a table for each blur; another ladder is refused."""
    measured = str(ROOT / "docs" / "scaling" / "drone.json")
    file = tmp_path / "policy.npz"
    command = ["solve", "--blur", measured, "-o", str(file), "--profile"]
    example = str(ROOT / "examples" / "profile.json")
    CliRunner().invoke(app, [*command, example], catch_exceptions=False)
    solved = TablePolicy.load(file).blur
    assert solved is not None and solved.shares[-1] == pytest.approx(32 / 288)
    profile.save(tmp_path / "other.json")
    done = CliRunner().invoke(app, [*command, str(tmp_path / "other.json")])
    assert done.exit_code and "measured tf_efficientnet_lite0" in str(done.exception) + done.output
    done = CliRunner().invoke(app, [*command, example, "--battery-wh", "10"])
    assert done.exit_code and "a battery or by blur" in str(done.exception) + done.output
