"""A replay or a comparison as one page that explains itself (extra `report`): nothing is fetched by it.

plotly.js lies in the page, and the page's own policy forbids every outside resource. The same inputs give the
same bytes: no date, no random names.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingExtraError
from ..policies.table import TablePolicy
from .compare import Comparison
from .counterfactual import Counterfactual
from .replay import Replay
from .scoring import Figures, half_width

_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Study:
    """What a report is of: outcomes, the table that decided if one did, and all that repeats it.

    `command` is what was typed, `inputs` the files that it read (a folder counts with all that is in it).
    """

    comparison: Comparison
    command: str
    inputs: Sequence[Path]
    table: TablePolicy | None = None
    recorded: Counterfactual | None = None
    latency: str = "p95"

    @property
    def main(self) -> Replay:
        """Return the outcome that the page is about: the last of the tables."""
        return self.comparison.tables[-1]


def check_page(path: str | Path) -> None:
    """Raise `MissingExtraError` without plotly, `InputError` where `path` is no page."""
    if find_spec("plotly") is None:
        raise MissingExtraError("a report", "report")
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a report ends in .html")


def write_report(study: Study, path: str | Path) -> None:
    """Write the page; raise as `check_page`, or `InputError` where it cannot be written."""
    check_page(path)
    from plotly.offline import get_plotlyjs

    from . import report_plots as plots

    main, comparison = study.main, study.comparison
    sections = [
        _part(
            "timeline",
            plot=plots.timeline(shown_outcomes(comparison)),
            cut=_cut(len(main.decisions), plots.SHOWN_STEPS),
        ),
        _part("policies", rows="".join(_policy_rows(study)), plot=plots.bars(comparison)),
        _part("frontier", plot=plots.frontier(comparison)),
    ]
    if study.recorded is not None:
        sections.insert(0, _recording(study.recorded))
    if study.table is not None:
        picture = plots.table_picture(study.table.chain_ms(main.costs).edges, study.table.table)
        sections.append(_part("table", plot=picture))
    sections.append(_part("repeat", command=escape(study.command), facts="".join(_facts(study))))
    page = _part(
        "page",
        title=escape(f"{main.policy} on {main.trace.name}"),
        plotly=get_plotlyjs(),
        lead=_lead(main),
        cards="".join(_cards(study)),
        sections="".join(sections),
    )
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _part(name: str, **fields: object) -> str:
    """Return a part of the template, filled in."""
    return Template(_parts()[name]).substitute(fields)


@cache
def _parts() -> dict[str, str]:
    text = "<!-- part page -->\n" + _TEMPLATE.read_text(encoding="utf-8")
    return dict(piece.split(" -->\n", 1) for piece in text.split("<!-- part ")[1:])


def shown_outcomes(comparison: Comparison) -> list[Replay]:
    """Return the outcomes that are drawn along time: the main one, the best rule, the clairvoyant."""
    best, main = comparison.best_rule, comparison.tables[-1]
    return [main, *([best] if best.policy != main.policy else []), comparison.clairvoyant]


def _lead(main: Replay) -> str:
    time_s = main.trace.time_s
    return _part(
        "lead",
        variants=len(main.costs),
        largest=len(main.costs) - 1,
        steps=f"{len(main.decisions):,}",
        trace=escape(main.trace.name),
        duration=_duration(float(time_s[-1] - time_s[0])),
    )


def _cards(study: Study) -> Iterator[str]:
    main, comparison = study.main, study.comparison
    captured = comparison.headroom_captured(main)
    best = comparison.best_rule
    gain = main.mean_score - best.mean_score
    facts = [
        (f"{main.on_time_share:.1%}", "answered on time"),
        (f"{main.mean_quality:.3f}", "mean quality of those answers"),
        (f"{round(main.switch_share * len(main.decisions)):,}", "switches"),
        (f"{main.mean_score:.4f}", f"score, {gain:+.4f} against {best.policy}"),
        ("none" if captured is None else f"{captured:+.0%}", "of the headroom captured"),
    ]
    for figure, what in facts:
        card = f"<b>{figure}</b><span>{escape(what)}</span>".replace("-", "−")
        yield f'<div class="card">{card}</div>'


def _policy_rows(study: Study) -> Iterator[str]:
    comparison = study.comparison
    best, bound = comparison.best_rule, comparison.clairvoyant
    tables = {outcome.policy for outcome in comparison.tables}
    for outcome in (*comparison.ranked, bound):
        kind = {best.policy: "bar", bound.policy: "bound"}.get(outcome.policy, "")
        captured = None
        if outcome.policy in tables:
            kind, captured = "ours", comparison.headroom_captured(outcome)
        gain = _with_interval(
            outcome.mean_score - best.mean_score, outcome.scores - best.scores, "+.4f"
        )
        cells = [
            escape(outcome.policy),
            _with_interval(outcome.mean_score, outcome.scores, ".4f"),
            "" if outcome is best else gain,
            *_shares(outcome),
            "100%" if outcome is bound else "" if captured is None else f"{captured:+.1%}",
        ]
        yield _row([cells[0], *(cell.replace("-", "−") for cell in cells[1:])], kind)


def _shares(outcome: Replay | Figures) -> tuple[str, str, str]:
    return (
        f"{outcome.on_time_share:.2%}",
        f"{outcome.mean_quality:.4f}",
        f"{outcome.switch_share:.2%}",
    )


def _row(cells: Sequence[str], kind: str = "") -> str:
    text = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}">{text}</tr>'


def _with_interval(mean: float, values: NDArray[np.float64], form: str) -> str:
    half = half_width(values)
    return f"{mean:{form}}" + ("" if half is None else f" <small>± {half:.4f}</small>")


def _cut(steps: int, shown: int) -> str:
    if steps <= shown:
        return ""
    return f" The first {shown:,} of {steps:,} steps are drawn; all figures are of all steps."


def _recording(recorded: Counterfactual) -> str:
    done: dict[str, Figures | Replay] = {
        "as it happened": recorded.happened,
        "as the model has it": recorded.modelled,
    }
    return _part(
        "recording",
        policy=escape(recorded.policy),
        beside=f"{recorded.beside_ms:.2f}",
        rows="".join(_row([what, f"{f.mean_score:.4f}", *_shares(f)]) for what, f in done.items()),
        stalls="".join(
            _row([f"φ = {m} → φ = {a}", f"{stall_ms:.2f} ms", str(recorded.switches[m, a])])
            for (m, a), stall_ms in np.ndenumerate(recorded.stall_ms)
            if m != a
        ),
    )


def _facts(study: Study) -> Iterator[str]:
    """Yield what the figures depend on, a term and what it is."""
    objective, costs = study.main.objective, study.main.costs
    ladder = "; ".join(
        f"φ = {phi}: {ms:.4g} ms, quality {q:g}"
        for phi, (ms, q) in enumerate(
            zip(costs.latency_ms.tolist(), costs.quality.tolist(), strict=True)
        )
    )
    facts = [
        ("a late answer costs", f"{objective.miss_cost:g}"),
        ("a switch costs", f"{objective.switch_cost:g}"),
        (f"ladder ({study.latency})", ladder),
        ("versions", ", ".join(_versions())),
    ]
    for name, text in facts:
        yield f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
    for path in study.inputs:
        yield f"<dt>{escape(str(path))}</dt><dd><code>sha256 {digest(path)}</code></dd>"


def _versions() -> Iterator[str]:
    from .. import __version__

    yield f"adaphi {__version__}"
    yield f"Python {platform.python_version()}"
    for package in ("numpy", "numba", "plotly"):
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files by name and content."""
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if path.is_dir():
            whole.update(file.name.encode() + b"\0")
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _duration(seconds: float) -> str:
    for unit, length in (("days", 172800.0), ("hours", 7200.0), ("minutes", 120.0)):
        if seconds >= length:
            return f"{seconds / (length / 2):.3g} {unit}"
    return f"{seconds:.3g} seconds"
