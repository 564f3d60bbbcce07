"""Every policy side by side on a trace that none of them has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ..model_zoo.profile import Profile
from ..policies.frame import Objective
from ..policies.lookup import Policy
from ..policies.rules import Hysteresis, myopic
from ..policies.table import TablePolicy
from ..policies.trace import Trace
from .replay import Replay, clairvoyant, replay
from .scoring import check_length

GUARDS = (1.0, 1.05, 1.1, 1.2, 1.4)
PATIENCES = (1, 2, 3, 5, 10)
SMOOTHINGS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Comparison:
    """Replays on one test trace: the rules, the tables, and the bound.

    `best_rule` is the best of the rules *on that very trace, chosen in hindsight*: the bar.
    """

    rules: tuple[Replay, ...]
    tables: tuple[Replay, ...]
    clairvoyant: Replay

    @property
    def best_rule(self) -> Replay:
        """Return the rule with the highest mean score."""
        return max(self.rules, key=lambda outcome: outcome.mean_score)

    @property
    def ranked(self) -> list[Replay]:
        """Return all outcomes but the clairvoyant's, each policy once, the best first."""
        every = {o.policy: o for o in (*self.rules, *self.tables)}
        return sorted(every.values(), key=lambda outcome: -outcome.mean_score)

    def headroom_captured(self, outcome: Replay) -> float | None:
        """Return (policy − best rule) / (clairvoyant − best rule); None where there is no headroom."""
        bar = self.best_rule.mean_score
        headroom = self.clairvoyant.mean_score - bar
        return (outcome.mean_score - bar) / headroom if headroom > 1e-12 else None

    def summary(self) -> dict[str, object]:
        """Return all figures."""
        return {
            "trace": self.clairvoyant.trace.name,
            "steps": len(self.clairvoyant.decisions),
            "policies": {
                outcome.policy: outcome.summary()
                for outcome in (*self.rules, *self.tables, self.clairvoyant)
            },
            "best_rule": self.best_rule.policy,
            "headroom_captured": {t.policy: self.headroom_captured(t) for t in self.tables},
        }


def compare(
    train: Trace | Sequence[Trace],
    test: Trace,
    profile: Profile,
    *,
    objective: Objective | None = None,
    latency: str = "p95",
    policy: TablePolicy | None = None,
) -> Comparison:
    """Return every rule, the table and the refreshed table on `test`, learned from `train` alone.

    Hysteresis runs with its defaults and tuned on `train`, `myopic` on the table's chain. With `policy`
    that table is used, and `train` only tunes the rules. Raises `TraceError` for a trace under two rows.
    """
    objective = objective or Objective()
    training = [train] if isinstance(train, Trace) else list(train)
    for trace in training:
        check_length(trace, "learning")
    table = policy or TablePolicy.solve(
        profile, [t.budget_ms for t in training], objective=objective, latency=latency
    )

    def run(spec: str | TablePolicy | Policy, adapt: bool = False) -> Replay:
        return replay(test, profile, spec, objective=objective, latency=latency, adapt=adapt)

    tuned = tune_hysteresis(training, profile, objective=objective, latency=latency)
    costs = profile.costs(latency)
    rules: list[str | Policy] = [f"static:{phi}" for phi in range(len(profile))]
    rules += ["greedy", "hysteresis", tuned, "alert", "random:0"]
    rules.append(myopic(costs, table.chain_ms(costs), objective))
    return Comparison(
        rules=tuple({r.policy: r for r in map(run, rules)}.values()),
        tables=(run(table), run(table, adapt=True)),
        clairvoyant=clairvoyant(test, profile, objective=objective, latency=latency),
    )


def tune_hysteresis(
    training: Sequence[Trace], profile: Profile, *, objective: Objective, latency: str
) -> str:
    """Return the name of the hysteresis rule that scores best over the training traces' steps."""
    costs = profile.costs(latency)

    def total(guard: float, patience: int, smoothing: float) -> float:
        rule = Hysteresis(costs, guard, patience, smoothing)
        outcomes = [
            replay(t, profile, rule, objective=objective, latency=latency) for t in training
        ]
        return sum(o.mean_score * len(o.decisions) for o in outcomes)

    best = max(product(GUARDS, PATIENCES, SMOOTHINGS), key=lambda choice: total(*choice))
    return Hysteresis(costs, *best).name
