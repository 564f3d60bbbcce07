"""An NVIDIA GPU as its driver's library NVML tells it: memory, heat, power, and what holds its clock back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .base import Sample
from .heat import Admission, Warming

log = logging.getLogger("adaphi")

# Reasons for a lowered clock (nvmlClocksEventReason…): thermal slow-down by hardware and by software, and the
# hardware's for heat or power without saying which; the software's power cap and the hardware's power brake.
_HEAT = 0x08 | 0x20 | 0x40
_POWER = 0x04 | 0x80


class NvmlSensor:
    """GPU number `index`: its free memory and its heat cap φ, its power is shown beside its limit.

    What a GPU does not support (boards without a power meter, memory shared with the processor) is left out.
    Heat admits by the headroom to the temperature at which the GPU slows down, and nothing but φ = 0 while it
    already does. A low clock is no budget: it is low on an idle GPU; one that is held back under load is seen
    in how long runs take. `nvml` stands in for the module `pynvml` of the package nvidia-ml-py. After an
    error that is the whole GPU's (lost, driver gone) each reading begins anew, so one that returns is found.
    """

    every_s = 1.0  # a reading asks the driver half a dozen times

    def __init__(self, index: int = 0, *, nvml: Any = None) -> None:
        self.name = f"nvml:{index}" if index else "nvml"
        self._index = index
        self._nvml = nvml
        self._gpu: Any = None
        self._warming, self._admission = Warming(), Admission()
        self._complaint = ""

    def probe(self) -> bool:
        """Say whether the GPU tells anything; why it does not is logged."""
        return self.read(0.0) is not None

    def read(self, now_s: float) -> Sample | None:
        """Return what the GPU admits, None if it or its driver is gone or tells nothing."""
        try:
            nvml = self._library()
        except ImportError:
            self._complain("the extra 'nvml' is missing (help: pip install 'adaphi[nvml]')")
            return None
        try:
            sample = self._sample(nvml, now_s)
        except nvml.NVMLError as error:
            with suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
            self._gpu = None
            self._complain(str(error))
            return None
        if not sample.readings:
            self._complain("the GPU tells nothing of what is asked here")
            return None
        self._complaint = ""
        return sample

    def _library(self) -> Any:
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        return self._nvml

    def _complain(self, why: str) -> None:
        if why != self._complaint:  # once, not at every reading
            log.warning("%s: %s", self.name, why)
        self._complaint = why

    def _sample(self, nvml: Any, now_s: float) -> Sample:
        if self._gpu is None:
            nvml.nvmlInit()
            self._gpu = nvml.nvmlDeviceGetHandleByIndex(self._index)
        readings: dict[str, float] = {}
        memory = _supported(nvml, nvml.nvmlDeviceGetMemoryInfo, self._gpu)
        if memory is not None:
            readings["gpu_memory_available_bytes"] = memory.free
        # Drivers before 535 do not know it under its new name, …ClocksEventReasons.
        reasons = _supported(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, self._gpu)
        if reasons is not None:
            readings["gpu_throttled"] = float(bool(reasons & (_HEAT | _POWER)))
        for name, ask in (
            ("gpu_power_watts", nvml.nvmlDeviceGetPowerUsage),
            ("gpu_power_limit_watts", nvml.nvmlDeviceGetEnforcedPowerLimit),
        ):
            if (milliwatts := _supported(nvml, ask, self._gpu)) is not None:
                readings[name] = milliwatts / 1e3
        return Sample(
            available_bytes=None if memory is None else int(memory.free),
            admitted=self._admitted(nvml, now_s, bool((reasons or 0) & _HEAT), readings),
            readings=readings,
        )

    def _admitted(
        self, nvml: Any, now_s: float, slowed: bool, readings: dict[str, float]
    ) -> float | None:
        """Return the share of the ladder that heat admits, None where the GPU says nothing about it."""
        celsius = _supported(
            nvml, nvml.nvmlDeviceGetTemperature, self._gpu, nvml.NVML_TEMPERATURE_GPU
        )
        trip = _supported(
            nvml,
            nvml.nvmlDeviceGetTemperatureThreshold,
            self._gpu,
            nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
        )
        if celsius is not None:
            readings["gpu_temperature_celsius"] = celsius
        if celsius is None or not trip:
            return self._admission.at(now_s, 0.0, 0.0) if slowed else None
        readings["gpu_thermal_headroom_celsius"] = trip - celsius
        left_s = self._warming.left_s(now_s, celsius, trip)
        return self._admission.at(now_s, 0.0 if slowed else trip - celsius, left_s)


def _supported(nvml: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer, None where this GPU or this driver does not give it."""
    try:
        return ask(*arguments)
    except nvml.NVMLError as error:
        absent = (
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_NO_PERMISSION,
        )
        if error.value in absent:
            return None
        raise
