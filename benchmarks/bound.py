"""How far a policy that knows the law gets: `policy` again, in worlds made from the same traces.

From every trace of `policy` a world is made (see `worlds`), and from that traces of exactly its length are
drawn. A draw is evaluated as the real trace is: rules tuned on its first half, scored on its second, the bar
the best of them in hindsight. Beside them runs what is optimal for the law that the draw came from, with so
many steps to go: no causal policy scores more on average, and what it misses no learning can be asked for.
Three more witnesses:

* the law with a stop: once the best rule so far is two units ahead, that rule is followed instead, for the
  best mean need not be the best chance of never being far behind;
* the learning policy, which knows nothing but the first half, on some of the draws;
* blocks of the real trace instead of a chain: more real, but what is optimal there nobody can say, and "the
  law" is only the best table of level and direction.

The myopic rule's chain is learned once a draw, all ladders' thresholds among its edges; all else is as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product, zip_longest

import numpy as np

from adaphi.model_zoo.profile import Costs
from adaphi.policies.chain import Chain, fit_chain
from adaphi.policies.committee import Committee
from adaphi.policies.rules import greedy, myopic, static
from adaphi.sim import Trace, kernels
from adaphi.sim.compare import GUARDS, PATIENCES, SMOOTHINGS
from adaphi.sim.optimum import best_path
from adaphi.sim.replay import decide_stepwise
from adaphi.sim.scoring import figures

from .harness import Row
from .policy import (
    LADDERS,
    OBJECTIVE,
    SCORED_ROWS,
    STALLS_MS,
    Cell,
    captured,
    profile,
    trace_folder,
    traces,
)
from .quickrules import alert, hysteresis
from .worlds import Blocks, Source, World

THRESHOLDS_MS = np.unique([profile(*p).costs().need_ms for p in product(LADDERS, STALLS_MS)])
WORLDS: dict[str, Callable[[np.ndarray], Source]] = {
    "level": partial(World.fit, thresholds_ms=THRESHOLDS_MS, trend=False),
    "level and direction": partial(World.fit, thresholds_ms=THRESHOLDS_MS, trend=True),
    "blocks of 20": partial(Blocks, thresholds_ms=THRESHOLDS_MS, block_steps=20),
}
PARTS: dict[str, Callable[[Cell], bool]] = {
    "all traces": lambda cell: True,
    "1000 steps and more": lambda cell: cell.steps >= 1000,
    "shorter": lambda cell: cell.steps < 1000,
}
POLICIES = ("law", "law with a stop", "refreshed")
STOP_BEHIND = 2.0
DRAWS = 24
DRAWS_SHORT = 120
DRAWS_LEARNED = 6  # of short traces; the learning policy runs on long ones once, in one world
LEARNED_WHOLE = "level and direction"
CAPTURED_AIM = 0.10
WORST_AIM = -0.005


@dataclass(frozen=True)
class Job:
    """A world of one trace: how many draws of it, and on how many of them the learning policy runs."""

    world: str
    trace: str
    budget_ms: np.ndarray
    seed: int
    draws: int
    learned: int


def evaluate(job: Job) -> list[list[Cell]]:
    """Return every cell (ladder × stall) of every draw."""
    source = WORLDS[job.world](job.budget_ms)
    rows = len(job.budget_ms)
    half = rows // 2
    steps = min(rows - half, SCORED_ROWS) - 1
    problems = [(*p, profile(*p).costs()) for p in product(LADDERS, STALLS_MS)]
    tables = [source.law.tables(costs, OBJECTIVE, steps) for _, _, costs in problems]
    drawn = []
    for draw in range(job.draws):
        states, budgets = source.draw(rows, np.random.default_rng((job.seed, draw)))
        train, test = budgets[:half], budgets[half : half + steps + 1]
        seen = states[half : half + steps]
        chain = fit_chain([train], THRESHOLDS_MS)
        cells = []
        for (ladder, stall_ms, costs), table in zip(problems, tables, strict=True):
            bar = dict(rules(train, test, costs, chain))
            maps = table[np.arange(steps), seen]
            others = {"law": follow(maps), "clairvoyant": clairvoyant(test, costs)}
            others["law with a stop"] = follow_with_stop(maps, [*bar.values()], test, costs)
            if draw < job.learned:
                others["refreshed"] = learning(train, test, costs)
            scores = {p: mean_score(test, costs, d) for p, d in (bar | others).items()}
            best = max(bar, key=scores.__getitem__)
            cells.append(Cell(ladder, stall_ms, job.trace, steps, 0.0, scores, best))
        drawn.append(cells)
    return drawn


def rules(
    train: np.ndarray, test: np.ndarray, costs: Costs, chain: Chain
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the decisions of every rule that the bar is made of, as `sim.compare` has them."""
    readings = test[:-1]
    lookups = [static(costs, phi) for phi in range(len(costs))]
    for rule in (*lookups, greedy(costs), myopic(costs, chain, OBJECTIVE)):
        yield rule.name, kernels.walk(readings, rule.edges_ms, rule.table)
    yield "hysteresis", hysteresis(readings, costs)
    tuned = max(
        product(GUARDS, PATIENCES, SMOOTHINGS),
        key=lambda choice: mean_score(train, costs, hysteresis(train[:-1], costs, *choice)),
    )
    yield "hysteresis, tuned", hysteresis(readings, costs, *tuned)
    yield "alert", alert(readings, costs, OBJECTIVE)


def follow(maps: np.ndarray) -> np.ndarray:
    """Return the decisions (T,) of T maps from the active variant to the chosen one, (T, M)."""
    active, decisions = 0, []
    for chosen in maps.tolist():
        active = chosen[active]
        decisions.append(active)
    return np.array(decisions, np.uint8)


def follow_with_stop(
    maps: np.ndarray, rules: Sequence[np.ndarray], budget_ms: np.ndarray, costs: Costs
) -> np.ndarray:
    """Return the decisions of the maps until a rule is `STOP_BEHIND` ahead; then its own, and so on."""
    steps = np.arange(len(maps))
    payoffs = step_payoffs(budget_ms, costs)
    scores = [payoffs[steps, np.append(0, d[:-1]), d] for d in rules]
    totals = np.cumsum([[0.0, *s] for s in scores], axis=1)
    ahead, best = totals.max(axis=0).tolist(), totals.argmax(axis=0).tolist()
    own, followed, active = 0.0, None, 0
    decisions = np.empty(len(maps), np.uint8)
    for step, chosen in enumerate(maps.tolist()):
        if ahead[step] - (own if followed is None else totals[followed, step]) >= STOP_BEHIND:
            followed = best[step]
        decision = chosen[active] if followed is None else int(rules[followed][step])
        own += float(payoffs[step, active, decision])
        decisions[step] = active = decision
    return decisions


def step_payoffs(budget_ms: np.ndarray, costs: Costs) -> np.ndarray:
    """Return what choosing a with m active scores at each step, (T − 1, M, M)."""
    on_time = costs.need_ms <= budget_ms[1:, None, None]
    paid = np.where(on_time, costs.quality, -OBJECTIVE.miss_cost)
    return paid - OBJECTIVE.switch_cost * (1 - np.eye(len(costs)))


def mean_score(budget_ms: np.ndarray, costs: Costs, decisions: np.ndarray) -> float:
    """Return the mean score of decisions (T − 1,) on budgets (T,)."""
    on_time, switches = kernels.tally(budget_ms, costs.need_ms, decisions)
    quality = float(on_time @ costs.quality)
    return figures(OBJECTIVE, len(decisions), int(on_time.sum()), switches, quality).mean_score


def learning(train: np.ndarray, test: np.ndarray, costs: Costs) -> np.ndarray:
    """Return the decisions of the learning policy, begun on the first half."""
    policy = Committee(costs, OBJECTIVE, [train / costs.latency_ms[0]])
    return decide_stepwise(Trace.from_budgets(test), policy, costs)


def clairvoyant(budget_ms: np.ndarray, costs: Costs) -> np.ndarray:
    """Return the best decisions, all budgets known."""
    return best_path(
        budget_ms, costs.need_ms, costs.quality, OBJECTIVE.miss_cost, OBJECTIVE.switch_cost
    )


def rows_of(world: str, draws: Sequence[Sequence[Cell]]) -> Iterator[Row]:
    """Yield how far each policy gets in one world, for each ladder and part of the traces."""
    for ladder, policy, (part, belongs) in product(LADDERS, POLICIES, PARTS.items()):
        mine = [[c for c in cells if c.ladder == ladder and belongs(c)] for cells in draws]
        whole = max(map(len, mine))
        mine = [m for m in mine if len(m) == whole > 0 and all(policy in c.scores for c in m)]
        if mine:
            name = f"{world}, {ladder}, {part}, {len(mine)} draws: {policy}"
            share = [captured(cells, policy) for cells in mine]
            worst = [min(c.scores[policy] - c.bar for c in cells) for cells in mine]
            yield row(f"{name}, captured", share, "share", "≥ +0.10", CAPTURED_AIM)
            yield row(f"{name}, worst cell", worst, "score", "≥ −0.005", WORST_AIM)


def row(what: str, figures: Sequence[float], unit: str, target: str, aim: float) -> Row:
    """Return the median over draws, the 5 and 95 % points, and the share of draws that reach the aim."""
    low, middle, high = np.quantile(figures, [0.05, 0.5, 0.95]).tolist()
    reached = float(np.mean(np.array(figures) >= aim))
    what = f"{what} [{low:+.3f}, {high:+.3f}]"
    return Row(what, middle, unit, "more", "share of draws that reach it", reached, target)


def jobs_of(quick: bool) -> Iterator[Job]:
    """Yield every world of every trace."""
    found = list(traces(trace_folder()))[: 1 if quick else None]
    for world, (seed, (name, budget)) in product(WORLDS, enumerate(found)):
        short = len(budget) // 2 <= 1000
        learned = DRAWS_LEARNED if short else int(world == LEARNED_WHOLE)
        if quick:
            yield Job(world, name, budget[:200], seed, draws=2, learned=1)
        else:
            yield Job(world, name, budget, seed, DRAWS_SHORT if short else DRAWS, learned)


def run(quick: bool = False) -> list[Row]:
    """Return how far each policy gets in each world."""
    jobs = list(jobs_of(quick))
    if quick:
        outcomes = [evaluate(job) for job in jobs]
    else:
        with ProcessPoolExecutor() as pool:
            outcomes = list(pool.map(evaluate, jobs))
    rows: list[Row] = []
    for world in WORLDS:
        mine = [drawn for job, drawn in zip(jobs, outcomes, strict=True) if job.world == world]
        draws = [[c for cells in draw for c in cells] for draw in zip_longest(*mine, fillvalue=())]
        rows += rows_of(world, draws)
    return rows
