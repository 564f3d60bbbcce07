"""The main job from end to end, on this machine: real models, a real budget, a real daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..errors import Expired, MissingExtraError, Shed
from . import show

if TYPE_CHECKING:
    from ..controller.client import Client
    from ..model_zoo.profile import Profile
    from ..policies.table import TablePolicy
    from ..policies.trace import Trace
    from ..sim.replay import Replay

console = Console()

LOADS = (0, 1, 4, 0, 2, 0, 4, 1, 0)
"""How many busy processes run beside the recorder, one number after the other."""
FRAME_IN_LARGEST = 1.75
"""The idle budget of a frame, in needs of the largest φ: room for it, until others want the cores."""
PACE_S = 0.04
"""Time between requests at least, so that a person can watch."""

# Ends by itself when its parent is gone, however that happened.
_SPIN = "import os\np = os.getppid()\nwhile os.getppid() == p:\n    for _ in range(100000): pass"


def run(*, quick: bool = False, seconds: float | None = None) -> None:
    """Run the demonstration; raise `MissingExtraError` without the photographs.

    `seconds`: how long to record, and so how many photographs to send, five for each.
    """
    from ..controller.client import Client

    pictures = _photographs()
    began = time.monotonic()
    with TemporaryDirectory(prefix="adaphi-demo-") as folder:
        here = Path(folder)
        _step(1, "Profile the ladder on this machine")
        profile = _profile(here / "profile.json", rounds=5 if quick else 15)

        _step(2, "Record what the machine can spend while a load of ours comes and goes")
        trace = _record(here / "trace.csv", profile, seconds or (18.0 if quick else 63.0))
        train, test = trace.split()

        _step(3, "Solve the policy on the first half of the recording")
        policy = _solve(here / "policy.npz", profile, train)

        _step(4, "Replay every rule, the table and the clairvoyant on the second half")
        predicted = _compare(profile, train, test, policy)

        _step(5, "Start the daemon and send photographs with the second half as their deadlines")
        with _daemon(here) as address, Client(address) as client:
            client.wait_until_ready()
            measured = _stream(client, test, profile, pictures)
            _summarise(predicted, measured)
            _name_the_cat(client, pictures["chelsea"], profile)
    console.print(f"\nDone in {time.monotonic() - began:.0f} s.")


def _step(number: int, what: str) -> None:
    console.print(f"\n[bold]{number}. {what}[/bold]")


def _photographs() -> dict[str, Any]:
    """Return photographs that ship with scikit-image, all CC0 or in the public domain."""
    try:
        from skimage import data
    except ImportError:
        raise MissingExtraError("the demonstration", "demo") from None
    names = ("chelsea", "coffee", "rocket", "astronaut")
    return {name: getattr(data, name)() for name in names}


def _profile(path: Path, rounds: int) -> Profile:
    from .device import profile

    profile(output=path, rounds=rounds)
    from ..model_zoo.profile import Profile

    return Profile.load(path)


# ---------------------------------------------------------------------------- the budget


class _Load:
    """Busy processes, as many as wanted."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def set(self, count: int) -> None:
        """Start or end processes until `count` run."""
        while len(self._running) < count:
            self._running.append(subprocess.Popen([sys.executable, "-c", _SPIN]))
        while len(self._running) > count:
            process = self._running.pop()
            process.kill()
            process.wait()

    def __enter__(self) -> _Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.set(0)


def _record(path: Path, profile: Profile, seconds: float) -> Trace:
    from ..controller.recorder import record, rows
    from ..policies.trace import Trace

    frame_ms = FRAME_IN_LARGEST * float(profile.costs().need_ms[:, -1].max())
    spans = 2 * len(LOADS)  # the sequence twice: one half to learn from, one half to be scored on
    with _Load() as load, show.progress() as tell:
        for row in record(path, rows(frame_ms, 0.1, seconds)):
            busy = LOADS[int(row.time_s / seconds * spans) % len(LOADS)]
            load.set(busy)
            what = f"{busy} busy processes, budget {row.budget_ms:.1f} ms"
            tell(int(row.time_s * 10), int(seconds * 10), what)
    trace = Trace.read(path)
    low, high = trace.budget_ms.min(), trace.budget_ms.max()
    console.print(
        f"{len(trace)} rows in {seconds:.0f} s, budgets from {low:.1f} to {high:.1f} ms "
        f"(an idle frame has {frame_ms:.1f} ms); recorded now, on this machine"
    )
    return trace


# ---------------------------------------------------------------------------- offline


def _solve(path: Path, profile: Profile, train: Trace) -> TablePolicy:
    from ..policies.table import TablePolicy

    began = time.perf_counter()
    policy = TablePolicy.solve(profile, [train.budget_ms])
    policy.save(path)
    took_ms = (time.perf_counter() - began) * 1e3
    bounds = policy.certificate
    console.print(
        f"{policy.table.shape[0]} bins × {policy.table.shape[1]} variants in {took_ms:.0f} ms; "
        f"reward a step is at most {bounds.upper:.6f}, this policy's at least {bounds.lower:.6f}"
    )
    return policy


def _compare(profile: Profile, train: Trace, test: Trace, policy: TablePolicy) -> Replay:
    from ..sim.compare import compare

    comparison = compare(train, test, profile, policy=policy)
    show.print_table(show.comparison_table(comparison))
    return comparison.tables[0]


# ---------------------------------------------------------------------------- the daemon

_CONFIG = """\
ladder = "profile.json"
policy = "policy.npz"
[zmq]
bind = ["{address}"]
[http]
port = 0
[budget]
sources = ["memory"]
"""


@contextmanager
def _daemon(folder: Path) -> Iterator[str]:
    """Run `adaphi serve` on the demonstration's profile and policy; give its address."""
    address = f"ipc://{folder}/adaphi.sock"
    (folder / "adaphi.toml").write_text(_CONFIG.format(address=address))
    log = folder / "daemon.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "adaphi", "serve", "--config", str(folder / "adaphi.toml")],
            stderr=file,
            # Ctrl-C is for the demonstration, which ends the daemon as a service manager would.
            start_new_session=True,
        )
        try:
            yield address
        except BaseException:
            if process.poll() is not None:
                console.print(log.read_text())
            raise
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


@dataclass
class _Measured:
    """What came back, one entry a request; φ is None where the request was refused as late."""

    budget_ms: list[float] = field(default_factory=list)
    phi: list[int | None] = field(default_factory=list)
    on_time: list[bool] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)

    def add(self, budget_ms: float, phi: int | None, on_time: bool, quality: float) -> None:
        self.budget_ms.append(budget_ms)
        self.phi.append(phi)
        self.on_time.append(on_time)
        self.quality.append(quality)

    @property
    def on_time_share(self) -> float:
        return sum(self.on_time) / len(self.on_time)

    @property
    def mean_quality(self) -> float:
        good = [q for q, ok in zip(self.quality, self.on_time, strict=True) if ok]
        return sum(good) / len(good) if good else 0.0

    @property
    def switches(self) -> int:
        ran = [0, *(phi for phi in self.phi if phi is not None)]
        return sum(a != b for a, b in pairwise(ran))


def _stream(client: Client, test: Trace, profile: Profile, pictures: dict[str, Any]) -> _Measured:
    """Send one photograph a row: the policy reads row t − 1, the deadline is row t."""
    measured = _Measured()
    budgets = test.budget_ms.tolist()
    names = list(pictures)
    with ExitStack() as stack:
        live = None
        if console.is_terminal:
            live = stack.enter_context(Live(console=console, refresh_per_second=20, transient=True))
        for step in range(1, len(budgets)):
            began = time.monotonic()
            name = names[step % len(names)]
            reading_ms, deadline_ms = budgets[step - 1], budgets[step]
            try:
                a = client.infer(
                    pictures[name], deadline_ms=deadline_ms, reading_ms=reading_ms, top=1
                )
                quality = profile.variants[a.phi].quality
                measured.add(deadline_ms, a.phi, not a.late, quality)
                outcome = f"{'late' if a.late else 'on time'}, {a.latency_ms:.1f} ms: {a.top[0][0]}"
            except (Shed, Expired) as error:
                measured.add(deadline_ms, None, False, 0.0)
                outcome = f"refused: {error.message}"
            if live is not None:
                live.update(_frame(step, budgets, measured, name, outcome))
                time.sleep(max(0.0, PACE_S - (time.monotonic() - began)))
            elif step % 50 == 1:
                phi = measured.phi[-1]
                chosen = "no variant" if phi is None else f"φ{phi}"
                console.print(f"request {step}: budget {deadline_ms:.1f} ms, {chosen}, {outcome}")
    return measured


def _frame(step: int, budgets: list[float], m: _Measured, name: str, outcome: str) -> Group:
    """Return the live picture: the budget as a bar, the active variant, the outcome so far."""
    phi = m.phi[-1]
    colour = "green" if m.on_time[-1] else "red"
    grid = Table.grid(padding=(0, 2))
    grid.add_row("budget", ProgressBar(max(budgets), budgets[step], 50), f"{budgets[step]:.1f} ms")
    grid.add_row("variant", "—" if phi is None else "▮" * (phi + 1) + f" φ{phi}")
    grid.add_row("outcome", Text(outcome, style=colour, overflow="ellipsis", no_wrap=True))
    counts = Counter("refused" if p is None else f"φ{p}" for p in m.phi)
    shares = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
    total = f"{step} of {len(budgets) - 1} requests, {m.on_time_share:.1%} on time ({shares})"
    return Group(grid, Text(f"{total}; photograph: {name}", style="dim"))


# ---------------------------------------------------------------------------- the result


def _summarise(predicted: Replay, measured: _Measured) -> None:
    steps = len(measured.phi)
    table = show.make_table(f"{steps} photographs", ["", "predicted", "measured"])
    shares = predicted.on_time_share, measured.on_time_share
    table.add_row("on time", *(f"{share:.1%}" for share in shares))
    table.add_row("mean quality", f"{predicted.mean_quality:.4f}", f"{measured.mean_quality:.4f}")
    switches = round(predicted.switch_share * steps)
    table.add_row("switches", str(switches), str(measured.switches))
    console.print(table)
    same = sum(p == q for p, q in zip(predicted.decisions.tolist(), measured.phi, strict=True))
    console.print(f"The daemon took the predicted variant for {same} of {steps} requests.")
    order = sorted(range(steps), key=measured.budget_ms.__getitem__)
    for words, part in (("tightest", order[: steps // 4]), ("widest", order[-(steps // 4) :])):
        chosen = Counter(measured.phi[i] for i in part)
        list_ = ", ".join(
            f"{'refused' if phi is None else f'φ{phi}'} {count}"
            for phi, count in sorted(chosen.items(), key=lambda item: -item[1])
        )
        on_time = sum(measured.on_time[i] for i in part) / max(1, len(part))
        low, high = measured.budget_ms[part[0]], measured.budget_ms[part[-1]]
        console.print(
            f"{words} quarter ({low:.1f} to {high:.1f} ms): {list_}; {on_time:.0%} on time"
        )


def _name_the_cat(client: Client, cat: Any, profile: Profile) -> None:
    """Ask each variant for the cat, and then let a tight and a wide deadline choose."""
    console.print("\nThe photograph of a cat:")
    for variant in profile.variants:
        answer = client.infer(cat, deadline_ms=1000, phi=variant.phi, top=1)
        name, probability = answer.top[0]
        console.print(
            f"  φ{answer.phi} says {name} ({probability:.0%}), {answer.latency_ms:.1f} ms"
        )
    latencies = profile.costs().latency_ms
    tight, wide = 1.25 * float(latencies[0]), 12.0 * float(latencies[-1])
    for words, deadline_ms in (("tight", tight), ("wide", wide)):
        client.infer(cat, deadline_ms=1000, reading_ms=deadline_ms)
        # The deadline alone decides here, whatever the stream before did to the certificate; and a
        # machine that was busy a moment ago gets the time to show that it no longer is.
        for _ in range(3):
            try:
                answer = client.infer(cat, deadline_ms=deadline_ms)
            except (Shed, Expired) as error:
                outcome = f"refused: {error.message}"
                time.sleep(1.0)
            else:
                verdict = "late" if answer.late else "on time"
                outcome = f"φ{answer.phi} in {answer.latency_ms:.1f} ms, {verdict}"
                break
        console.print(f"  {words} budget, {deadline_ms:.1f} ms: {outcome}")
