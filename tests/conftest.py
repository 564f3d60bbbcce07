"""What tests share: a small profile, a device's tree of /proc and /sys, and a daemon that senses it."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from adaphi.model_zoo import Latency, Profile, VariantProfile

MIB = 1 << 20
IMAGES = Path(__file__).parents[2] / "shared" / "data" / "images"


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder for exported models, so that each is made once in a run of the tests."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(scope="session")
def photographs() -> list[Any]:
    """Return real pictures: ImageNet's where they lie beside the checkout, else scikit-image's."""
    from adaphi.model_zoo.images import as_image

    if IMAGES.exists():
        return [as_image(path) for path in sorted(IMAGES.glob("*.jpg"))[::10]]
    data = pytest.importorskip("skimage.data")
    return [
        as_image(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")
    ]


# Timings are not asserted, by hypothesis neither: the machine may be busy.
settings.register_profile("adaphi", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("adaphi")


@pytest.fixture
def profile() -> Profile:
    """Return three variants of 10, 15 and 24 ms, with stalls that differ by pair."""
    latencies, qualities = (10.0, 15.0, 24.0), (0.70, 0.76, 0.80)
    return Profile(
        ladder="three",
        variants=tuple(
            VariantProfile(phi, f"v{phi}", quality, Latency(p50=ms, p95=ms))
            for phi, (ms, quality) in enumerate(zip(latencies, qualities, strict=True))
        ),
        stall_ms=((0.0, 0.5, 1.0), (0.25, 0.0, 0.75), (0.5, 0.5, 0.0)),
    )


@pytest.fixture
def sized() -> Profile:
    """Return three variants of 50, 80 and 200 MiB."""
    sizes = (50 * MIB, 80 * MIB, 200 * MIB)
    return Profile(
        ladder="three",
        variants=tuple(
            VariantProfile(
                phi, f"v{phi}", 0.7 + phi / 20, Latency(p95=10.0 + phi), memory_bytes=size
            )
            for phi, size in enumerate(sizes)
        ),
        stall_ms=((0.0,) * 3,) * 3,
    )


# A cool device on the mains with memory to spare, in a group that may use one and a half processors.
DEVICE = {
    "proc/stat": "cpu 1 2\nprocs_running 1\n",
    "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n",
    "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/self/cgroup": "0::/box\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    "sys/fs/cgroup/box/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/box/cpu.stat": "nr_periods 100\nnr_throttled 0\n",
    "sys/fs/cgroup/box/memory.max": f"{2000 * MIB}\n",
    "sys/fs/cgroup/box/memory.current": f"{1000 * MIB}\n",
    "sys/fs/cgroup/box/memory.stat": "inactive_file 0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2400000\n",
    "sys/class/thermal/thermal_zone0/temp": "45000\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "80000\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "1\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Full\n",
    "sys/class/power_supply/BAT0/energy_now": "50000000\n",
    "sys/class/power_supply/BAT0/capacity": "100\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "5\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "100000000\n",
    "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw": "40000000\n",
}


@pytest.fixture
def device_tree(tmp_path: Path) -> Path:
    """Return the root of a device whose every source answers; tests change its files."""
    root = tmp_path / "device"
    for name, content in DEVICE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@dataclass
class Served:
    """A daemon that runs: its process, where it listens and its HTTP port."""

    process: subprocess.Popen[bytes]
    address: str
    port: int

    def state(self) -> Any:
        """Return what the daemon says of itself."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
            return json.load(answer)


RunDaemon = Callable[..., AbstractContextManager[Served]]

CONFIG = """
ladder = "profile.json"
[zmq]
bind = ["ipc://{folder}/a.sock"]
[http]
port = {port}
[budget]
root = "device"
sources = ["cpu", "memory", "thermal", "battery", "rapl", "pushed"]
"""


@pytest.fixture
def run_daemon(tmp_path: Path, device_tree: Path) -> RunDaemon:
    """Return a function that runs a daemon with real models on `device_tree`, given environment variables."""
    variants = [(0.751, 20.0, 60), (0.767, 26.0, 70), (0.776, 34.0, 80)]
    Profile(
        ladder="efficientnet-lite",
        variants=tuple(
            VariantProfile(
                phi,
                f"tf_efficientnet_lite{phi}",
                q,
                Latency(p50=ms, p95=ms),
                memory_bytes=mib * MIB,
            )
            for phi, (q, ms, mib) in enumerate(variants)
        ),
        stall_ms=((0.0,) * 3,) * 3,
    ).save(tmp_path / "profile.json")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    (tmp_path / "adaphi.toml").write_text(CONFIG.format(folder=tmp_path, port=port))
    command = [sys.executable, "-m", "adaphi", "serve", "--config", str(tmp_path / "adaphi.toml")]

    @contextmanager
    def run(**environ: str) -> Iterator[Served]:
        with subprocess.Popen(command, env={**os.environ, **environ}) as process:
            try:
                yield Served(process, f"ipc://{tmp_path}/a.sock", port)
            finally:
                if process.poll() is None:
                    process.terminate()
                process.wait(20)

    return run


@pytest.fixture(scope="session")
def malformed() -> ModuleType:
    """Return benchmarks/malformed.py, which is no part of an installed package."""
    path = Path(__file__).parents[1] / "benchmarks" / "malformed.py"
    spec = importlib.util.spec_from_file_location("malformed", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return a function that imports a module of benchmarks/, which is no part of an installed package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return lambda name: import_module(f"benchmarks.{name}")
