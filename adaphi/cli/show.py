"""What commands print: tables for people, JSON for programs, progress on a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..model_zoo.profile import Profile
    from ..policies.table import TablePolicy
    from ..sim.battery import BatteryReplay
    from ..sim.compare import Comparison
    from ..sim.counterfactual import Counterfactual
    from ..sim.fidelity import Fidelity
    from ..sim.live import Live
    from ..sim.replay import Replay
    from ..sim.requests import Served
    from ..sim.resident import ResidentReplay
    from ..sim.scoring import Figures

Progress = Callable[[int, int, str], None]


def print_json(value: object) -> None:
    """Print `value` as JSON."""
    typer.echo(json.dumps(value, indent=2))


def print_table(table: Table) -> None:
    """Print a table; as wide as it needs to be where the output is not a terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def make_table(title: str, columns: list[str]) -> Table:
    """Return an empty table: the first column to the left, the others to the right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Give a function (done, total, what) that draws a bar on a terminal's stderr, and only there."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, total, what: None
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def profile_table(profile: Profile) -> Table:
    """Return a profile as a table."""
    from rich.markup import escape

    columns = ["variant", "quality", "p50 ms", "p95 ms", "p99 ms", "memory MB", "energy mJ"]
    table = make_table(f"{escape(profile.ladder)} on {escape(profile.device)}", columns)
    for v in profile.variants:
        latency = v.latency_ms
        cells = [
            f"{v.quality:.3f}",
            *(_number(x, ".2f") for x in (latency.p50, latency.p95, latency.p99)),
            _number(v.memory_bytes and v.memory_bytes / 1e6, ".0f"),
            _number(v.energy_mj, ".1f"),
        ]
        table.add_row(f"φ{v.phi} {escape(v.name)}", *cells)
    return table


def stall_lines(profile: Profile) -> list[str]:
    """Return the stalls in words."""

    def range_of(matrix: Any) -> str:
        stalls = [s for m, row in enumerate(matrix) for a, s in enumerate(row) if a != m]
        return f"{min(stalls):.2f} to {max(stalls):.2f} ms" if stalls else "none (one variant)"

    lines = [f"switching to a warm variant stalls {range_of(profile.stall_ms)}"]
    if profile.cold_stall_ms is not None:
        lines.append(f"switching to an evicted one stalls {range_of(profile.cold_stall_ms)}")
    return lines


def batch_lines(profile: Profile) -> list[str]:
    """Return what each request of a batch costs, as a share of a single run, and which sizes pay."""
    from ..controller.batches import Batches

    typical_ms = profile.typical_ms()
    batches = Batches(profile.costs(), typical_ms, profile.batch_ms())
    lines = []
    for variant, single_ms in zip(profile.variants, typical_ms, strict=True):
        known, paying = variant.batch_ms or {}, batches.paying[variant.phi]
        if known:
            shares = ", ".join(
                f"{ms / size / single_ms:.2f} of {size}" for size, ms in known.items()
            )
            pays = f"pays for {', '.join(map(str, sorted(paying)))}" if paying else "does not pay"
            lines.append(f"{variant.name} in batches costs each {shares}: {pays}")
    return lines


def candidate_lines(profile: Profile) -> list[str]:
    """Return what became of candidates, and how far int8 is trusted, in words; nothing for a plain ladder."""
    conditions = profile.conditions
    lines = [f"dropped: {what}" for what in str(conditions.get("dropped", "")).split("; ") if what]
    if agreement := conditions.get("agreement_with_fp32"):
        lines.append(f"same first class as fp32: {agreement} pictures")
    return lines


def promise_lines(policy: TablePolicy) -> list[str]:
    """Return what a policy promises, with intervals, and what it plans for a battery, in words."""
    promise = policy.certificate
    figures = (
        ("on time", ".1%", promise.on_time_share, promise.on_time_interval),
        ("switches", ".1%", promise.switch_share, promise.switch_interval),
        ("mean quality", ".4f", promise.mean_quality, promise.quality_interval),
    )
    lines = ["promised for budgets that move as those it was solved on, with 95 % intervals:"]
    for name, form, expected, interval in figures:
        between = "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"
        lines.append(f"  {name} {expected:{form}}{between}")
    if (plan := policy.battery) is not None:
        drain_w = plan.drain_ahead_j(plan.horizon_s) / plan.horizon_s
        at_first = plan.answer_j[plan.price_for(plan.battery_j, plan.horizon_s)]
        lines.append(
            f"{plan.battery_j / 3600:g} Wh for {plan.horizon_s / 3600:.4g} h: {len(plan.prices)} prices "
            f"of energy, {plan.answer_j[-1]:.3g} to {plan.answer_j[0]:.3g} J an answer, "
            f"{at_first:.3g} J at first; everything else is reckoned at {drain_w:.3g} W"
        )
    if policy.blur is not None:
        shares = policy.blur.shares
        lines.append(
            f"that is for pictures without blur; {len(shares)} further tables are for motion blurs of "
            f"{shares[0]:.1%} to {shares[-1]:.1%} of the shorter side"
        )
    return lines


def replay_table(outcome: Replay) -> Table:
    """Return one replay's figures as a table."""
    title = f"{outcome.trace.name}: {len(outcome.decisions)} steps"
    table = make_table(title, ["policy", *SCORES])
    table.add_row(outcome.policy, *_scores(outcome))
    return table


def served_table(outcomes: Sequence[Served]) -> Table:
    """Return what became of the same requests under each policy."""
    workload = outcomes[0].workload
    columns = ["policy", "on time", "late", "refused", "quality", "switches", "p50", "p95 ms"]
    table = make_table(f"{workload.name}: {len(workload)} requests", columns)
    for outcome in outcomes:
        figures = outcome.summary()
        late = float(figures["late_share"])
        table.add_row(
            outcome.policy,
            f"{outcome.on_time_share:.2%}",
            f"{late:.2%}",
            f"{1 - outcome.on_time_share - late:.2%}",
            f"{outcome.mean_quality:.4f}",
            str(outcome.switches),
            *(f"{figures.get(f'latency_{name}_ms', math.nan):.1f}" for name in ("p50", "p95")),
        )
    return table


def client_line(outcome: Live) -> str:
    """Return how well the client kept its own time, and what it saw of the answers."""
    figures = outcome.summary()
    p50, p99, most = (figures[f"client_late_{name}_ms"] for name in ("p50", "p99", "max"))
    line = f"requests were sent {p50:.1f} ms after their time (p99 {p99:.1f}, at most {most:.1f})"
    if "seen_p95_ms" in figures:
        line += f"; the client saw answers after {figures['seen_p95_ms']:.1f} ms (p95)"
    return line


def fidelity_table(both: Fidelity) -> Table:
    """Return a simulation beside what happened: are they as close as they should be, and was it likely."""
    title = f"{both.live.workload.name}: {len(both.live.workload)} requests, {both.live.policy}"
    columns = ["", "simulated", "expected of one", "live", "apart", "allowed", "", ""]
    table = make_table(title, columns)
    for line in both.lines:
        figure, by, is_relative = line.limit
        form = "{:.1%}".format if is_relative else "{:.4f}".format
        digits = {"switches": ".0f", "latency_p95_ms": ".1f"}.get(figure, ".4f")
        table.add_row(
            figure.replace("_", " ").removesuffix(" ms") + (" (ms)" if "_ms" in figure else ""),
            f"{line.simulated:{digits}}",
            f"{line.low:{digits}} – {line.high:{digits}}",
            f"{line.live:{digits}}",
            form(line.apart),
            form(by),
            "" if line.holds else "off",
            "" if line.expected else "unexpected",
        )
    return table


def pace_line(both: Fidelity, paced: Fidelity) -> str:
    """Return how fast the device was beside its profile, and what is unexpected of one that is so fast."""
    left = [line.limit.figure.replace("_", " ") for line in paced.lines if not line.expected]
    return (
        f"runs took {both.pace:.3f} × what the profile says; at that pace unexpected: "
        f"{', '.join(left) or 'nothing'}"
    )


def comparison_table(comparison: Comparison) -> Table:
    """Return every policy beside the bar and the bound."""
    bound = comparison.clairvoyant
    title = f"{bound.trace.name}: {len(bound.decisions)} steps, none of them seen before"
    table = make_table(title, ["policy", *SCORES, "headroom captured"])
    bar = comparison.best_rule
    for outcome in sorted(comparison.rules, key=lambda r: -r.mean_score):
        table.add_row(outcome.policy, *_scores(outcome), "best rule" if outcome is bar else "")
    table.add_section()
    for outcome in comparison.tables:
        captured = comparison.headroom_captured(outcome)
        share = "no headroom" if captured is None else f"{captured:+.3f}"
        table.add_row(outcome.policy, *_scores(outcome), share)
    table.add_row(bound.policy, *_scores(bound), "1")
    return table


def recorded_table(found: Counterfactual) -> Table:
    """Return what was done: as it happened, and as the model has it."""
    table = make_table(f"recorded with the policy {found.policy}", ["what was done", *SCORES])
    table.add_row("as it happened", *_scores(found.happened))
    table.add_row("as the model has it", *_scores(found.modelled))
    return table


def recorded_lines(found: Counterfactual) -> list[str]:
    """Return in words what is a model, and which stalls it reckons with."""
    lines = [
        "Nobody ran the other policies: their answers are reckoned with profiled times, as much slower "
        f"as the runs that were made, {found.beside_ms:.2f} ms beside the run, and these stalls:"
    ]
    for m, row in enumerate(found.stall_ms.tolist()):
        for a, stall_ms in enumerate(row):
            if m != a:
                shown = int(found.switches[m, a])
                lines.append(
                    f"  φ = {m} to {a}: {stall_ms:.2f} ms ({shown} such switches recorded)"
                )
    return lines


def resident_table(name: str, outcomes: Sequence[ResidentReplay]) -> Table:
    """Return what stays warm: the plan, the eviction rules from best to worst, the bound."""
    plan, *rules, bound = outcomes
    table = make_table(f"{name}: {len(plan.choices)} steps", ["who stays", *SCORES, "loads"])
    for outcome in (plan, *sorted(rules, key=lambda o: -o.mean_score), bound):
        table.add_row(outcome.planner, *_scores(outcome), str(outcome.loads))
        if outcome is plan:
            table.add_section()
    return table


def status_table(state: dict[str, Any]) -> Table:
    """Return a daemon's state, one fact a row; before the models are warm there are few."""
    from rich.markup import escape

    ready = "draining" if state["draining"] else "ready" if state["ready"] else "not ready"
    table = make_table(f"{escape(state['ladder'])}: {ready}", ["", "now"])
    table.add_row("version", state["version"])
    table.add_row("worker restarts", str(state["worker_restarts"]))
    if "active" not in state:
        return table
    names, minute = state["variants"], state["minute"]
    late = minute["late_share"]
    facts = {
        "active": f"φ{state['active']} {names[state['active']]}",
        "resident": ", ".join(f"φ{phi}" for phi in state["resident"]),
        "policy": state["policy"],
        "certificate": state["certificate"] or "none",
        "rollout": state["rollout"],
        "budget": "none" if state["budget_ms"] is None else f"{state['budget_ms']:.1f} ms",
        "slow-down": f"{state['slowdown']:.2f} ×",
        "waiting": str(state["waiting"]),
        "answered, last minute": str(minute["answered"]),
        "turned away, last minute": str(minute["refused"]),
        "late, last minute": "-" if late is None else f"{late:.1%}",
        "switches, last minute": str(minute["switches"]),
    }
    for name, value in facts.items():
        table.add_row(name, escape(value))
    return table


def battery_table(name: str, outcomes: Sequence[BatteryReplay]) -> Table:
    """Return how long a battery lasted, and at what quality."""
    table = make_table(f"{name}: one battery", ["policy", *SCORES, "lasted h", "left Wh"])
    for outcome in outcomes:
        lasted = f"{outcome.lasted_s / 3600:.2f}" + ("" if outcome.lasts else " (empty)")
        table.add_row(outcome.policy, *_scores(outcome), lasted, f"{outcome.left_j / 3600:.2f}")
    return table


SCORES = ["mean score", "on time", "switches", "mean quality"]


def _scores(outcome: Replay | ResidentReplay | BatteryReplay | Figures) -> list[str]:
    return [
        f"{outcome.mean_score:.4f}",
        f"{outcome.on_time_share:.1%}",
        f"{outcome.switch_share:.1%}",
        f"{outcome.mean_quality:.4f}",
    ]


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
