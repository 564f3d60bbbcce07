"""Who watches the daemon: a service manager over its socket, and a real Prometheus that scrapes it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Histogram
from typer.testing import CliRunner

from adaphi import Client
from adaphi.cli.app import app
from adaphi.controller.metrics import Metrics
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.model_zoo.images import example_image
from adaphi.sim import Trace

DEPLOY = Path(__file__).parents[1] / "deploy"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


# -------------------------------------------------------------------------------- the service manager


class Manager:
    """The service manager's end of `$NOTIFY_SOCKET`."""

    def __init__(self, listening: socket.socket) -> None:
        self.socket = listening

    def wait_for(self, line: str, timeout_s: float = 60) -> bool:
        """Say whether `line` is told within the time; what comes before it is passed over."""
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                if line in self.socket.recv(4096).decode().splitlines():
                    return True
            except TimeoutError:
                break
        return False


def test_systemd_hears_when_it_is_ready_alive_and_stopping(
    tmp_path: Path, run_daemon: Callable[..., Any]
) -> None:
    """READY once models are warm; the watchdog is fed while the worker answers, not while it is stopped,
    again when it goes on; STOPPING on SIGTERM."""
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(environ["NOTIFY_SOCKET"])
        check_signs_of_life(Manager(listening), run_daemon(**environ))


def check_signs_of_life(manager: Manager, daemon: Any) -> None:
    with daemon as served:
        assert manager.wait_for("READY=1")
        state = served.state()
        assert state["ready"] is True
        assert manager.wait_for("WATCHDOG=1", 10)
        os.kill(state["worker_pid"], signal.SIGSTOP)
        manager.wait_for("nothing", 0.6)  # what was answered before the stop
        assert not manager.wait_for("WATCHDOG=1", 1.5)
        os.kill(state["worker_pid"], signal.SIGCONT)
        assert manager.wait_for("WATCHDOG=1", 10)
        served.process.terminate()
        assert manager.wait_for("STOPPING=1", 10)
        assert served.process.wait(20) == 0


# -------------------------------------------------------------------------------- Prometheus


@contextmanager
def prometheus(folder: Path, daemon_port: int) -> Iterator[str]:
    """Run the Prometheus of deploy/, only quicker, beside a daemon; yield its address."""
    setup = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    setup["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    setup["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in setup["rule_files"]]
    setup["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{daemon_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(setup))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def has_data(server: str, expression: str) -> bool:
    """Say whether Prometheus returns a number for an expression now."""
    query = urllib.parse.urlencode({"query": expression})
    try:
        found = get_json(f"{server}/api/v1/query?{query}")["data"]["result"]
    except (ConnectionError, urllib.error.URLError):
        return False  # it is still starting
    return any(math.isfinite(float(series["value"][1])) for series in found)


def expressions_of_the_dashboard() -> set[str]:
    board = json.loads((DEPLOY / "grafana" / "adaphi.json").read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", [])]
    return {
        target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".*")
        for target in targets
    }


def metrics_of_the_alerts() -> set[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    text = " ".join(rule["expr"] for group in groups for rule in group["rules"])
    return set(re.findall(r"[a-z:]*adaphi_[a-z_:0-9]+", text))


@pytest.mark.alone
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_every_panel_and_alert_finds_data(tmp_path: Path, run_daemon: Callable[..., Any]) -> None:
    """A real Prometheus that scrapes a real daemon under way returns a number for every expression of the
    dashboard and for everything that an alert looks at; no rule fails, and nobody is alarmed."""
    missing = expressions_of_the_dashboard() | metrics_of_the_alerts()
    assert len(missing) > 20
    with (
        run_daemon() as served,
        prometheus(tmp_path, served.port) as server,
        Client(served.address) as client,
    ):
        client.wait_until_ready(60)
        until_s = time.monotonic() + 60
        for phi in cycle(range(3)):
            client.infer(example_image(), deadline_ms=5000, phi=phi)
            if phi == 0:
                missing = {e for e in missing if not has_data(server, e)}
            if not missing or time.monotonic() > until_s:
                break
        assert not missing
        groups = get_json(f"{server}/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}
        firing = get_json(f"{server}/api/v1/alerts")["data"]["alerts"]
        assert [a["labels"]["alertname"] for a in firing if a["state"] == "firing"] == []
        check_import(server, tmp_path / "budget.csv")


def check_import(server: str, output: Path) -> None:
    """What the daemon told Prometheus becomes a budget trace: a slow-down ξ leaves 50 ms × median ξ ÷ ξ."""
    while not has_data(server, "count_over_time(adaphi_slowdown_ratio[30s]) > 3"):
        time.sleep(0.1)
    end_s = time.time()
    given = ["--query", "adaphi_slowdown_ratio", "--as", "slowdown", "--step", "0.5"]
    given += ["--start", str(end_s - 30), "--end", str(end_s), "-o", str(output)]
    done = CliRunner().invoke(app, ["trace", "import", server, *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    asked = {"query": "adaphi_slowdown_ratio", "start": end_s - 30, "end": end_s, "step": 0.5}
    query = urllib.parse.urlencode(asked)
    (series,) = get_json(f"{server}/api/v1/query_range?{query}")["data"]["result"]
    headroom = [1 / float(value) for _, value in series["values"]]
    expected = [50 * h / median(headroom) for h in headroom]
    assert Trace.read(output).budget_ms.tolist() == pytest.approx(expected) and len(expected) > 2


@pytest.mark.parametrize("ms", [0.001, 0.04, 0.6, 2.0, 20.0, 900.0])
def test_a_ladder_of_any_speed_has_its_histograms(ms: float) -> None:
    """The bounds ascend from below the quickest to above the slowest; the queue's are among them."""
    variants = [VariantProfile(p, f"v{p}", 0.5 + p / 10, Latency(p50=ms * (p + 1))) for p in (0, 1)]
    metrics = Metrics("ladder", "1")
    metrics.start(Profile(ladder="ladder", variants=tuple(variants), stall_ms=((0, 0), (0, 0))))
    bounds = metrics.request_seconds.bounds
    assert bounds[0] < ms / 1e3 < 2 * ms / 1e3 < bounds[-1] and len(bounds) == 14
    assert Histogram("x", "x", buckets=bounds, registry=CollectorRegistry())
