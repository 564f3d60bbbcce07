"""Sensors of limits, heat and power on trees of /proc and /sys, as kernels write them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from adaphi.controller.budget import MEMORY_RESERVE_BYTES, BudgetMonitor
from adaphi.controller.metrics import Metrics
from adaphi.controller.scheduler import Limits
from adaphi.controller.sensors import (
    BatterySensor,
    Cgroup,
    CpuSensor,
    MemorySensor,
    PushedBudget,
    RaplSensor,
    Sample,
    ThermalSensor,
    make_sensor,
)
from adaphi.controller.sensors.pressure import Pressure
from adaphi.controller.shrinking import Shrinking
from adaphi.errors import ConfigError
from adaphi.model_zoo import Profile

MIB = 1 << 20

# A service's slice under version 2: the limit on memory is the slice's, that on the processor the service's.
UNIFIED = {
    "proc/self/cgroup": "0::/system.slice/adaphi.service\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 900\n",
    "sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/system.slice/memory.max": f"{1000 * MIB}\n",
    "sys/fs/cgroup/system.slice/memory.high": "max\n",
    "sys/fs/cgroup/system.slice/memory.current": f"{800 * MIB}\n",
    "sys/fs/cgroup/system.slice/memory.stat": f"anon 1\ninactive_file {100 * MIB}\n",
    "sys/fs/cgroup/system.slice/adaphi.service/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/system.slice/adaphi.service/cpu.stat": "nr_periods 100\nnr_throttled 10\n",
    "sys/fs/cgroup/system.slice/adaphi.service/memory.max": "max\n",
    "sys/fs/cgroup/system.slice/adaphi.service/memory.high": f"{900 * MIB}\n",
    "sys/fs/cgroup/system.slice/adaphi.service/memory.current": f"{400 * MIB}\n",
    "sys/fs/cgroup/system.slice/adaphi.service/memory.stat": "anon 1\ninactive_file 0\n",
    "sys/fs/cgroup/system.slice/adaphi.service/memory.pressure": (
        "some avg10=12.50 avg60=1.00 avg300=0.00 total=500000\n"
        "full avg10=1.00 avg60=0.00 avg300=0.00 total=1\n"
    ),
}
# The same limits under version 1, beside a version 2 without controllers.
HYBRID = {
    "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n0::/box\n",
    "sys/fs/cgroup/unified/cgroup.controllers": "\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{8000 * MIB}\n",
    "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{1000 * MIB}\n",
    "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{800 * MIB}\n",
    "sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {100 * MIB}\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu/box/cpu.stat": "nr_periods 100\nnr_throttled 10\nthrottled_time 5\n",
}
PROC = {
    "proc/stat": "cpu 1 2\nprocs_running 1\n",
    "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def read(sensor: CpuSensor | MemorySensor | BatterySensor | RaplSensor, now_s: float) -> Sample:
    sample = sensor.read(now_s)
    assert sample is not None
    return sample


@pytest.mark.parametrize("files", [UNIFIED, HYBRID])
def test_both_versions_of_control_groups_tell_the_same_limits(
    files: dict[str, str], tmp_path: Path
) -> None:
    """Half a processor, a tenth of the periods throttled, and 300 MiB of room: the tightest of all groups
    above ours, with idle cached files counted as free."""
    group = Cgroup(write(tmp_path, files))
    assert group.cpu_limit() == 0.5
    assert group.throttled_periods() == (100, 10)
    assert group.memory_room_bytes() == 300 * MIB


def test_a_container_that_cannot_see_the_path_of_its_group_reads_the_mount(tmp_path: Path) -> None:
    """/proc names a group as the host does; the container's own limits are at the top of what is mounted."""
    files = {
        "proc/self/cgroup": "4:memory:/docker/0123\n0::/../other\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{200 * MIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{50 * MIB}\n",
        "sys/fs/cgroup/unified/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/unified/cpu.pressure": "some avg10=0.00 total=0\n",
    }
    group = Cgroup(write(tmp_path, files))
    assert group.memory_room_bytes() == 150 * MIB and group.cpu_limit() == 1.5
    assert group.pressure_file("cpu") == tmp_path / "sys/fs/cgroup/unified/cpu.pressure"


def test_no_limit_is_none(tmp_path: Path) -> None:
    """Without groups, and with damaged ones, there is no limit and no exception."""
    empty = Cgroup(tmp_path / "empty")
    assert empty.cpu_limit() is empty.memory_room_bytes() is empty.throttled_periods() is None
    files = {name: "%\n" for name in UNIFIED} | {"proc/self/cgroup": UNIFIED["proc/self/cgroup"]}
    broken = Cgroup(write(tmp_path, files))
    assert broken.cpu_limit() is broken.memory_room_bytes() is broken.throttled_periods() is None


def test_memory_is_the_lesser_of_the_machine_and_the_group(tmp_path: Path) -> None:
    """4 GB are free, but the group has room for 300 MiB; and its pressure is the greater one."""
    sensor = MemorySensor(write(tmp_path, PROC | UNIFIED))
    sample = read(sensor, 0.0)
    assert sample.available_bytes == 300 * MIB and sample.pressure == 0.125
    write(tmp_path, {"proc/meminfo": "MemAvailable: 1024 kB\n"})
    assert read(sensor, 0.0).available_bytes == MIB


def test_the_processor_slows_down_by_what_its_limits_were_lowered(tmp_path: Path) -> None:
    """A limit that was there when we began is in the profile; half of it, and half the clock, make four."""
    clock = "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"
    quota = "sys/fs/cgroup/system.slice/adaphi.service/cpu.max"
    stat = "sys/fs/cgroup/system.slice/adaphi.service/cpu.stat"
    sensor = CpuSensor(write(tmp_path, PROC | UNIFIED | {clock: "2400000\n"}), cores=2)
    sample = read(sensor, 0.0)
    assert sample.slowdown == 1.0 and sample.pressure == 0.0
    write(tmp_path, {clock: "1200000\n", quota: "25000 100000\n"})
    write(tmp_path, {stat: "nr_periods 110\nnr_throttled 16\n"})
    sample = read(sensor, 1.0)
    assert sample.slowdown == 4.0 and sample.pressure == pytest.approx(0.6)
    assert sample.readings["cpu_frequency_limit_hertz"] == 1.2e9
    assert sample.readings["cpu_limit_cores"] == 0.25


def test_pressure_of_the_last_second_is_seen_before_the_average(tmp_path: Path) -> None:
    """The kernel's average still says 2 %; the counter says that 0.4 of the last 1 s were waited."""
    path = tmp_path / "memory"
    for now_s, total_us, share in [(0.0, 0, 0.02), (0.5, 10, 0.02), (1.0, 400_000, 0.4)]:
        path.write_text(f"some avg10=2.00 avg60=0.00 avg300=0.00 total={total_us}\n")
        if now_s == 0:
            pressure = Pressure(path)
        assert pressure.read(now_s) == pytest.approx(share)


def zone(root: Path, celsius: float, place: int = 0, **more: str) -> Path:
    """Write a zone with a fan at 50 °C, throttling at 80 °C and a stop at 95 °C."""
    trips = {"active": 50, "passive": 80, "critical": 95}
    files = {"type": "cpu-thermal\n", "temp": f"{celsius * 1000:.0f}\n"} | more
    folder = f"sys/class/thermal/thermal_zone{place}"
    for number, (kind, at) in enumerate(trips.items()):
        files |= {f"trip_point_{number}_type": f"{kind}\n"}
        files |= {f"trip_point_{number}_temp": f"{at * 1000}\n"}
    return write(root, {f"{folder}/{k}": v for k, v in files.items()})


def test_heat_near_the_trip_takes_the_larger_variants(tmp_path: Path) -> None:
    """Steady at 20, 5 and 0 °C below the throttling trip: all of the ladder, half of it, φ = 0."""
    for celsius, admitted in [(60.0, 1.0), (75.0, 0.5), (80.0, 0.0), (99.0, 0.0)]:
        sample = ThermalSensor(zone(tmp_path, celsius)).read(100.0)
        assert sample is not None and sample.admitted == pytest.approx(admitted)
        assert sample.readings["thermal_headroom_celsius"] == 80 - celsius


def test_heat_that_rises_is_foreseen_and_recovers_slowly(tmp_path: Path) -> None:
    """Warming by 0.5 °C a second, 15 °C below the trip there are 30 s left: half the ladder, before anything
    is throttled. Once it is cool again, the ladder returns over half a minute."""
    sensor = ThermalSensor(zone(tmp_path, 50.0))
    for second in range(31):
        zone(tmp_path, 50.0 + second / 2)
        sample = sensor.read(float(second))
    assert sample is not None and sample.admitted == pytest.approx(0.5)
    assert sample.readings["thermal_trip_in_seconds"] == pytest.approx(30.0)
    zone(tmp_path, 40.0)
    shares = [sensor.read(31.0 + second).admitted for second in (0, 3, 15, 60)]  # type: ignore[union-attr]
    assert shares == pytest.approx([0.5 + 1 / 30, 0.5 + 4 / 30, 1.0, 1.0])


def test_a_board_whose_firmware_throttles_is_told_where(tmp_path: Path) -> None:
    """A zone without a trip that costs speed is no sensor, until the configuration says `thermal:80`."""
    folder = "sys/class/thermal/thermal_zone0"
    write(tmp_path, {f"{folder}/temp": "78000\n", f"{folder}/trip_point_0_type": "active\n"})
    assert not make_sensor("thermal", tmp_path).probe()
    sample = make_sensor("thermal:80", tmp_path).read(0.0)
    assert sample is not None and sample.admitted == pytest.approx(0.2)
    with pytest.raises(ConfigError, match="'hot' is not a temperature"):
        make_sensor("thermal:hot")


def test_energy_is_not_scarce_on_the_mains(tmp_path: Path) -> None:
    """On line and charging it is unlimited; a charger too weak to keep the battery from draining is not
    enough; the level is the mean. A mouse's battery is not the device's."""
    folder = "sys/class/power_supply"
    supply = {
        f"{folder}/AC/type": "Mains\n",
        f"{folder}/AC/online": "1\n",
        f"{folder}/BAT0/type": "Battery\n",
        f"{folder}/BAT0/status": "Charging\n",
        f"{folder}/BAT0/energy_now": "10000000\n",
        f"{folder}/BAT0/capacity": "80\n",
    }
    sensor = BatterySensor(write(tmp_path, supply))
    sample = read(sensor, 0.0)
    assert sample.energy_j == math.inf
    assert sample.readings == {
        "battery_energy_joules": 36000.0,
        "battery_level_ratio": 0.8,
        "mains_online": 1.0,
    }
    for change in ({"BAT0/status": "Discharging\n"}, {"AC/online": "0\n"}):
        write(tmp_path, supply | {f"{folder}/{name}": value for name, value in change.items()})
        assert read(sensor, 0.0).energy_j == 36000.0
    mouse = {
        f"{folder}/hid-1/{name}": f"{value}\n"
        for name, value in (("type", "Battery"), ("scope", "Device"), ("capacity", 1))
    }
    write(tmp_path, supply | mouse | {f"{folder}/hid-1/status": "Discharging\n"})
    write(tmp_path, {f"{folder}/AC/online": "2\n"})  # a charger whose voltage is negotiated
    assert read(sensor, 0.0) == sample


def test_the_processor_s_power_is_counted_across_a_wrap(tmp_path: Path) -> None:
    """20 J in 2 s are 10 W of a limit of 40 W; the platform's counter holds the package's and is no other."""
    folder = "sys/class/powercap/intel-rapl:0"
    files = {
        f"{folder}/name": "package-0\n",
        f"{folder}/energy_uj": "95000000\n",
        f"{folder}/max_energy_range_uj": "100000000\n",
        f"{folder}/constraint_0_power_limit_uw": "40000000\n",
    }
    files |= {name.replace(":0/", ":1/"): value for name, value in files.items()}
    files["sys/class/powercap/intel-rapl:1/name"] = "psys\n"
    sensor = RaplSensor(write(tmp_path, files))
    assert sensor.probe() and read(sensor, 0.0).pressure is None
    write(tmp_path, {f"{folder}/energy_uj": "15000000\n"})
    sample = read(sensor, 2.0)
    assert sample.pressure == pytest.approx(0.25)
    assert sample.readings == pytest.approx({"package_power_watts": 10.0})
    shutil.rmtree(tmp_path / folder)
    assert sensor.read(3.0) is None and not RaplSensor(tmp_path / "nothing").probe()


@pytest.mark.parametrize("source", ["cpu", "memory", "thermal", "battery", "rapl"])
def test_a_sensor_that_dies_leaves_only_the_smallest_variant(
    source: str, tmp_path: Path, sized: Profile
) -> None:
    """Its last word holds for the stated time; then φ = 0 alone is admitted and nothing is loaded, until it
    answers again. A sensor that never worked takes no part."""
    files = PROC | {
        "sys/class/power_supply/BAT0/type": "Battery\n",
        "sys/class/power_supply/BAT0/energy_now": "10000000\n",
        "sys/class/powercap/intel-rapl:0/name": "package-0\n",
        "sys/class/powercap/intel-rapl:0/energy_uj": "5\n",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "100\n",
    }
    root = zone(write(tmp_path / "live", files), 40.0)
    monitor = BudgetMonitor([make_sensor(source, root)], sized, memory_limit_bytes=1e9, stale_s=2)
    resident = frozenset({0, 1})

    def seen(now_s: float) -> tuple[int, bool, float | None]:
        monitor.update(now_s)
        limits = monitor.limits(resident)
        cap = 2 if limits.max_phi is None else limits.max_phi
        return cap, monitor.up[source], limits.memory_bytes

    assert seen(0.0) == (2, True, 1e9)
    root.rename(tmp_path / "gone")
    assert seen(1.5) == (2, False, 1e9)
    assert seen(4.0) == (0, False, 130 * MIB)
    (tmp_path / "gone").rename(root)
    assert seen(6.0) == (2, True, 1e9)
    never = BudgetMonitor([make_sensor(source, tmp_path / "none")], sized, stale_s=2)
    never.update(0.0)
    never.update(9.0)
    assert never.limits(resident).max_phi is None and never.up == {source: False}


def test_memory_is_given_back_though_another_sensor_died(tmp_path: Path, sized: Profile) -> None:
    """Of 300 MiB that are held 4 MiB more can be had: what the reserve lacks goes, whoever else is silent."""
    root = zone(write(tmp_path / "t", PROC), 40.0)
    (root / "proc/meminfo").write_text(f"MemAvailable: {4 * 1024} kB\n")
    monitor = BudgetMonitor([MemorySensor(root), ThermalSensor(root)], sized, stale_s=2)
    monitor.update(0.0)
    before = monitor.limits(frozenset({0, 1, 2})).memory_bytes
    shutil.rmtree(root / "sys/class/thermal")
    monitor.update(5.0)
    assert monitor.lost == {"thermal"}
    assert monitor.limits(frozenset({0, 1, 2})).memory_bytes == before
    held = sum(v.memory_bytes or 0 for v in sized.variants)
    assert before == held + 4 * MIB - MEMORY_RESERVE_BYTES
    (root / "proc/meminfo").write_text(f"MemAvailable: {4 << 20} kB\n")
    monitor.update(6.0)
    assert monitor.limits(frozenset({0, 1, 2})).memory_bytes == held, "nothing more is loaded"


def test_a_hot_zone_that_falls_silent_takes_the_sensor_along(tmp_path: Path) -> None:
    """What was hot may be hotter by now; a zone that was cool, as a radio's that is off, is passed over."""
    sensor = ThermalSensor(root := zone(zone(tmp_path, 40.0), 75.0, 1))
    assert sensor.read(0.0) is not None
    cool, hot = (root / f"sys/class/thermal/thermal_zone{n}/temp" for n in (0, 1))
    kept = hot.read_text()
    hot.unlink()
    assert sensor.read(1.0) is None
    hot.write_text(kept)
    cool.unlink()
    assert sensor.read(2.0) is not None


@pytest.mark.parametrize("gone", ["memory.current", "memory.max"])
def test_a_limit_of_which_nothing_is_known_any_more_is_no_freedom(
    gone: str, tmp_path: Path
) -> None:
    """The group's use, or its limit, can no longer be read: the sensor is down, not unlimited."""
    root = write(tmp_path, PROC | UNIFIED)
    sensor = MemorySensor(root)
    assert sensor.read(0.0) is not None
    (root / "sys/fs/cgroup/system.slice" / gone).unlink()
    assert sensor.read(1.0) is None


def test_limits_that_are_set_later_hold_and_a_group_may_change(tmp_path: Path) -> None:
    """A limit that appears while the daemon runs counts; moved to another group, it is that one's."""
    folder = "sys/fs/cgroup/a"
    free = {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/cgroup.controllers": "memory\n"}
    root = write(tmp_path, PROC | free | {f"{folder}/cgroup.procs": "1\n"})
    sensor = MemorySensor(root)
    assert read(sensor, 0.0).available_bytes == 4_000_000 * 1024
    limit = {"memory.max": f"{100 * MIB}\n", "memory.current": f"{60 * MIB}\n"}
    write(root, {f"{folder}/{name}": value for name, value in limit.items()})
    assert read(sensor, 1.0).available_bytes == 40 * MIB
    shutil.rmtree(root / folder)
    write(root, {"proc/self/cgroup": "0::/b\n", "sys/fs/cgroup/b/memory.max": "max\n"})
    assert read(sensor, 3.0).available_bytes == 4_000_000 * 1024


def test_a_dead_sensor_s_share_is_no_number(tmp_path: Path, sized: Profile) -> None:
    """The share of a resource that is free is as old as its sensor's last word: no alert may go by it."""
    root = write(tmp_path / "live", PROC | UNIFIED)
    monitor, metrics = BudgetMonitor([MemorySensor(root)], sized), Metrics("l", "1")
    metrics.start(sized)

    def ratio(now_s: float) -> float | None:
        monitor.update(now_s)
        metrics.show_budget(monitor, Limits(), now_s)
        return metrics.registry.get_sample_value("adaphi_budget_ratio", {"resource": "memory"})

    assert ratio(0.0) == 0.875
    root.rename(tmp_path / "gone")
    assert math.isnan(ratio(2.0) or 0.0)


def test_a_sensor_that_raises_is_down_and_said_once(
    sized: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in one source costs neither the others nor the daemon; the safe side holds meanwhile."""
    pushed = PushedBudget()
    monitor = BudgetMonitor([pushed, PushedBudget()], sized, stale_s=2)
    faulty = monitor.sensors[1]
    faulty.name = "faulty"
    pushed.push(0.0, 40.0, None, 60.0)
    monitor.update(0.0)

    def raises(now_s: float) -> None:
        raise ZeroDivisionError("a bug")

    cast(Any, faulty).read = raises
    for now_s in (1.0, 2.0, 4.0):
        monitor.update(now_s)
    assert monitor.up == {"pushed": True, "faulty": False}
    limits = monitor.limits(frozenset({0}))
    assert limits.max_phi == 0 and limits.budget_ms == 40.0
    assert caplog.text.count("Error: a bug") == caplog.text.count("'faulty'") == 1


def test_a_slow_source_is_not_asked_at_every_reading(tmp_path: Path, sized: Profile) -> None:
    """Read every 0.1 s for two seconds, a zone is asked at 0 and 1 s, and its age says so."""
    root = zone(tmp_path, 40.0)
    monitor, seen = BudgetMonitor([ThermalSensor(root)], sized), []
    for tenth in range(20):
        zone(tmp_path, 40.0 + tenth)
        monitor.update(tenth / 10)
        seen.append(monitor.samples["thermal"].readings["temperature_celsius"])
    assert seen == [40.0] * 10 + [50.0] * 10 and monitor.read_s == {"thermal": 1.0}


def test_a_group_s_limit_is_what_a_plan_of_the_resident_set_may_use(
    tmp_path: Path, sized: Profile
) -> None:
    """300 MiB of room less the reserve, and what is resident already: not the machine's 4 GB."""
    monitor = BudgetMonitor([MemorySensor(write(tmp_path, PROC | UNIFIED))], sized)
    monitor.update(0.0)
    limits = monitor.limits(frozenset({0}))
    assert limits.memory_bytes == 300 * MIB - MEMORY_RESERVE_BYTES + 50 * MIB


def test_short_memory_evicts_the_largest_and_room_brings_it_back() -> None:
    """The smallest stay, the last of all never goes; a variant comes back only with room to spare, one at a
    time, and never where the policy plans the loads."""
    shrinking = Shrinking([50, 80, 200])
    every = frozenset({0, 1, 2})
    assert shrinking.order(every, None) is None and shrinking.order(every, 330) is None
    assert shrinking.order(every, 329) == {0, 1}
    assert shrinking.order(frozenset({0, 1}), 10) == {0}
    assert shrinking.order(frozenset({0}), 10) is None
    assert shrinking.order(frozenset({0}), 1.1 * 130 - 1) is None
    assert shrinking.order(frozenset({0}), 1e9) == {0, 1}
    assert shrinking.order(frozenset({0, 1}), 1e9) == every
    assert shrinking.order(every, 1e9) is None
    assert shrinking.order(every, 329, planned=True) == {0, 1}
    assert shrinking.order(frozenset({0, 1}), 1e9, planned=True) is None
    assert shrinking.order(every, 329) == {0, 1}
    assert shrinking.order(frozenset({0, 1}), 1e9, planned=True) is None
