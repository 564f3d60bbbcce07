"""Every policy on real traces it has not seen: headroom captured, worst loss, by volatility.

Budgets: CPU and memory use become 1 − use, everything else its absolute value, each trace divided by its
own median and times 50 ms. The first half is learned from, up to 4000 steps of the second are scored. Two
ladders, three stalls between different variants. The bar is the best rule on the scored half itself, chosen
in hindsight. The traces are those of `$ADAPHI_TRACES` (a folder with `index.csv`); without one the bundled
recording stands in, which shows that everything runs and nothing else.

    python -m benchmarks.policy --details policy.csv
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.policies import Objective
from adaphi.policies.trace import read_csv
from adaphi.sim import Trace
from adaphi.sim.compare import compare

from .harness import Row, show
from .problems import ROOT

LADDERS = {
    "30/42/55 ms": ((30.0, 42.0, 55.0), (0.748, 0.766, 0.775)),
    "10/30/90 ms": ((10.0, 30.0, 90.0), (0.66, 0.75, 0.82)),
}
STALLS_MS = (0.0, 5.0, 15.0)
OBJECTIVE = Objective(miss_cost=0.5, switch_cost=0.01)
SCORED_ROWS = 4001
LEAST_ROWS = 300
BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Cell:
    """One trace under one ladder and stall: the mean score of every policy."""

    ladder: str
    stall_ms: float
    trace: str
    steps: int
    volatility: float
    scores: dict[str, float]
    best_rule: str

    @property
    def bar(self) -> float:
        return self.scores[self.best_rule]

    @property
    def headroom(self) -> float:
        return self.scores["clairvoyant"] - self.bar


def profile(ladder: str, stall_ms: float) -> Profile:
    """Return the profile of one of `LADDERS`."""
    latencies, qualities = LADDERS[ladder]
    return Profile(
        ladder=ladder,
        variants=tuple(
            VariantProfile(phi, f"v{phi}", quality, Latency(p95=ms))
            for phi, (ms, quality) in enumerate(zip(latencies, qualities, strict=True))
        ),
        stall_ms=tuple(tuple(0.0 if m == a else stall_ms for a in range(3)) for m in range(3)),
    )


def trace_folder() -> Path:
    """Return the folder of real traces, which may not exist."""
    return Path(os.environ.get("ADAPHI_TRACES", ROOT.parent / "shared" / "data" / "traces"))


def traces(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, budgets in ms) of every trace that is long enough."""
    if not (folder / "index.csv").exists():
        yield "examples/trace", Trace.read(ROOT / "examples" / "trace.csv").budget_ms
        return
    with (folder / "index.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["file"].startswith("budget/")]
    for row in rows:
        if int(row["rows"]) < LEAST_ROWS:
            continue
        value = read_csv(folder / row["file"])["value"]
        if row["resource"] in ("cpu_util", "mem_util"):
            full = 100.0 if row["unit"] == "percent" else 1.0
            value = np.maximum(full - value, 0.0)
        budget = np.abs(value)
        yield Path(row["file"]).stem, budget / np.median(budget) * 50.0


def evaluate(job: tuple[str, float, str, np.ndarray]) -> Cell:
    """Run one cell."""
    ladder, stall_ms, name, budget = job
    half = len(budget) // 2
    train, test = budget[:half], budget[half:][:SCORED_ROWS]
    result = compare(
        Trace.from_budgets(train),
        Trace.from_budgets(test),
        profile(ladder, stall_ms),
        objective=OBJECTIVE,
    )
    logs = np.log(np.maximum(test, 1e-3 * np.median(test)))
    outcomes = (*result.rules, *result.tables, result.clairvoyant)
    return Cell(
        ladder,
        stall_ms,
        name,
        len(test) - 1,
        float(np.abs(np.diff(logs)).mean()),
        {_family(o.policy): o.mean_score for o in outcomes},
        _family(result.best_rule.policy),
    )


def _family(policy: str) -> str:
    """Return a name that means the same in every cell: tuned hysteresis is tuned differently in each."""
    if policy == "hysteresis:1.1,3":
        return "hysteresis"
    return "hysteresis, tuned" if policy.startswith("hysteresis") else policy


def captured(cells: Sequence[Cell], policy: str) -> float:
    """Return the pooled headroom captured."""
    return sum(c.scores[policy] - c.bar for c in cells) / sum(c.headroom for c in cells)


def interval(cells: Sequence[Cell], policy: str) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `captured`, whole traces being drawn."""
    names = sorted({c.trace for c in cells})
    gained = np.array([sum(c.scores[policy] - c.bar for c in cells if c.trace == n) for n in names])
    room = np.array([sum(c.headroom for c in cells if c.trace == n) for n in names])
    draws = np.random.default_rng(0).integers(0, len(names), (BOOTSTRAPS, len(names)))
    low, high = np.quantile(gained[draws].sum(1) / room[draws].sum(1), [0.025, 0.975])
    return float(low), float(high)


def rows_of(ladder: str, cells: Sequence[Cell]) -> Iterator[Row]:
    """Yield what is aimed at, and how it came out, for one ladder."""
    singles = [p for p in cells[0].scores if p not in ("table", "refreshed", "clairvoyant")]
    singles = [p for p in singles if all(p in c.scores for c in cells)]
    mean = {
        p: float(np.mean([c.scores[p] for c in cells])) for p in [*singles, "table", "refreshed"]
    }
    best = max(singles, key=lambda p: mean[p])
    low, high = interval(cells, "refreshed")
    yield Row(
        f"{ladder}: refreshed, headroom captured [{low:+.2f}, {high:+.2f}]",
        captured(cells, "refreshed"), "share", "more", "the table", captured(cells, "table"), "≥ +0.10",
    )  # fmt: skip
    losses = {p: min(c.scores[p] - c.bar for c in cells) for p in ("refreshed", "table", best)}
    yield Row(
        f"{ladder}: refreshed, worst against the best rule",
        losses["refreshed"], "score", "more", best, losses[best], "≥ −0.005",
    )  # fmt: skip
    for policy in ("table", "refreshed"):
        yield Row(
            f"{ladder}: {policy}, pooled mean score",
            mean[policy], "score", "more", best, mean[best], "≥ the best single rule",
        )  # fmt: skip
    order = sorted(cells, key=lambda c: c.volatility)
    for number, part in enumerate(np.array_split(np.arange(len(order)), 4), start=1):
        some = [order[i] for i in part]
        if sum(c.headroom for c in some) > 0:
            value = captured(some, "refreshed")
            yield Row(f"{ladder}: volatility quartile {number} of 4", value, "share", "more")


def run_cells(quick: bool = False) -> list[Cell]:
    """Evaluate every cell on all cores."""
    found = list(traces(trace_folder()))[: 1 if quick else None]
    stalls = STALLS_MS[1:2] if quick else STALLS_MS
    jobs = [(ladder, s, name, b) for name, b in found for ladder in LADDERS for s in stalls]
    if quick:
        return [evaluate((*job[:3], job[3][:600])) for job in jobs]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(evaluate, jobs))


def run(quick: bool = False) -> list[Row]:
    """Return the pooled figures."""
    cells = run_cells(quick)
    return [
        row for name in LADDERS for row in rows_of(name, [c for c in cells if c.ladder == name])
    ]


def main() -> None:
    """Run everything, print the figures, and write every cell where `--details` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy")
    parser.add_argument("--details", type=Path, help="a CSV of every cell")
    arguments = parser.parse_args()
    cells = run_cells()
    show("policy", [r for n in LADDERS for r in rows_of(n, [c for c in cells if c.ladder == n])])
    if arguments.details:
        names = list(dict.fromkeys(p for c in cells for p in c.scores))
        with arguments.details.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ["ladder", "stall_ms", "trace", "steps", "volatility", "best_rule", *names]
            )
            for c in cells:
                facts = [c.ladder, c.stall_ms, c.trace, c.steps, f"{c.volatility:.5f}", c.best_rule]
                writer.writerow(
                    [*facts, *(f"{c.scores[n]:.6f}" if n in c.scores else "" for n in names)]
                )


if __name__ == "__main__":
    main()
