"""Traces from elsewhere: Prometheus, Parquet, stated mappings, and files that are damaged."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaphi.cli.app import app
from adaphi.errors import AdaphiError, TraceError
from adaphi.sim import Trace, import_raw, to_budget
from adaphi.sim.prometheus import query_range, read_range

START_S = 1_780_000_000.125


def answer(time_s: Any, value: Any, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """Return what Prometheus would answer for one series."""
    pairs = [[START_S + t, repr(float(v))] for t, v in zip(time_s, value, strict=True)]
    result = [{"metric": labels or {"job": "adaphi"}, "values": pairs}]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


# -------------------------------------------------------------------------------- mappings


@pytest.mark.parametrize(
    ("mapping", "value", "full", "headroom"),
    [
        ("cpu_percent", [20.0, 60.0, 120.0], None, [80.0, 40.0, 0.0]),
        ("memory_fraction", [0.25, 0.5, 0.75], None, [0.75, 0.5, 0.25]),
        ("cpu_percent", [100.0, 300.0, 350.0], 400.0, [300.0, 100.0, 50.0]),
        ("celsius", [40.0, 60.0, 85.0], None, [40.0, 20.0, 0.0]),
        ("celsius", [40.0, 60.0, 80.0], 90.0, [50.0, 30.0, 10.0]),
        ("absolute", [-2.0, 3.0, 4.0], None, [2.0, 3.0, 4.0]),
        ("slowdown", [1.0, 2.0, 4.0], None, [1.0, 0.5, 0.25]),
    ],
)
def test_headroom_is_scaled_to_the_median_asked_for(
    mapping: str, value: list[float], full: float | None, headroom: list[float]
) -> None:
    """Budgets keep the ratios of what is left of the resource, and their median is as asked."""
    trace = to_budget(np.arange(3.0), np.array(value), mapping, "x", median_ms=30.0, full=full)
    np.testing.assert_allclose(trace.budget_ms, np.array(headroom) / headroom[1] * 30.0)


def test_budgets_are_taken_as_they_are() -> None:
    """Seconds become milliseconds, and nothing is scaled."""
    value = np.array([0.02, 0.05, 0.01])
    np.testing.assert_array_equal(
        to_budget(np.arange(3.0), value, "seconds", "x").budget_ms, value * 1e3
    )
    np.testing.assert_array_equal(
        to_budget(np.arange(3.0), value, "milliseconds", "x").budget_ms, value
    )


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_a_slow_down_that_is_none_is_refused(bad: float) -> None:
    """Zero, below zero and not a number have no budget, and the row is named."""
    with pytest.raises(TraceError, match=r"load: row 1: (a slow-down is above 0|.*finite number)"):
        to_budget(np.arange(3.0), np.array([1.0, bad, 1.0]), "slowdown", "load")


def test_nothing_left_most_of_the_time_is_no_scale() -> None:
    """A resource whose median headroom is 0 cannot be scaled to a budget."""
    with pytest.raises(TraceError, match="load: the median headroom as cpu_percent is 0"):
        to_budget(np.arange(3.0), np.array([100.0, 100.0, 5.0]), "cpu_percent", "load")


# -------------------------------------------------------------------------------- Prometheus


def test_a_saved_answer_gives_back_every_sample(tmp_path: Path) -> None:
    """Times to the millisecond that Prometheus counts in, values to the last bit; NaN is left out."""
    random = np.random.default_rng(1)
    time_s = np.cumsum(random.integers(1, 60_000, 300)) / 1e3
    value = random.lognormal(0, 3, 300)
    value[7], value[9] = math.nan, math.inf
    (tmp_path / "a.json").write_text(json.dumps(answer(time_s, value)))
    series = read_range(tmp_path / "a.json")
    known = np.isfinite(value)
    np.testing.assert_array_equal(series.time_s, np.round(time_s[known] - time_s[0], 3))
    np.testing.assert_array_equal(series.value, value[known])
    assert series.left_out == 2


TWO = answer([0, 1], [1, 2])
TWO["data"]["result"] += answer([0, 1], [3, 4], {"job": "other"})["data"]["result"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not an answer of /api/v1/query_range"),
        ("[1]", "not an answer of /api/v1/query_range"),
        (json.dumps(TWO), r"found 2 series \(\{job=\"adaphi\"\}, \{job=\"other\"\}"),
        (json.dumps(answer([], [])), "found no samples"),
        (json.dumps(answer([0], [math.nan])), "none of 1 samples"),
        (json.dumps(answer([0], [1])).replace('"1.0"', '"one"'), "no number"),
        (json.dumps(answer([0], [1])).replace("matrix", "vector"), "found a vector"),
        ('{"status": "error", "error": "parse error at 3"}', "Prometheus says: parse error at 3"),
    ],
)
def test_an_answer_that_is_no_series_is_refused(content: str, why: str, tmp_path: Path) -> None:
    """The error says what was found instead of one series of numbers."""
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(TraceError, match=rf"a\.json: .*{why}"):
        read_range(tmp_path / "a.json")


class Broken(BaseHTTPRequestHandler):
    """A server that is no Prometheus: what it answers is in the path."""

    def do_GET(self) -> None:
        if "/closes" in self.path:
            return
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "9" if "/short" in self.path else "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def broken() -> Iterator[str]:
    """Return the address of such a server."""
    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["200", "404", "500", "400", "200/short", "200/closes"])
def test_a_server_that_is_no_prometheus_is_one_clear_error(broken: str, path: str) -> None:
    """Whatever it answers, or does not."""
    with pytest.raises(TraceError, match=f"^{broken}/{path}: "):
        query_range(f"{broken}/{path}", "up", 0.0, 60.0, 1.0)


@pytest.mark.parametrize(
    ("url", "start_s", "end_s", "step_s"),
    [
        ("ftp://host", 0.0, 1.0, 1.0),
        ("http://127.0.0.1:1", 0.0, 1.0, 1.0),
        ("http://[", 0.0, 1.0, 1.0),
        ("http://127.0.0.1:1", 1.0, 0.0, 1.0),
        ("http://127.0.0.1:1", 0.0, math.nan, 1.0),
        ("http://127.0.0.1:1", 0.0, 1.0, 0.0),
    ],
)
def test_a_query_that_cannot_be_asked_is_refused(
    url: str, start_s: float, end_s: float, step_s: float
) -> None:
    """No server, no address, no range: a `TraceError`."""
    with pytest.raises(TraceError):
        query_range(url, "up", start_s, end_s, step_s)


@contextmanager
def prometheus(folder: Path, openmetrics: str) -> Iterator[str]:
    """Run a real Prometheus that holds these samples; yield its address."""
    (folder / "samples.txt").write_text(openmetrics)
    (folder / "prometheus.yml").write_text("")
    blocks = ["tsdb", "create-blocks-from", "openmetrics", "-q", folder / "samples.txt"]
    subprocess.run(["promtool", *blocks, folder / "tsdb"], check=True)
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/-/ready")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def free_port() -> int:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return server.server_port


def wait_until_ready(url: str) -> None:
    until_s = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < until_s, f"{url} does not answer"
            time.sleep(0.05)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_real_prometheus_gives_back_what_it_was_given(tmp_path: Path) -> None:
    """12,000 samples, more than it answers at a time, come back by the command bit for bit; an expression
    that it does not understand, and two series, are told in its words."""
    rows, start_s = 12_000, 1_700_000_000
    value = np.random.default_rng(2).lognormal(0, 0.5, rows)
    lines = [
        f"load_ratio{{cpu='0'}} {v!r} {start_s + 15 * i}" for i, v in enumerate(value.tolist())
    ]
    lines += [f"load_ratio{{cpu='1'}} 0.5 {start_s}"]
    text = "# TYPE load_ratio gauge\n" + "\n".join(lines).replace("'", '"') + "\n# EOF\n"
    with prometheus(tmp_path, text) as server:
        given = ["--as", "milliseconds", "--start", str(start_s), "-o", str(tmp_path / "b.parquet")]
        given += ["--end", str(start_s + 15 * (rows - 1)), "--step", "15s"]

        def run(query: str) -> Any:
            return CliRunner().invoke(app, ["trace", "import", server, "--query", query, *given])

        done = run('load_ratio{cpu="0"}')
        assert done.exit_code == 0 and f"{rows} rows" in done.output, done.output
        assert "expected one series, found 2" in str(run("load_ratio").exception)
        assert "parse error" in str(run("load_ratio{").exception)
    trace = Trace.read(tmp_path / "b.parquet")
    np.testing.assert_array_equal(trace.time_s, 15.0 * np.arange(rows))
    np.testing.assert_array_equal(trace.budget_ms, value)


# -------------------------------------------------------------------------------- Parquet


def test_parquet_gives_back_every_bit(tmp_path: Path) -> None:
    """Times, budgets and further columns; also a file that pandas or anything else wrote, in any order."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    random = np.random.default_rng(3)
    trace = Trace.from_budgets(random.lognormal(3, 2, 500), step_s=0.1)
    trace = Trace(trace.time_s, trace.budget_ms, {"max_phi": random.integers(0, 3, 500) * 1.0})
    trace.write(tmp_path / "t.parquet")
    again = Trace.read(tmp_path / "t.parquet")
    np.testing.assert_array_equal(again.time_s, trace.time_s)
    np.testing.assert_array_equal(again.budget_ms, trace.budget_ms)
    np.testing.assert_array_equal(again.columns["max_phi"], trace.columns["max_phi"])
    other = {"budget_ms": pyarrow.array([3, 4], pyarrow.int32()), "time_s": [0.0, 0.5]}
    parquet.write_table(pyarrow.table(other), tmp_path / "o.parquet")
    assert Trace.read(tmp_path / "o.parquet").budget_ms.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"time_s": [0.0, 1.0], "load": [1.0, 2.0]}, "expected the columns time_s, budget_ms"),
        ({"time_s": ["0", "1"], "budget_ms": [1.0, 2.0]}, "column 'time_s' holds string"),
        ({"time_s": [0.0, 1.0], "budget_ms": [True, False]}, "column 'budget_ms' holds bool"),
        ({"time_s": [0.0, 1.0], "budget_ms": [1.0, None]}, "row 1: budget_ms: expected a finite"),
        ({"time_s": [0.0, 0.0], "budget_ms": [1.0, 1.0]}, "row 1: time_s: times must increase"),
        ({"time_s": [0.0, 1.0], "budget_ms": [[1.0], [2.0]]}, "column 'budget_ms' holds list"),
    ],
)
def test_a_parquet_with_wrong_columns_is_refused(
    columns: dict[str, list[Any]], why: str, tmp_path: Path
) -> None:
    """The error names the column, and what is in it."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    with pytest.raises(TraceError, match=why):
        Trace.read(tmp_path / "t.parquet")


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A folder that is not there is one clear error for every format."""
    pytest.importorskip("pyarrow")
    for name in ("t.csv", "t.npz", "t.parquet"):
        with pytest.raises(TraceError, match="cannot write"):
            Trace.from_budgets([1.0, 2.0]).write(tmp_path / "nowhere" / name)


# -------------------------------------------------------------------------------- damage


def files(folder: Path) -> dict[str, bytes]:
    """Return a whole file of each format."""
    trace = Trace.from_budgets(np.random.default_rng(4).lognormal(3, 1, 20))
    for name in ("t.csv", "t.npz", "t.parquet"):
        trace.write(folder / name)
    text = json.dumps(answer(trace.time_s, trace.budget_ms))
    whole = {name: (folder / name).read_bytes() for name in ("t.csv", "t.npz", "t.parquet")}
    return {**whole, "t.json": text.encode()}


@pytest.mark.parametrize("name", ["t.csv", "t.npz", "t.parquet", "t.json"])
def test_damage_is_a_clear_error_or_harmless(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes changed, cut off or put in anywhere: an `AdaphiError` or numbers, never anything else."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("damage")
    whole, path = files(folder)[name], folder / name

    @settings(max_examples=150, database=None)
    @given(st.integers(0, len(whole)), st.integers(0, 40), st.binary(max_size=40))
    def check(place: int, cut: int, put: bytes) -> None:
        path.write_bytes(whole[:place] + put + whole[place + cut :])
        try:
            if name == "t.json":
                series = read_range(path)
                to_budget(series.time_s, series.value, "absolute", "x")
            else:
                Trace.read(path)
                import_raw(path, "absolute")
        except AdaphiError as error:
            assert str(error)

    check()
    path.write_bytes(whole)
    assert name == "t.json" or len(Trace.read(path)) == 20
