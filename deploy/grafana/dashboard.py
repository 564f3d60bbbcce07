"""Write the dashboard: `python deploy/grafana/dashboard.py` makes adaphi.json beside this file.

It needs Grafana's typed builders (`pip install grafana-foundation-sdk`, part of the extra `dev`).
"""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
LATENCY = "histogram_quantile({quantile}, sum by (le) (rate(adaphi_{what}_duration_seconds_bucket{{X}}[R])))"

# (title, what it says, unit, [(legend, expression)]); X stands for the chosen instance, R for the range.
ROWS: dict[str, list[tuple[str, str, str, list[tuple[str, str]]]]] = {
    "Answers": [
        (
            "Requests",
            "Each request has one outcome; all but ok are answers that did not come in time.",
            "reqps",
            [("{{outcome}}", "sum by (outcome) (rate(adaphi_requests_total{X}[R]))")],
        ),
        (
            "Late share",
            "Of the requests that were in order, those without an answer in time.",
            "percentunit",
            [
                (
                    "late, shed, expired, busy, error",
                    'sum(rate(adaphi_requests_total{X, outcome=~"late|shed|expired|busy|error"}[R]))'
                    " / sum(rate(adaphi_requests_total{X}[R]))",
                )
            ],
        ),
        (
            "Time to answer",
            "From arrival to answer.",
            "s",
            [(f"p{q}", LATENCY.format(quantile=q / 100, what="request")) for q in (50, 95, 99)],
        ),
        (
            "Where the time goes, p95",
            "Waiting, in the model, and deciding.",
            "s",
            [
                (what, LATENCY.format(quantile=0.95, what=what))
                for what in ("queue", "inference", "decision")
            ],
        ),
    ],
    "Variants": [
        (
            "Active variant",
            "1 for the variant that answers.",
            "short",
            [("{{variant}}", "adaphi_variant_active{X}")],
        ),
        (
            "Warm variants",
            "1 for each variant that could answer at once.",
            "short",
            [("{{variant}}", "adaphi_variant_warm{X}")],
        ),
        (
            "Answers by variant",
            "Which variant answered how often.",
            "reqps",
            [
                (
                    "{{variant}}",
                    "sum by (variant) (rate(adaphi_inference_duration_seconds_count{X}[R]))",
                )
            ],
        ),
        (
            "Switches",
            "Changes of the active variant.",
            "ops",
            [
                (
                    "{{from_variant}} → {{to_variant}}",
                    "sum by (from_variant, to_variant) (rate(adaphi_switches_total{X}[R]))",
                )
            ],
        ),
        (
            "Quality",
            "What the active variant is expected to get right.",
            "percentunit",
            [("expected", "adaphi_accuracy_expected_ratio{X}")],
        ),
    ],
    "Budget": [
        (
            "Slow-down",
            "How much longer a run takes than on the idle device that was profiled.",
            "short",
            [("slow-down", "adaphi_slowdown_ratio{X}")],
        ),
        (
            "Free share of each resource",
            "1 where nothing waits for it.",
            "percentunit",
            [("{{resource}}", "adaphi_budget_ratio{X}")],
        ),
        (
            "Sensors",
            "1 for a sensor that answers.",
            "short",
            [("{{sensor}}", "adaphi_sensor_up{X}")],
        ),
        (
            "Age of each reading",
            "Seconds since a sensor last answered.",
            "s",
            [("{{sensor}}", "adaphi_sensor_age_seconds{X}")],
        ),
        (
            "Memory that can be had",
            "The lesser of what the machine and the control group have left.",
            "bytes",
            [("available", "adaphi_memory_available_bytes{X}")],
        ),
        (
            "Heat",
            "The zone nearest to its trip, and how far it is from it.",
            "celsius",
            [
                ("temperature", "adaphi_temperature_celsius{X}"),
                ("headroom", "adaphi_thermal_headroom_celsius{X}"),
            ],
        ),
        (
            "Processor limits",
            "Processors' worth of time that the group may take; share of periods in which it was held back.",
            "short",
            [
                ("limit", "adaphi_cpu_limit_cores{X}"),
                ("throttled", "adaphi_cpu_throttled_ratio{X}"),
            ],
        ),
        (
            "Power",
            "What the processor takes.",
            "watt",
            [("package", "adaphi_package_power_watts{X}")],
        ),
        ("Battery", "Its level.", "percentunit", [("level", "adaphi_battery_level_ratio{X}")]),
    ],
    "Daemon": [
        (
            "Queue",
            "Requests that wait, and those in a model.",
            "short",
            [("waiting", "adaphi_queue_depth{X}"), ("running", "adaphi_requests_in_flight{X}")],
        ),
        (
            "Ready, and the policy's promise",
            "1 while models are warm; 1 while what happens is what the policy promised.",
            "short",
            [("ready", "adaphi_ready{X}"), ("promise holds", "adaphi_certificate_holds{X}")],
        ),
        (
            "Workers replaced",
            "In the last hour.",
            "short",
            [("replaced", "increase(adaphi_worker_restarts_total{X}[1h])")],
        ),
    ],
}


def panel(title: str, description: str, unit: str, queries: list[tuple[str, str]]) -> Panel:
    """Return one panel with a line for each series of its queries."""
    made = (
        Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(8)
        .height(7)
        .legend(
            VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
    )
    for letter, (legend, expression) in zip("ABCDEF", queries, strict=False):
        expression = re.sub(r"\{X", '{instance=~"$instance"', expression)
        expression = expression.replace("[R]", "[$__rate_interval]")
        made = made.with_target(
            Dataquery().ref_id(letter).expr(expression).legend_format(legend).datasource(SOURCE)
        )
    return made


def dashboard() -> Dashboard:
    """Return the dashboard of one or several daemons."""
    made = (
        Dashboard("adaphi")
        .uid("adaphi")
        .description("What the device can spend, and what it answers with.")
        .tags(["adaphi"])
        .time("now-30m", "now")
        .refresh("5s")
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            QueryVariable("instance")
            .label("Device")
            .datasource(SOURCE)
            .query("label_values(adaphi_ready, instance)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .multi(True)
        )
    )
    number = count(1)  # panels without an id of their own get a new one at each save
    for title, panels in ROWS.items():
        made = made.with_row(Row(title).id(next(number)))
        for each in panels:
            made = made.with_panel(panel(*each).id(next(number)))
    return made


def to_json() -> str:
    """Return the dashboard as Grafana reads it."""
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard().build()) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("adaphi.json").write_text(to_json())
