"""Sensors on recorded trees: exact numbers in, exact budgets out, and nothing where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaphi.controller.budget import MEMORY_RESERVE_BYTES, BudgetMonitor
from adaphi.controller.recorder import record, rows
from adaphi.controller.sensors import (
    CpuSensor,
    MemorySensor,
    PlayedTrace,
    PushedBudget,
    Sample,
    make_sensor,
)
from adaphi.errors import ConfigError, InputError, InvalidRequest
from adaphi.model_zoo import Profile
from adaphi.model_zoo.energy import RaplMeter
from adaphi.sim import Trace

PRESSURE = """\
some avg10=3.76 avg60=18.03 avg300=7.15 total=29581477
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""


def proc(root: Path, *, running: int = 1, available_kb: int = 1_000_000) -> Path:
    """Write the part of /proc that the sensors read, below `root`."""
    folder = root / "proc"
    (folder / "pressure").mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(f"cpu  1 2\nctxt 9\nprocs_running {running}\nprocs_blocked 0\n")
    (folder / "meminfo").write_text(f"MemTotal: 24684092 kB\nMemAvailable: {available_kb} kB\n")
    (folder / "pressure" / "cpu").write_text(PRESSURE)
    (folder / "pressure" / "memory").write_text(PRESSURE.replace("3.76", "0.00"))
    return root


@pytest.mark.parametrize(
    ("running", "slowdown"), [(0, 1.0), (1, 1.0), (2, 1.0), (4, 2.0), (8, 4.0)]
)
def test_the_slow_down_is_the_share_of_a_core(
    running: int, slowdown: float, tmp_path: Path
) -> None:
    """Others and ourselves share two cores: the first reading is (others + 1) / 2, at least 1."""
    sensor = CpuSensor(proc(tmp_path, running=running), cores=2)
    sample = sensor.read(0.0)
    assert sample is not None
    assert sample.slowdown == slowdown and sample.pressure == pytest.approx(0.0376)


def test_the_slow_down_follows_the_load_smoothly(tmp_path: Path) -> None:
    """A load that comes moves the slow-down by 1 − e^(−t / 0.5 s) of the way."""
    sensor = CpuSensor(proc(tmp_path), cores=2)
    assert sensor.read(0.0).slowdown == 1.0  # type: ignore[union-attr]
    proc(tmp_path, running=8)
    assert sensor.read(0.5).slowdown == pytest.approx(1 + 3 * 0.6321206)  # type: ignore[union-attr]


def test_a_source_that_is_missing_or_damaged_says_nothing(tmp_path: Path) -> None:
    """No file, and a file without the number: no sample, no exception."""
    for _ in range(2):
        assert not CpuSensor(tmp_path).probe() and CpuSensor(tmp_path).read(0.0) is None
        assert not MemorySensor(tmp_path).probe() and MemorySensor(tmp_path).read(0.0) is None
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / "stat").write_text("procs_running many\n")
        (tmp_path / "proc" / "meminfo").write_text("MemAvailable:\n")


@pytest.mark.parametrize(
    ("free_mib", "resident", "cap"), [(0, {0, 1, 2}, 0), (90, {0}, 1), (90, {2}, 2), (250, {0}, 2)]
)
def test_memory_caps_the_variants(
    free_mib: int, resident: set[int], cap: int, tmp_path: Path, sized: Profile
) -> None:
    """What is not resident has to fit beside a reserve; with no reserve left only φ = 0 is admitted."""
    spare_kb = (free_mib << 10) + (MEMORY_RESERVE_BYTES >> 10 if free_mib else 0)
    monitor = BudgetMonitor([MemorySensor(proc(tmp_path, available_kb=spare_kb))], sized)
    monitor.update(0.0)
    assert monitor.limits(frozenset(resident)).max_phi == cap


def test_the_tightest_of_all_sensors_counts(tmp_path: Path, sized: Profile) -> None:
    """The least time, the lowest cap, the largest slow-down; what has expired no longer counts."""
    pushed, played = PushedBudget(), PlayedTrace(Trace.from_budgets([40.0, 20.0], step_s=1.0))
    cpu = CpuSensor(proc(tmp_path, running=6), cores=2)
    monitor = BudgetMonitor([pushed, played, cpu], sized)
    pushed.push(0.0, 30.0, 1, ttl_s=1.5)
    seen = []
    for now_s in (0.0, 1.0, 2.0):
        monitor.update(now_s)
        seen.append(monitor.limits(frozenset())[:2])
    assert seen == [(30.0, 1), (20.0, 1), (40.0, None)]
    assert monitor.limits(frozenset()).slowdown == 3.0


@pytest.mark.parametrize(
    "push", [(float("nan"), None, 1.0), (-1.0, None, 1.0), (1.0, -1, 1.0), (1.0, 1, float("inf"))]
)
def test_an_impossible_push_is_refused(push: tuple[float, int | None, float]) -> None:
    """What was pushed before holds on."""
    sensor = PushedBudget()
    sensor.push(0.0, 5.0, None, 10.0)
    with pytest.raises(InvalidRequest):
        sensor.push(0.0, *push)
    assert sensor.read(1.0).budget_ms == 5.0  # type: ignore[union-attr]


def test_an_unknown_source_is_named() -> None:
    """The message says what there is."""
    with pytest.raises(ConfigError, match="'gpu'"):
        make_sensor("gpu")


def test_rapl_counts_across_a_wrap(tmp_path: Path) -> None:
    """Two packages are summed, a subdomain is not, and a counter that wrapped goes on counting."""
    counters = {"intel-rapl:0": 900, "intel-rapl:1": 50, "intel-rapl:0:0": 7}
    for name, value in counters.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
        (tmp_path / name / "name").write_text("package\n")
    meter = RaplMeter(tmp_path)
    assert meter.available and meter.total_mj() == 0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100\n")  # 900 → 1000 → 100: 200 spent
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("80\n")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("99\n")
    assert meter.total_mj() == pytest.approx(0.230)
    assert meter.total_mj() == pytest.approx(0.230)
    assert not RaplMeter(tmp_path / "nothing").available


def test_a_recording_is_a_trace_whatever_the_clock_does(tmp_path: Path) -> None:
    """Rows a microsecond apart, rows that were missed, a sensor that is silent for one: all can be read."""
    now, turn = [0.0], [0]
    root = proc(tmp_path, running=1)
    cpu = CpuSensor(root, cores=2)
    read = cpu.read

    def slow(now_s: float) -> Sample | None:
        turn[0] += 1
        now[0] += 0.0009999 if turn[0] % 3 else 0.0039
        return None if turn[0] == 5 else read(now_s)

    cpu.read = slow  # type: ignore[method-assign]
    source = rows(
        50.0, 1e-3, 0.2, cpu=cpu, memory=MemorySensor(root), clock=lambda: now[0],
        sleep=lambda s: now.__setitem__(0, now[0] + s),
    )  # fmt: skip
    path = tmp_path / "t.csv"
    written = list(record(path, source))
    trace = Trace.read(path)
    assert len(trace) == len(written) == turn[0] - 1 > 20


def test_a_recording_is_a_trace(tmp_path: Path) -> None:
    """Rows are written as they come; what is read back is frame ÷ slow-down, evenly in time."""
    now = [0.0]
    cpu = CpuSensor(proc(tmp_path, running=4), cores=2)
    source = rows(
        50.0,
        0.1,
        1.0,
        cpu=cpu,
        memory=MemorySensor(tmp_path),
        clock=lambda: now[0],
        sleep=lambda s: now.__setitem__(0, now[0] + s),
    )
    path = tmp_path / "t.csv"
    for number, _ in enumerate(record(path, source), start=1):
        assert len(path.read_text().splitlines()) == 1 + number
    trace = Trace.read(path)
    assert trace.time_s.tolist() == pytest.approx([k / 10 for k in range(10)])
    assert set(trace.budget_ms) == {25.0} and set(trace.columns["available_mb"]) == {1024.0}
    with pytest.raises(InputError, match="load of the processor"):
        next(rows(50.0, 0.1, 1.0, cpu=CpuSensor(tmp_path / "nothing")))
