"""A daemon to be ill-treated: a real process in a folder of its own, mostly with the ladder of checked.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil

from adaphi import Client
from adaphi.errors import NoAnswer, RequestError
from adaphi.model_zoo import Profile

from . import checked
from .daemon import free_port, stated_profile
from .problems import ROOT

CONFIG = """
ladder = "profile.json"
[zmq]
bind = ["ipc://{folder}/a.sock", "tcp://127.0.0.1:{tcp}"]
[http]
port = {http}
[budget]
root = "{root}"
sources = {sources}
interval_ms = 50
stale_s = 0.3
[worker]
hang_s = {hang_s}
[queue]
max_requests = 32
[recorder]
folder = "{folder}/disk/flight"
limit_mb = 0.1
"""
SENSORS = {
    "proc/stat": "cpu 1 2\nprocs_running 1\n",
    "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n",
    "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "sys/class/thermal/thermal_zone0/temp": "45000\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "80000\n",
}


class Device:
    """One daemon, its folder and its sensors' tree; `start` it again after a `kill`.

    Without a `profile` it serves the checked ladder, φ taking `takes_ms[φ]`, and so a batch of one of
    `batch_sizes`. `entering` changes the command that starts it.
    """

    def __init__(
        self,
        folder: Path,
        takes_ms: Sequence[float] = (2.0, 4.0, 8.0),
        *,
        batch_sizes: Sequence[int] = (),
        profile: Profile | None = None,
        root: str = "device",
        hang_s: float = 0.8,
        sources: Sequence[str] = ("cpu", "memory", "thermal", "pushed"),
        entering: Callable[[list[str]], list[str]] = list,
    ) -> None:
        self.folder = folder
        self.tcp_port, self.http_port = free_port(), free_port()
        self.address = f"ipc://{folder}/a.sock"
        self.sensors, self.disk = folder / "device", folder / "disk"
        self.process: subprocess.Popen[bytes] | None = None
        for part in ("tmp", "disk"):
            (folder / part).mkdir()
        for name, content in SENSORS.items():
            (self.sensors / name).parent.mkdir(parents=True, exist_ok=True)
            (self.sensors / name).write_text(content)
        stated = stated_profile(checked.NAME, checked.NAMES, takes_ms, batch_sizes)
        profile = profile or stated
        profile.save(folder / "profile.json")
        self._entering = entering
        self._config = folder / "adaphi.toml"
        self._config.write_text(
            CONFIG.format(
                folder=folder,
                tcp=self.tcp_port,
                http=self.http_port,
                root=root,
                hang_s=hang_s,
                sources=json.dumps(list(sources)),
            )
        )
        self._environ = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(folder / "tmp"),
            checked.TAKES: ",".join(map(str, takes_ms)),
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    @property
    def log(self) -> str:
        """Return what the daemon and its workers said so far."""
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        """Return the daemon's process id."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start a daemon and return when it answers."""
        command = [sys.executable, "-m", "adaphi", "serve", "--config", str(self._config)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._entering(command), env=self._environ, stderr=log)
        with Client(self.address) as client:
            while self.process.poll() is None:
                with suppress(NoAnswer):
                    client.wait_until_ready(1)
                    return
        raise RuntimeError(f"the daemon ended: {self.log[-2000:]}")

    def kill(self) -> None:
        """Kill the daemon as the kernel would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End the daemon as a service manager would; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(20)

    def get(self, path: str) -> str:
        """Return what the daemon answers over HTTP."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    def state(self) -> Any:
        """Return what the daemon says of itself."""
        return json.loads(self.get("/"))

    def worker_pid(self) -> int:
        """Return the id of the process that runs the models, as soon as there is one."""
        while not (pid := self.state()["worker_pid"]):
            time.sleep(0.01)
        return int(pid)

    def works(self, within_s: float = 30.0) -> bool:
        """Say whether an ordinary request is answered rightly, for which it may be asked again."""
        picture = np.full((32, 32, 3), 7, np.uint8)
        until_s = time.monotonic() + within_s
        with Client(self.address, patience_s=0.5) as client:
            while time.monotonic() < until_s:
                try:
                    answer = client.infer(picture, deadline_ms=500)
                except RequestError:  # not yet
                    time.sleep(0.02)
                else:
                    return bool((answer.output == checked.proof(answer.phi, picture)).all())
        return False

    def processes(self) -> list[psutil.Process]:
        """Return every process that is of this daemon or of one before it: by its temporary folder."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            command = " ".join(process.info["cmdline"] or ())
            folder = (process.info["environ"] or {}).get("TMPDIR", "")
            if folder.startswith(str(self.folder)) and "adaphi" in command:
                found.append(process)
        return found

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
