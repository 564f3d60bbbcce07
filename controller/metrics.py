"""What the daemon tells Prometheus: one registry of its own, filled as things happen."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, permutations

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ..model_zoo.profile import Profile
from .budget import BudgetMonitor
from .scheduler import Limits

TURNED_AWAY = ("shed", "expired", "busy")
"""Outcomes of requests that were in order, and for which there was no time or no room."""
DECISION_BUCKETS = (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3)


def outcome_of(code: str) -> str:
    """Return what a request counts as that was refused with this code."""
    return code if code in TURNED_AWAY else "refused"


def latency_buckets(profile: Profile) -> tuple[float, ...]:
    """Return histogram bounds in seconds: from half the quickest to twenty times the slowest."""
    means = [
        v.latency_ms.p50 or v.latency_ms.mean or v.latency_ms.p95 or 50 for v in profile.variants
    ]
    low, high = min(means) / 2e3, max(means) * 20 / 1e3
    count = 14
    return tuple(float(f"{low * (high / low) ** (k / (count - 1)):.3g}") for k in range(count))


class _First(Collector):
    """Is asked before every other collector of its registry, and has nothing to tell but that."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.then: Callable[[], object] = lambda: None
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        self.then()
        return ()


class Histogram(Collector):
    """A histogram, one for each of `labels` values, that counts many values at once.

    It is for one thread, and far quicker than the library's own. `buckets` are upper bounds, ascending.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[float],
        registry: CollectorRegistry,
        label: str = "",
        values: Sequence[str] = ("",),
    ) -> None:
        self._name, self._documentation = name, documentation
        self.bounds = tuple(buckets)
        self._label, self._values = label, values
        self._counts = [[0] * (len(buckets) + 1) for _ in values]
        self._sums = [0.0] * len(values)
        registry.register(self)

    def observe(self, values: Iterable[float], of: int = 0) -> None:
        """Count values, for the labels value at place `of`."""
        counts, bounds, total = self._counts[of], self.bounds, self._sums[of]
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self._sums[of] = total

    def collect(self) -> Iterable[Metric]:
        """Return what was counted."""
        labels = [self._label] if self._label else []
        family = HistogramMetricFamily(self._name, self._documentation, labels=labels)
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        for value, counts, total in zip(self._values, self._counts, self._sums, strict=True):
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([value] if labels else [], buckets, total)
        return [family]


class Metrics:
    """The daemon's metrics; label `model` is the ladder, `variant` a variant's name."""

    def __init__(self, ladder: str, version: str) -> None:
        self.registry = CollectorRegistry()
        self.ladder = ladder
        registry = self.registry
        self._first = _First(registry)
        self._requests = Counter(
            "adaphi_requests",
            "Requests by outcome.",
            ["model", "variant", "outcome"],
            registry=registry,
        )
        self.repeated = Counter(
            "adaphi_requests_repeated",
            "Requests that came again: joined while under way, or answered as remembered.",
            ["how"],
            registry=registry,
        )
        self.refused_keys = Counter(
            "adaphi_refused_keys",
            "Connections from beyond this machine whose key is not known.",
            registry=registry,
        )
        self.in_flight = Gauge(
            "adaphi_requests_in_flight",
            "Requests now in a model, or told to its process.",
            registry=registry,
        )
        self._batches = Counter(
            "adaphi_batches",
            "Runs that answered several requests at once, by how many.",
            ["variant", "size"],
            registry=registry,
        )
        self.queue_depth = Gauge("adaphi_queue_depth", "Requests now waiting.", registry=registry)
        self._active = Gauge(
            "adaphi_variant_active", "1 for the active variant.", ["variant"], registry=registry
        )
        self._warm = Gauge(
            "adaphi_variant_warm",
            "1 for a variant that is resident and warm.",
            ["variant"],
            registry=registry,
        )
        self._memory = Gauge(
            "adaphi_variant_memory_bytes",
            "Memory that a variant takes.",
            ["variant"],
            registry=registry,
        )
        self._quality = Gauge(
            "adaphi_accuracy_expected_ratio",
            "Quality of the active variant, 0 to 1.",
            registry=registry,
        )
        self._switches = Counter(
            "adaphi_switches",
            "Changes of the active variant.",
            ["from_variant", "to_variant"],
            registry=registry,
        )
        self.decision = Histogram(
            "adaphi_decision_duration_seconds",
            "Time to schedule and decide one request.",
            buckets=DECISION_BUCKETS,
            registry=registry,
        )
        self._slowdown = Gauge(
            "adaphi_slowdown_ratio", "Latency now, relative to the profile.", registry=registry
        )
        self._slowdown.set(1.0)  # as profiled, until something ran
        self._sensor_up = Gauge(
            "adaphi_sensor_up", "1 if a sensor answered.", ["sensor"], registry=registry
        )
        self._sensor_age = Gauge(
            "adaphi_sensor_age_seconds",
            "Time since a sensor last answered.",
            ["sensor"],
            registry=registry,
        )
        self._budget_ratio = Gauge(
            "adaphi_budget_ratio",
            "Share of a resource that is free, 0 to 1.",
            ["resource"],
            registry=registry,
        )
        self._readings: dict[str, tuple[str, Gauge]] = {}
        self._counters: dict[tuple[str, int | None], Counter] = {}
        self.turned_away = 0
        """How many requests found no time or no room: shed, expired, busy."""
        self._certificate = Gauge(
            "adaphi_certificate_holds",
            "1 while the policy's promise is what happens, 0 once it is not.",
            registry=registry,
        )
        self.flight_lost = Gauge(
            "adaphi_flight_lost_records",
            "Records that the flight recorder could not write.",
            registry=registry,
        )
        self.restarts = Counter(
            "adaphi_worker_restarts", "Workers that had to be replaced.", registry=registry
        )
        self._rollouts = Counter(
            "adaphi_policy_rollouts",
            "Policies that were offered and refused, took_over, were kept or rolled_back.",
            ["outcome"],
            registry=registry,
        )
        self.ready = Gauge("adaphi_ready", "1 while the models are warm.", registry=registry)
        self.policy = Info("adaphi_policy", "The policy in use.", registry=registry)
        self.policy_loaded = Gauge(
            "adaphi_policy_loaded_timestamp_seconds",
            "When the policy was loaded.",
            registry=registry,
        )
        Info("adaphi_build", "The version of adaphi.", registry=registry).info({"version": version})

    def before_reading(self, settle: Callable[[], object]) -> None:
        """Have `settle` called whenever the metrics are about to be read."""
        self._first.then = settle

    def start(self, profile: Profile) -> None:
        """Create what depends on the ladder, now that its profile is known."""
        registry, buckets = self.registry, latency_buckets(profile)
        self._profile = profile
        self.request_seconds = Histogram(
            "adaphi_request_duration_seconds",
            "Arrival to answer.",
            buckets=buckets,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "adaphi_queue_duration_seconds",
            "Arrival to the start of the model.",
            buckets=sorted({0.0001, 0.0003, 0.001, 0.003, *buckets}),
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "adaphi_inference_duration_seconds",
            "Time in the model, preprocessing included.",
            buckets=buckets,
            registry=registry,
            label="variant",
            values=[v.name for v in profile.variants],
        )
        for variant in profile.variants:
            self._memory.labels(variant.name).set(variant.memory_bytes or math.nan)
        self._begin_at_zero([variant.name for variant in profile.variants])

    def _begin_at_zero(self, names: list[str]) -> None:
        """Show what never happened as 0: without its series a share of all would be no number at all."""
        for outcome in (*TURNED_AWAY, "refused"):
            self._requests.labels(self.ladder, "", outcome)
        for outcome in ("ok", "late", "error"):
            for name in names:
                self._requests.labels(self.ladder, name, outcome)
        for pair in permutations(names, 2):
            self._switches.labels(*pair)

    def count(self, outcome: str, phi: int | None = None, amount: int = 1) -> None:
        """Count requests: ok, late, shed, expired, busy, cancelled, refused or error; `phi` where one ran."""
        counter = self._counters.get((outcome, phi))
        if counter is None:  # looking a series up by its labels costs more than counting
            variant = "" if phi is None else self._profile.variants[phi].name
            counter = self._requests.labels(self.ladder, variant, outcome)
            self._counters[outcome, phi] = counter
        counter.inc(amount)
        if outcome in TURNED_AWAY:
            self.turned_away += amount

    def count_batch(self, phi: int, size: int) -> None:
        """Count a run that was for several requests."""
        self._batches.labels(self._profile.variants[phi].name, str(size)).inc()

    def show_policy(self, name: str) -> None:
        """Record which policy decides from now on."""
        self.policy.info({"name": name})
        self.policy_loaded.set(time.time())

    def count_rollout(self, outcome: str) -> None:
        """Count what became of a policy that was offered."""
        self._rollouts.labels(outcome).inc()

    def count_refusal(self, code: str) -> None:
        """Count a request that never ran, by the code of its error."""
        self.count(outcome_of(code))

    def show_certificate(self, status: str) -> None:
        """Record whether the certificate holds; a policy without one promises nothing it could break."""
        self._certificate.set(status in ("", "holds"))

    def show_active(self, phi: int) -> None:
        """Record which variant is active."""
        for variant in self._profile.variants:
            self._active.labels(variant.name).set(variant.phi == phi)
        self._quality.set(self._profile.variants[phi].quality)

    def show_switch(self, previous: int, phi: int) -> None:
        """Record a change of the active variant."""
        names = self._profile.variants[previous].name, self._profile.variants[phi].name
        self._switches.labels(*names).inc()
        self.show_active(phi)

    def show_resident(self, resident: frozenset[int]) -> None:
        """Record which variants are warm."""
        for variant in self._profile.variants:
            self._warm.labels(variant.name).set(variant.phi in resident)

    def show_budget(self, monitor: BudgetMonitor, limits: Limits, now_s: float) -> None:
        """Record what the sensors said last."""
        for sensor in monitor.sensors:
            name, sample = sensor.name, monitor.samples.get(sensor.name)
            self._sensor_up.labels(name).set(monitor.up.get(name, False))
            if name in monitor.read_s:
                self._sensor_age.labels(name).set(now_s - monitor.read_s[name])
            if sample is None:
                continue
            up = monitor.up[name]
            if sample.pressure is not None:
                self._budget_ratio.labels(name).set(1 - sample.pressure if up else math.nan)
            self._show_readings(name, sample.readings if up else {})
        self._slowdown.set(limits.slowdown)

    def _show_readings(self, sensor: str, readings: Mapping[str, float]) -> None:
        """Record a sensor's bare values, each under a name of its own; not a number once they are old."""
        for name in readings.keys() - self._readings.keys():
            text = f"As the sensor {sensor} reads it."
            self._readings[name] = sensor, Gauge(f"adaphi_{name}", text, registry=self.registry)
        for name, (owner, gauge) in self._readings.items():
            if owner == sensor:
                gauge.set(readings.get(name, math.nan))
