"""Real requests beside their simulation: six pairs of recorded arrivals and budgets, played to a daemon.

The ladder is profiled anew before each pair. A pair's table is solved on the first half of its budgets; the
second is pushed to the daemon while recorded arrivals, sped up or thinned to keep the ladder's second
variant busy for `LOAD` of the time, ask about one picture. A simulation that knows the profile, the policy
and the two traces has to be as close as `adaphi.sim.fidelity.LIMITS`; where it is not, the range of a single
play says whether that was to be expected. The traces are those of `$ADAPHI_TRACES` (see policy). To play
longer:

    python -m benchmarks.fidelity --seconds 300
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from adaphi.cli.show import client_line, fidelity_table, pace_line, print_table
from adaphi.model_zoo import Profile
from adaphi.model_zoo.images import example_image
from adaphi.policies.table import TablePolicy
from adaphi.sim import Trace
from adaphi.sim.fidelity import Fidelity, Line, simulate
from adaphi.sim.importing import import_raw
from adaphi.sim.live import play
from adaphi.sim.workload import Workload

from .daemon import daemon
from .harness import Row, show
from .policy import trace_folder
from .problems import example_profile

TABLE = "policy.npz"
PAIRS = (
    ("azure_llm2023_code", "cpu_alibaba2018_day1", "cpu_percent", TABLE),
    ("nasa_jul13_6h", "cpu_ec2_825cc2", "cpu_percent", "greedy"),
    ("twitter2021_day3_2h", "bw_hsdpa_tram", "absolute", "greedy"),
    ("elb_requests_8c0756", "cpu_planetlab_0306_ucsb", "cpu_percent", "greedy"),
    ("tweets_goog", "edge_pi_orbit_freq", "absolute", TABLE),
    ("nyc_taxi", "bw_hsdpa_ferry", "absolute", "greedy"),
)
"""Arrivals, budgets, how these become milliseconds, and the policy: a table solved for them, or a rule."""
LOAD = 0.6
DEADLINE_IN_LARGEST = 3.0
"""The deadline, in cautious latencies of the largest variant."""
ROW_S = 0.5
"""How long each budget holds."""
SECONDS, QUICK_SECONDS = 60.0, 3.0


def main() -> None:
    """Play every pair for as long as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each play")
    seconds = parser.parse_args().seconds
    show(f"fidelity: {len(PAIRS)} pairs, {seconds:g} s each", run(False, seconds))


def run(quick: bool, seconds: float = SECONDS) -> list[Row]:
    """Return how far every pair's simulation is from what happened, in parts of what is allowed."""
    folder, lines, at_pace, rows = trace_folder(), list[Line](), list[Line](), []
    if not folder.is_dir():
        print(f"no traces in {folder}: set ADAPHI_TRACES")
        return []
    with TemporaryDirectory(prefix="adaphi-fidelity-") as name:
        here = Path(name)
        for pair in PAIRS[:1] if quick else PAIRS:
            profile = _profiled(here / "profile.json", quick)  # anew: a device's pace changes
            both, paced = _both(here, profile, folder, *pair, QUICK_SECONDS if quick else seconds)
            print_table(fidelity_table(both))
            print(pace_line(both, paced))
            at_pace += paced.lines
            print(client_line(both.live))
            lines += both.lines
            rows += [
                Row(
                    f"{pair[0]}: {line.limit.figure}",
                    line.apart / line.limit.by,
                    "×",
                    "less",
                    target="≤ 1",
                )
                for line in both.lines
            ]
    print(
        f"of {len(lines)} figures, {sum(line.holds for line in lines)} are within their limits and "
        f"{sum(line.expected for line in lines)} in the range of a single play; at the pace that the "
        f"device had, {sum(line.expected for line in at_pace)} are in that range"
    )
    return rows


def _profiled(path: Path, quick: bool) -> Profile:
    if quick:
        example_profile().save(path)
    else:
        command = [sys.executable, "-m", "adaphi", "profile", "-o", str(path), "--rounds", "40"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Profile.load(path)


def _both(
    here: Path,
    profile: Profile,
    folder: Path,
    arrivals: str,
    budget: str,
    mapping: str,
    policy: str,
    seconds: float,
) -> tuple[Fidelity, Fidelity]:
    """Return a pair's play beside its simulation, and beside one at the pace that the device had."""
    workload = _workload(folder / "arrivals" / f"{arrivals}.csv", profile, seconds)
    learned, pushed = _budgets(folder / "budget" / f"{budget}.csv", mapping, profile, seconds)
    TablePolicy.solve(profile, [learned.budget_ms]).save(here / TABLE)
    chosen = here / TABLE if policy == TABLE else policy
    simulated = partial(simulate, workload, profile, chosen, budget=pushed)
    with daemon(profile, f'policy = "{chosen}"', sources=["pushed"]) as served:
        live = play(workload, profile, example_image(), address=served.zmq, budget=pushed)
    both = Fidelity(simulated(), live)
    return both, Fidelity(simulated(pace=both.pace), live)


def _workload(path: Path, profile: Profile, seconds: float) -> Workload:
    """Return recorded arrivals at the rate of the load."""
    rate = LOAD * 1e3 / profile.typical_ms("p95")[1]
    deadline_ms = DEADLINE_IN_LARGEST * float(profile.costs().latency_ms[-1])
    whole = Workload.read_counts(path, deadline_ms)
    span_s = whole.arrived_s[-1] - whole.arrived_s[0]
    recorded = len(whole) / span_s
    if recorded > rate:
        return Workload.read_counts(path, deadline_ms, thin=rate / recorded).until(seconds)
    return Workload.read_counts(path, deadline_ms, speed=rate / recorded).until(seconds)


def _budgets(path: Path, mapping: str, profile: Profile, seconds: float) -> tuple[Trace, Trace]:
    """Return the budgets to learn from, and as many as are pushed, a row each `ROW_S`."""
    median_ms = 1.2 * float(profile.costs().latency_ms[1])
    learned, scored = import_raw(path, mapping, median_ms=median_ms).split()
    rows = min(len(scored), int(seconds / ROW_S))
    return learned, Trace(np.arange(rows) * ROW_S, scored.budget_ms[:rows], name=path.stem)


if __name__ == "__main__":
    main()
