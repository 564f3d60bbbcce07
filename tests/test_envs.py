"""The environments of Gymnasium are the replay and the queue: the checker's rules, and the same scores."""

from __future__ import annotations

import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import SyncVectorEnv  # noqa: E402

from adaphi import sim  # noqa: E402
from adaphi.errors import InputError, TraceError  # noqa: E402
from adaphi.model_zoo import Profile  # noqa: E402
from adaphi.policies import Objective, TablePolicy  # noqa: E402
from adaphi.policies.queue_table import QueuePlan  # noqa: E402
from adaphi.sim import Trace, generating, replay  # noqa: E402
from adaphi.sim.envs import BudgetTraceEnv, BudgetTraceVectorEnv, QueueEnv  # noqa: E402
from adaphi.sim.requests import OK, World, serve  # noqa: E402
from adaphi.sim.scoring import total_score  # noqa: E402
from adaphi.sim.workload import Workload  # noqa: E402

ROOT = Path(__file__).parents[1]
OBJECTIVE = Objective(miss_cost=0.4, switch_cost=0.03)


@pytest.fixture
def trace() -> Trace:
    """Return budgets around the thresholds of `profile`, jumping and drifting."""
    return generating.regime(
        600, levels_ms=[9, 14, 20, 40], stay_s=15, spread=0.15, memory=0.9, seed=4
    )


def test_the_checker_of_gymnasium_has_nothing_to_say(profile: Profile, trace: Trace) -> None:
    """`check_env` passes without a warning for both, made by name."""
    for env in (
        gymnasium.make("adaphi/BudgetTrace-v0", trace=trace, profile=profile, history=3, steps=50),
        gymnasium.make("adaphi/Queue-v0", profile=profile, requests=60, batches=(1, 2)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env.unwrapped)


def test_it_can_be_made_from_files_and_by_module(
    profile: Profile, trace: Trace, tmp_path: Path
) -> None:
    """`gymnasium.make` with the module's name registers what it needs; files do for objects."""
    trace.write(tmp_path / "t.csv")
    profile.save(tmp_path / "p.json")
    env = gymnasium.make(
        "adaphi.sim.envs:adaphi/BudgetTrace-v0",
        trace=tmp_path / "t.csv",
        profile=tmp_path / "p.json",
    )
    _, info = env.reset()
    assert info == {"reading_ms": trace.budget_ms[0], "active": 0}
    env = gymnasium.make("adaphi.sim.envs:adaphi/Queue-v0", profile=tmp_path / "p.json", requests=5)
    assert env.reset(seed=1)[1]["queued"].waiting == 1


@pytest.mark.parametrize("policy", ["table", "greedy", "hysteresis", "random:3"])
def test_an_episode_scores_what_the_replay_does(
    profile: Profile, trace: Trace, policy: str
) -> None:
    """Driven by a policy's decisions, each reward is the replay's score of that step, bit for bit, and their
    sum its total; what is seen is the reading and the active variant."""
    chosen: Any = TablePolicy.solve(profile, [trace.budget_ms]) if policy == "table" else policy
    outcome = replay(trace, profile, chosen, objective=OBJECTIVE)
    env = BudgetTraceEnv(trace, profile, objective=OBJECTIVE)
    seen, info = env.reset(seed=0)
    rewards, active = [], 0
    for step, phi in enumerate(outcome.decisions.tolist()):
        assert info["reading_ms"] == trace.budget_ms[step] and info["active"] == active
        assert seen[0] == np.float32(np.log(trace.budget_ms[step] / 10.0))
        assert seen[1:].tolist() == np.eye(3)[active].tolist()
        seen, reward, terminated, truncated, info = env.step(np.int64(phi))
        assert info["on_time"] == outcome.on_time[step]
        rewards.append(reward)
        active = phi
    assert truncated and not terminated
    np.testing.assert_array_equal(rewards, outcome.scores)
    assert sum(rewards) == pytest.approx(outcome.mean_score * len(rewards), abs=1e-9)


def test_many_at_once_are_as_many_alone(profile: Profile, trace: Trace) -> None:
    """The vector form and Gymnasium's `SyncVectorEnv` agree on everything over many episodes: seeds, starts,
    what is seen, rewards, ends, resets and infos; traces may differ, some shorter than an episode."""
    given = {"trace": [trace, trace[:40], trace[100:130]], "profile": profile}
    given |= {"steps": 35, "history": 4, "objective": OBJECTIVE}
    one = SyncVectorEnv([lambda: BudgetTraceEnv(**given) for _ in range(5)])
    two = gymnasium.make_vec(
        "adaphi/BudgetTrace-v0", 5, vectorization_mode="vector_entry_point", **given
    )
    assert isinstance(two.unwrapped, BudgetTraceVectorEnv)
    assert one.observation_space == two.observation_space
    assert one.action_space == two.action_space
    random, nothing = np.random.default_rng(0), np.zeros(5, np.bool_)
    pairs = [(one.reset(seed=9), two.reset(seed=9))]
    for _ in range(200):
        actions = random.integers(0, 3, 5)
        pairs.append((one.step(actions), two.step(actions)))
    for first, second in pairs:
        for a, b in zip(first[:-1], second[:-1], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        for name in ("reading_ms", "active", "on_time"):
            shown = first[-1].get(f"_{name}", nothing)
            np.testing.assert_array_equal(shown, second[-1].get(f"_{name}", nothing))
            if shown.any():
                np.testing.assert_array_equal(first[-1][name][shown], second[-1][name][shown])


@pytest.mark.parametrize("batches", [(1,), (1, 2, 3)])
@pytest.mark.parametrize("rate_per_s", [30.0, 120.0])
def test_a_queue_scores_what_the_simulation_does(
    profile: Profile, rate_per_s: float, batches: tuple[int, ...]
) -> None:
    """Driven by a plan's decisions, under the same draws, on a device that slows down: every request ends as
    in `serve`, by the same variant at the same time, and the rewards add up to its score."""
    plan = QueuePlan.solve(
        profile,
        deadline_ms=90,
        rates_per_s=[rate_per_s],
        batches=batches,
        growth=0.6,
        slack_bins=30,
    )
    world = World(slowdown=Trace([0.0, 3.0, 6.0], [1.0, 1.7, 0.9]))
    given: dict[str, Any] = {"deadline_ms": 90, "rate_per_s": rate_per_s, "max_requests": 8}
    env = QueueEnv(
        profile,
        requests=400,
        batches=batches,
        growth=0.6,
        world=world,
        objective=OBJECTIVE,
        **given,
    )
    policy = plan.bind(profile)
    _, info = env.reset(seed=7)
    total, over = 0.0, False
    while not over:
        decided = policy.plan(info["queued"], info["active"])
        _, reward, _, over, info = env.step(np.int64(env.decisions.index(decided)))
        total += reward
    workload, service_ms = env.drawn
    told = serve(
        workload, profile, plan, world=world, max_requests=8, service_ms=service_ms,
        max_batch=max(batches), batch_growth=0.6, compiled=False,
    )  # fmt: skip
    for name in ("outcome", "phi", "began_s", "done_s"):
        np.testing.assert_array_equal(getattr(env.daemon, name), getattr(told, name))
    on_time = told.outcome == OK
    quality = float(told.quality[told.phi[on_time]].sum())
    score = total_score(OBJECTIVE, len(workload), int(on_time.sum()), told.switches, quality)
    assert total == pytest.approx(score, abs=1e-9)
    assert len(set(told.outcome.tolist())) > 1


def test_the_same_seed_draws_the_same_requests(profile: Profile) -> None:
    """Episodes of one seed are alike, those of two are not; a recorded workload is played as it is."""
    env = QueueEnv(profile, requests=50)
    arrived = [env.reset(seed=s) and env.drawn[0].arrived_s for s in (1, 1, 2)]
    assert (arrived[0] == arrived[1]).all() and (arrived[0] != arrived[2]).all()
    recorded = Workload.regular(10, 20, 100)
    env = QueueEnv(profile, workload=recorded)
    assert env.reset() and env.drawn[0] is recorded


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, t: BudgetTraceEnv([], p),
        lambda p, t: BudgetTraceEnv(t, p, steps=0),
        lambda p, t: BudgetTraceEnv(t, p, history=0),
        lambda p, t: BudgetTraceEnv([t, t[:1]], p),
        lambda p, t: QueueEnv(p, batches=()),
        lambda p, t: QueueEnv(p, deadline_ms=np.inf),
        lambda p, t: QueueEnv(p, rate_per_s=-1),
        lambda p, t: QueueEnv(p, deadline_ms=5).reset(),
    ],
)
def test_what_is_no_environment_is_refused(profile: Profile, trace: Trace, wrong: Any) -> None:
    """No trace, no steps, no deadline, or one that nothing can meet: a clear error."""
    with pytest.raises((InputError, TraceError)):
        wrong(profile, trace)


def test_without_gymnasium_the_extra_is_named() -> None:
    """Importing the environments where Gymnasium is missing says what to install."""
    code = "import sys; sys.modules['gymnasium'] = None; import adaphi.sim.envs"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "pip install 'adaphi[gym]'" in done.stderr


def test_the_example_trains_and_scores(
    trace: Trace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A network of a few steps; beside it stand the replay's own figures, and it is below the clairvoyant."""
    pytest.importorskip("stable_baselines3")
    trace.write(tmp_path / "short.csv")
    arguments = [str(tmp_path / "short.csv"), "--steps", "1100", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["dqn.py", *arguments])
    made = runpy.run_path(str(ROOT / "examples" / "dqn.py"), run_name="__main__")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("short ")]
    steps, best, table, refreshed, clairvoyant, learned = map(float, line.split()[1:])
    _, second = trace.split()
    assert steps == len(second) - 1
    known = sim.clairvoyant(second, made["ladder"]()).mean_score
    assert clairvoyant == pytest.approx(known, abs=1e-4)
    assert max(best, table, refreshed, learned) <= clairvoyant
