"""The GPU sensor against NVML's documented answers and the real module's errors; no GPU takes part."""

from __future__ import annotations

import ctypes.util
import logging
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from adaphi.controller.budget import BudgetMonitor
from adaphi.controller.sensors import NvmlSensor, Sample, make_sensor
from adaphi.errors import ConfigError
from adaphi.model_zoo import Latency, Profile, VariantProfile

pynvml = pytest.importorskip("pynvml")
GIB = 1 << 30
IDLE, POWER_CAP, HARDWARE = 0x1, 0x4, 0x8  # nvmlClocksEventReason…


@dataclass
class Driver:
    """Answers as NVML does for one GPU: milliwatts, degrees, bytes, a bit mask; pynvml's errors."""

    free: int = 6 * GIB
    celsius: int = 50
    slowdown_celsius: int = 90
    drawn_mw: int = 60_000
    limit_mw: int = 240_000
    reasons: int = IDLE
    unsupported: set[str] = field(default_factory=set)
    broken: int | None = None
    """The code of the error that every call raises."""
    inits: int = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return getattr(pynvml, name)  # error classes and constants are the real module's

        def call(*arguments: Any) -> Any:
            if name != "nvmlShutdown" and self.broken is not None:
                raise pynvml.NVMLError(self.broken)
            if name in self.unsupported:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return self.answer(name, *arguments)

        getattr(pynvml, name)  # no function that the real module does not have
        return call

    def answer(self, name: str, *arguments: Any) -> Any:
        if name == "nvmlInit":
            self.inits += 1
            return None
        if name == "nvmlDeviceGetHandleByIndex":
            if arguments[0] > 0:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            return "gpu 0"
        if name == "nvmlDeviceGetTemperatureThreshold":
            assert arguments == ("gpu 0", pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        return {
            "nvmlShutdown": None,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=8 * GIB, free=self.free),
            "nvmlDeviceGetTemperature": self.celsius,
            "nvmlDeviceGetTemperatureThreshold": self.slowdown_celsius,
            "nvmlDeviceGetPowerUsage": self.drawn_mw,
            "nvmlDeviceGetEnforcedPowerLimit": self.limit_mw,
            "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
        }[name]


def read(sensor: NvmlSensor, now_s: float) -> Sample:
    sample = sensor.read(now_s)
    assert sample is not None
    return sample


def test_everything_a_gpu_tells_is_read_in_its_units() -> None:
    """60 of 240 W, 40 °C below its slow-down, 6 GiB free, an idle clock: all of the ladder."""
    sensor = NvmlSensor(nvml=Driver())
    assert sensor.probe()
    sample = read(sensor, 100.0)
    assert sample.available_bytes == 6 * GIB
    assert sample.admitted == 1.0
    assert sample.readings == {
        "gpu_memory_available_bytes": 6 * GIB,
        "gpu_throttled": 0.0,
        "gpu_temperature_celsius": 50,
        "gpu_thermal_headroom_celsius": 40,
        "gpu_power_watts": 60.0,
        "gpu_power_limit_watts": 240.0,
    }


def test_heat_caps_the_ladder_and_power_does_not() -> None:
    """5 °C below the slow-down half the ladder, none but φ = 0 while the hardware slows down; at the power
    limit the clock is held back, which shows, and caps nothing."""
    assert read(NvmlSensor(nvml=Driver(celsius=85)), 100.0).admitted == 0.5
    slowed = read(NvmlSensor(nvml=Driver(reasons=HARDWARE)), 100.0)
    assert slowed.admitted == 0.0 and slowed.readings["gpu_throttled"] == 1.0
    capped = read(NvmlSensor(nvml=Driver(reasons=POWER_CAP, drawn_mw=250_000)), 100.0)
    assert capped.admitted == 1.0 and capped.readings["gpu_power_watts"] == 250.0
    assert capped.readings["gpu_throttled"] == 1.0


def test_warming_is_foreseen_and_recovery_slow() -> None:
    """At 1 °C a second, 30 °C below the slow-down, 30 s are left: half the ladder, as for a thermal zone."""
    driver = Driver()
    sensor = NvmlSensor(nvml=driver)
    for second in range(31):
        driver.celsius = 30 + second
        sample = read(sensor, 100.0 + second)
    assert sample.admitted == pytest.approx(0.5)
    driver.celsius = 30
    assert read(sensor, 133.0).admitted == pytest.approx(0.5 + 3 / 30)


def test_what_a_gpu_does_not_support_is_left_out() -> None:
    """Without a power meter and with memory that is the processor's there is still heat; with nothing at all
    there is no sensor."""
    driver = Driver(unsupported={"nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo"})
    sample = read(NvmlSensor(nvml=driver), 100.0)
    assert sample.available_bytes is None and sample.admitted == 1.0
    assert "gpu_power_watts" not in sample.readings
    driver.unsupported |= {
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetTemperatureThreshold",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    }
    assert not NvmlSensor(nvml=driver).probe()


@pytest.mark.parametrize("code", ["GPU_IS_LOST", "DRIVER_NOT_LOADED", "UNKNOWN", "RESET_REQUIRED"])
def test_a_gpu_that_is_lost_leaves_the_smallest_variant_and_may_return(
    code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last word holds for two seconds, then φ = 0 alone is admitted; said once; found when it is back."""
    variants = tuple(VariantProfile(phi, f"v{phi}", 0.7, Latency(p95=1.0 + phi)) for phi in (0, 1))
    profile = Profile(ladder="two", variants=variants, stall_ms=((0.0, 0.0), (0.0, 0.0)))
    driver = Driver()
    monitor = BudgetMonitor([NvmlSensor(nvml=driver)], profile, stale_s=2.0)

    def cap(now_s: float) -> int | None:
        monitor.update(now_s)
        return monitor.limits(frozenset({0})).max_phi

    assert cap(100.0) == 1 and driver.inits == 1
    driver.broken = getattr(pynvml, f"NVML_ERROR_{code}")
    with caplog.at_level(logging.WARNING):
        assert [cap(101.0), cap(102.0), cap(103.5)] == [1, 1, 0]
    assert len(caplog.records) == 1 and str(pynvml.NVMLError(driver.broken)) in caplog.text
    assert not monitor.up["nvml"]
    driver.broken = None
    assert cap(105.0) == 1 and driver.inits == 2


@pytest.mark.skipif(ctypes.util.find_library("nvidia-ml") is not None, reason="NVML is here")
def test_without_a_driver_the_real_library_is_not_found(caplog: pytest.LogCaptureFixture) -> None:
    """pynvml itself, on a machine without NVIDIA's driver: no sensor, and the log says why."""
    sensor = make_sensor("nvml:1")
    assert sensor.name == "nvml:1"
    assert not sensor.probe() and sensor.read(1.0) is None
    assert [r.getMessage() for r in caplog.records] == ["nvml:1: NVML Shared Library Not Found"]


def test_without_the_package_the_log_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration may name the source on a device that has neither GPU nor package."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not make_sensor("nvml").probe()
    assert "adaphi[nvml]" in caplog.text


def test_a_gpu_is_named_by_its_number() -> None:
    """There is no second GPU here; a name is no number."""
    assert not NvmlSensor(1, nvml=Driver()).probe()
    with pytest.raises(ConfigError, match="nvml:NUMBER"):
        make_sensor("nvml:first")
