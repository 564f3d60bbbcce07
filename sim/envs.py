"""The replay and the queue as Gymnasium's environments (extra `gym`), for those who would rather learn.

Importing this module registers `adaphi/BudgetTrace-v0` (also as a vector environment) and `adaphi/Queue-v0`:

    env = gymnasium.make("adaphi.sim.envs:adaphi/BudgetTrace-v0", trace="train.csv", profile="profile.json")

Rewards are the replay's scores, step by step, so what an agent collects and what `adaphi simulate` says are
the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingExtraError
from ..model_zoo.profile import Profile
from ..policies.frame import Objective
from ..policies.trace import Trace
from .scoring import check_length

try:
    import gymnasium
    from gymnasium.spaces import Box, Discrete
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError:
    raise MissingExtraError("an environment of Gymnasium", "gym") from None

from .queue_env import QueueEnv

Floats = NDArray[np.float64]
Seen = NDArray[np.float32]
Traces = Trace | str | Path | Sequence[Trace | str | Path]

__all__ = ["BudgetTraceEnv", "BudgetTraceVectorEnv", "QueueEnv"]

_WIDEST = 5.0  # |ln| of a reading ÷ the cost of φ = 0, beyond which all are alike


class _Frames:
    """What one environment and many share: traces end to end, what is seen of them, and what is paid."""

    def __init__(
        self,
        trace: Traces,
        profile: Profile | str | Path,
        objective: Objective | None,
        latency: str,
        history: int,
        steps: int | None,
    ) -> None:
        if history < 1 or (steps is not None and steps < 1):
            raise InputError(f"history {history}, steps {steps}: expected 1 at least")
        given = [trace] if isinstance(trace, Trace | str | Path) else list(trace)
        traces = [t if isinstance(t, Trace) else Trace.read(t) for t in given]
        if not traces:
            raise InputError("an environment needs a trace, at least")
        for one in traces:
            check_length(one)
        profile = profile if isinstance(profile, Profile) else Profile.load(profile)
        self.costs, self.objective = profile.costs(latency), objective or Objective()
        self.readings_ms = np.concatenate([t.readings_ms for t in traces])
        self.budget_ms = np.concatenate([t.budget_ms[1:] for t in traces])
        self._ends = np.cumsum([len(t) - 1 for t in traces])
        self._steps = steps
        self.seen = self._look_back(history)
        variants, width = len(self.costs), self.seen.shape[1]
        self.one_hot = np.eye(variants, dtype=np.float32)
        low = np.concatenate([np.full(width, -_WIDEST), np.zeros(variants)])
        high = np.concatenate([np.full(width, _WIDEST), np.ones(variants)])
        self.observations = Box(low.astype(np.float32), high.astype(np.float32))
        self.actions = Discrete(variants)

    def _look_back(self, history: int) -> Seen:
        """Return what is seen of the budget at each step (T, history): the last reading first."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.readings_ms / self.costs.latency_ms[0])
        logs = np.clip(logs, -_WIDEST, _WIDEST).astype(np.float32)
        lengths = np.diff(self._ends, prepend=0)
        firsts = np.repeat(self._ends - lengths, lengths)
        rows = np.arange(len(logs))[:, None] - np.arange(history)
        return np.asarray(logs[np.maximum(rows, firsts[:, None])])

    def draw(self, random: np.random.Generator) -> tuple[int, int]:
        """Return where an episode begins and ends: a whole trace, or `steps` of one."""
        which = int(random.integers(len(self._ends)))
        begin, end = int(self._ends[which - 1]) if which else 0, int(self._ends[which])
        if self._steps is None or end - begin <= self._steps:
            return begin, end
        begin += int(random.integers(end - begin - self._steps + 1))
        return begin, begin + self._steps

    def pay(self, step: Any, active: Any, chosen: Any) -> tuple[Any, Any]:
        """Return (score, on time) of steps, as `Replay.scores`."""
        on_time = self.costs.need_ms[active, chosen] <= self.budget_ms[step]
        paid = np.where(on_time, self.costs.quality[chosen], -self.objective.miss_cost)
        return paid - self.objective.switch_cost * (chosen != active), on_time


class BudgetTraceEnv(gymnasium.Env[Seen, np.int64]):
    """A replay, step by step: see a reading, choose φ, be paid on the budget that comes.

    `trace` (or several, of which an episode draws one) and `profile`, as they are or as files. An episode is
    a whole trace, or `steps` rows from a random one on; then it is truncated, for a trace is cut, not over.
    φ = 0 is active at first. Observed (history + M,): ln of the last `history` readings ÷ the cost of φ = 0,
    the latest first, within ±5; then 1 for the active variant. Actions are φ. `info` has `reading_ms`,
    `active` and, after a step, `on_time`. Raises `InputError` or `TraceError`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(
        self,
        trace: Traces,
        profile: Profile | str | Path,
        *,
        objective: Objective | None = None,
        latency: str = "p95",
        history: int = 1,
        steps: int | None = None,
    ) -> None:
        self._frames = _Frames(trace, profile, objective, latency, history, steps)
        self.observation_space, self.action_space = self._frames.observations, self._frames.actions
        self._step = self._end = self._active = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin an episode; return what is seen and `info`."""
        super().reset(seed=seed)
        self._step, self._end = self._frames.draw(self.np_random)
        self._active = 0
        return self._look(), self._info()

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Answer one step with φ = `action`; return what is seen, the score, False, the end, `info`."""
        score, on_time = self._frames.pay(self._step, self._active, int(action))
        self._step, self._active = self._step + 1, int(action)
        info = self._info() | {"on_time": bool(on_time)}
        return self._look(), float(score), False, self._step == self._end, info

    def _look(self) -> Seen:
        row = min(self._step, self._end - 1)  # after the last step nothing new is read
        return np.concatenate([self._frames.seen[row], self._frames.one_hot[self._active]])

    def _info(self) -> dict[str, Any]:
        row = min(self._step, self._end - 1)
        return {"reading_ms": float(self._frames.readings_ms[row]), "active": self._active}


class BudgetTraceVectorEnv(VectorEnv[Seen, NDArray[np.int64], NDArray[Any]]):
    """`num_envs` of `BudgetTraceEnv` in a few numpy operations a step; the same numbers as `SyncVectorEnv`.

    One that ended begins anew at the next step, whose action it ignores (`AutoresetMode.NEXT_STEP`).
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        trace: Traces,
        profile: Profile | str | Path,
        *,
        objective: Objective | None = None,
        latency: str = "p95",
        history: int = 1,
        steps: int | None = None,
    ) -> None:
        self._frames = _Frames(trace, profile, objective, latency, history, steps)
        self.num_envs = num_envs
        self.single_observation_space = self._frames.observations
        self.single_action_space = self._frames.actions
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms = [np.random.default_rng() for _ in range(num_envs)]
        self._step, self._end, self._active = np.zeros((3, num_envs), np.int64)
        self._over = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin an episode in each; one seed counts up from the first to the last."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        for number, one in enumerate(seeds or []):
            if one is not None:
                self._randoms[number], _ = gymnasium.utils.seeding.np_random(one)
        self._begin(np.arange(self.num_envs))
        self._over[:] = False
        return self._look(), self._info()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Seen, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Answer one step in each; return arrays as `BudgetTraceEnv.step` returns values."""
        begins, chosen = self._over, np.asarray(actions)
        row = np.minimum(self._step, self._end - 1)
        score, on_time = self._frames.pay(row, self._active, chosen)
        reward = np.where(begins, 0.0, score)
        self._step, self._active = self._step + 1, chosen.copy()
        if begins.any():
            self._begin(np.flatnonzero(begins))
        self._over = self._step == self._end
        info = self._info() | {"on_time": on_time & ~begins, "_on_time": ~begins}
        return self._look(), reward, np.zeros(self.num_envs, np.bool_), self._over.copy(), info

    def _begin(self, numbers: NDArray[np.int64]) -> None:
        for number in numbers.tolist():
            self._step[number], self._end[number] = self._frames.draw(self._randoms[number])
        self._active[numbers] = 0

    def _look(self) -> Seen:
        row = np.minimum(self._step, self._end - 1)
        seen = self._frames.seen[row], self._frames.one_hot[self._active]
        return np.concatenate(seen, axis=1)

    def _info(self) -> dict[str, Any]:
        row, all_ = np.minimum(self._step, self._end - 1), np.ones(self.num_envs, np.bool_)
        reading_ms = self._frames.readings_ms[row]
        return {
            "reading_ms": reading_ms, "_reading_ms": all_,
            "active": self._active.copy(), "_active": all_.copy(),
        }  # fmt: skip


gymnasium.register(
    "adaphi/BudgetTrace-v0",
    entry_point=f"{__name__}:BudgetTraceEnv",
    vector_entry_point=f"{__name__}:BudgetTraceVectorEnv",
)
gymnasium.register("adaphi/Queue-v0", entry_point=f"{__name__}:QueueEnv")
