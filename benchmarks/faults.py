"""A daemon under load and ill-treatment: what became of every request, and what was left behind.

    python -m benchmarks faults --rounds 1000 --seed 0

In each round real clients ask a real daemon while one fault strikes at a random instant; then the load rests
and the books are checked: every request answered or refused by its deadline + 1 s, none twice, every answer
bound to its input, no process, descriptor, shared memory or socket file left behind. In the first half of the
rounds requests that wait are answered by batches; in the second, where none pays, runs are told ahead.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from adaphi.controller.flight import read_recording

from .device import Device
from .harness import Row, show
from .load import Ledger, Load, Pulse, infer_body
from .zmtp import GREETING, READY, long_frame

QUEUE = {"shed", "expired", "busy", "http_503", "http_504"}
"""What a daemon in health may refuse a request with: the machine is slow at times."""
WORKER = QUEUE | {"worker_lost", "not_ready"}
DAEMON = WORKER | {"no_answer", "cut", "draining"}
BATCH_SIZES = (2, 3, 4), ()
"""What each φ can answer at once, in each half of the rounds."""
STALL_S = 0.2
"""How long anybody may be kept from the processor: the clients' patience allows for as much."""
TRIES = 5
"""How often a round is tried that does not count."""
SETTLED_S = 5.0
"""How long after a round its traces may take to vanish."""


class Round:
    """One device with load on it, and the faults that befall it; `strike` is one round."""

    def __init__(self, folder: Path, seed: int, batch_sizes: Sequence[int]) -> None:
        self.draw = random.Random(seed)
        self.device = Device(folder, batch_sizes=batch_sizes)
        self.tmpfs = _mounted(self.device.disk)
        self.device.start()
        self.ledger = Ledger(allowed=frozenset(QUEUE))
        self.load = Load(self.ledger, self.device.address, self.device.http_port, seed)
        self.counts: Counter[str] = Counter()
        self.pulse, self.repeated = Pulse(), 0
        self.ledger.context = "at the start"
        self._run_a_while(1.0)
        self.ledger.overdue.clear()  # it was the first time for everything
        self.descriptors = {"daemon": self._descriptors("daemon"), "worker": 64}
        self.descriptors["worker"] = self._descriptors("worker")

    def close(self) -> None:
        """End all of it; that nothing is left is the last check."""
        self.ledger.context = "at the end"
        self.load.close()
        if (code := self.device.stop()) != 0:
            self.ledger.find(f"the daemon's exit code was {code}")
        if not _becomes(lambda: not self.device.processes()):
            self.ledger.find(f"processes were left: {self.device.processes()}")
        if left := os.listdir(self.device.folder / "tmp"):
            self.ledger.find(f"temporary files were left: {left}")
        if self.tmpfs:
            subprocess.run(["umount", str(self.device.disk)], check=True)

    def strike(self, kind: str) -> bool:
        """Let one fault strike under load, and check the books; say whether the round counts.

        It does not where something was overdue while this process stood still, or daemon or worker waited for
        a processor, for longer than `STALL_S`. What else was found stands.
        """
        ledger, latest_s = self.ledger, self.ledger.latest_s
        self.pulse.reset(*self._pids())
        self._strike(kind)
        counts = not ledger.overdue or self.pulse.longest_s(*self._pids()) <= STALL_S
        if counts:
            self.counts[kind] += 1
            ledger.findings += ledger.overdue
        else:
            self.repeated += 1
            ledger.latest_s = latest_s
        ledger.overdue.clear()
        return counts

    def _pids(self) -> tuple[int, int]:
        return self.device.pid, self.device.worker_pid()

    def _strike(self, kind: str) -> None:
        fault, allowed = FAULTS[kind]
        self.ledger.context = f"round {self.counts.total() + 1}, {kind}"
        self.ledger.allowed = frozenset(allowed)
        restarts = self.device.state()["worker_restarts"]
        self.load.resume()
        self._sleep(0.02, 0.15)
        fault(self)
        self._sleep(0.02, 0.15)
        if not self.device.works():
            self.ledger.find("the service did not return")
        self.load.pause()
        if allowed is QUEUE and self.device.state()["worker_restarts"] != restarts:
            self.ledger.find("the worker was lost")
        self._check()

    # ------------------------------------------------------------------------ the faults

    def kill_worker(self) -> None:
        """SIGKILL the worker, sometimes the successor too, before it is warm."""
        os.kill(self.device.worker_pid(), signal.SIGKILL)
        if self.draw.random() < 0.2:
            self._sleep(0.0, 0.6)
            with suppress(ProcessLookupError):
                os.kill(self.device.worker_pid(), signal.SIGKILL)

    def stop_worker(self) -> None:
        """SIGSTOP the worker; it goes on in time, or the daemon finds that it hangs."""
        pid = self.device.worker_pid()
        os.kill(pid, signal.SIGSTOP)
        if self.draw.random() < 0.6:
            self._sleep(0.05, 0.6)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def fill_disk(self) -> None:
        """Leave the recorder no room: a full tmpfs, or where none can be mounted a limit on file sizes."""
        if self.tmpfs:
            filler = self.device.disk / "filler"
            with filler.open("wb") as file, suppress(OSError):
                while True:
                    os.write(file.fileno(), bytes(4096))
            self._sleep(0.6, 1.0)
            filler.unlink()
        else:
            _, hard = resource.prlimit(self.device.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self.device.pid, resource.RLIMIT_FSIZE, (0, hard))
            self._sleep(0.6, 1.0)
            resource.prlimit(self.device.pid, resource.RLIMIT_FSIZE, (hard, hard))

    def hide_sensors(self) -> None:
        """Let a sensor's files vanish, or all of them, for shorter or longer than they are trusted."""
        victim = self.device.sensors
        if self.draw.random() < 0.5:
            victim = self.draw.choice([p for p in victim.rglob("*") if p != victim / "proc"])
        hidden = self.device.folder / "hidden"
        victim.rename(hidden)
        self._sleep(0.1, 0.6)
        if victim == self.device.sensors and not _becomes(self._modest):
            self.ledger.find("without sensors more than φ = 0 was admitted")
        hidden.rename(victim)

    def kill_client(self) -> None:
        """SIGKILL a process in the middle of a large message, over ZeroMQ or HTTP."""
        kind, port = self.draw.choice(
            [("zmq", self.device.tcp_port), ("http", self.device.http_port)]
        )
        with subprocess.Popen(
            [sys.executable, "-c", SENDER, kind, str(port)], stdout=subprocess.PIPE
        ) as sender:
            assert sender.stdout is not None
            sender.stdout.readline()
            self._sleep(0.0, 0.03)
            sender.kill()

    def cut_connection(self) -> None:
        """End a TCP connection in the middle of a ZMTP frame or an HTTP body, politely or not."""
        for _ in range(5):
            if self.draw.random() < 0.5:
                port, whole = self.device.tcp_port, GREETING + READY + long_frame(5_000_000)
            else:
                port, whole = self.device.http_port, _post(5_000_000)
            part = whole[: self.draw.randint(1, len(whole))]
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                if self.draw.random() < 0.5:  # a reset instead of an end
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                with suppress(OSError):
                    connection.sendall(part)

    def kill_daemon(self) -> None:
        """SIGKILL the daemon, at times with a worker that hangs, and start another, while clients ask on."""
        if self.draw.random() < 0.3:
            os.kill(self.device.worker_pid(), signal.SIGSTOP)
        self.device.kill()
        self._sleep(0.0, 0.3)
        self.device.start()

    def stop_daemon(self) -> None:
        """SIGSTOP the daemon for up to a second."""
        os.kill(self.device.pid, signal.SIGSTOP)
        self._sleep(0.1, 1.0)
        os.kill(self.device.pid, signal.SIGCONT)

    # ------------------------------------------------------------------------ the books

    def _check(self) -> None:
        """Note what is left behind once the load rests."""
        if not _becomes(lambda: len(self.device.processes()) == 2):
            self.ledger.find(f"processes: {self.device.processes()}")
        for who, most in self.descriptors.items():
            if not _becomes(lambda who=who, most=most: self._descriptors(who) <= most):
                self.ledger.find(f"the {who} has {self._descriptors(who)} descriptors, not {most}")
            maps = Path(f"/proc/{self._pid(who)}/maps").read_text()
            if "/dev/shm" in maps:
                self.ledger.find(f"the {who} holds shared memory, which nobody would remove")
        if left := os.listdir(self.device.folder / "tmp"):
            self.ledger.find(f"temporary files: {left}")
        read_recording(self.device.disk / "flight")
        if "Traceback" in (log := self.device.log):
            self.ledger.find(log[log.index("Traceback") :][:2000])
            (self.device.folder / "log").write_text("")

    def _modest(self) -> bool:
        return bool(self.device.state()["max_phi"] == 0)

    def _descriptors(self, who: str) -> int:
        return psutil.Process(self._pid(who)).num_fds()

    def _pid(self, who: str) -> int:
        return self.device.pid if who == "daemon" else self.device.worker_pid()

    def _run_a_while(self, seconds: float) -> None:
        self.load.resume()
        time.sleep(seconds)
        self.load.pause()

    def _sleep(self, least_s: float, most_s: float) -> None:
        time.sleep(self.draw.uniform(least_s, most_s))


FAULTS: dict[str, tuple[Callable[[Round], None], set[str]]] = {
    "worker killed": (Round.kill_worker, WORKER),
    "worker stopped": (Round.stop_worker, WORKER),
    "disk full": (Round.fill_disk, QUEUE),
    "sensors gone": (Round.hide_sensors, QUEUE),
    "client killed": (Round.kill_client, QUEUE),
    "connection cut": (Round.cut_connection, QUEUE),
    "daemon killed": (Round.kill_daemon, DAEMON),
    "daemon stopped": (Round.stop_daemon, DAEMON),
}
"""What befalls, and what else than an answer a request may come to meanwhile."""

SENDER = """
import sys, socket, zmq
kind, port = sys.argv[1], int(sys.argv[2])
if kind == "zmq":
    dealer = zmq.Context().socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    frames = [b"ADP1", b"I", b"\\x80", bytes(30_000_000)]
    print(flush=True)
    while True:
        dealer.send_multipart(frames)
connection = socket.create_connection(("127.0.0.1", port))
connection.sendall(b"POST /v2/models/x/infer HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 60000000\\r\\n\\r\\n")
print(flush=True)
while True:
    connection.sendall(bytes(100_000))
"""


def _post(size: int) -> bytes:
    """Return a request over HTTP whose body has `size` bytes or somewhat more."""
    import numpy as np

    picture = np.zeros((size // 3000, 1000, 3), np.uint8)
    body, length = infer_body(picture, 0.3)
    head = (
        f"POST /v2/models/python:benchmarks.checked:ladder/infer HTTP/1.1\r\nHost: x\r\n"
        f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _mounted(folder: Path) -> bool:
    """Mount a small disk at `folder`; return False where that is not allowed."""
    if shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "adaphi-faults", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def _becomes(holds: Callable[[], bool]) -> bool:
    """Say whether `holds` does, within `SETTLED_S`."""
    until_s = time.monotonic() + SETTLED_S
    while time.monotonic() < until_s:
        with suppress(OSError, psutil.Error):
            if holds():
                return True
        time.sleep(0.02)
    return False


def kinds(rounds: int, draw: random.Random) -> list[str]:
    """Return the kind of each round: every kind alike, in random order."""
    chosen = [list(FAULTS)[n % len(FAULTS)] for n in range(rounds)]
    draw.shuffle(chosen)
    return chosen


def strike_all(rounds: int, seed: int, batch_sizes: Sequence[int], log: Path | None) -> Round:
    """Run until so many rounds count; return what was seen."""
    one = Round(Path(tempfile.mkdtemp(prefix="adaphi-faults-")), seed, batch_sizes)
    try:
        for number, kind in enumerate(kinds(rounds, one.draw), 1):
            for _ in range(TRIES):
                before, began_s = len(one.ledger.findings), time.monotonic()
                counts = one.strike(kind)
                if log is not None:
                    took_s, found = time.monotonic() - began_s, one.ledger.findings[before:]
                    with log.open("a") as file:
                        print(number, kind, f"{took_s:.2f} s", counts, *found, sep=", ", file=file)
                if counts:
                    break
            else:
                one.ledger.find(f"{kind}: this machine is too busy to tell")
    finally:
        one.close()
    one.device.remove()
    return one


def run(
    quick: bool = False, rounds: int = 1000, seed: int = 0, log: Path | None = None
) -> list[Row]:
    """Return what became of the requests of `rounds` rounds; raise where anything must not be."""
    halves = (len(FAULTS), len(FAULTS)) if quick else (rounds - rounds // 2, rounds // 2)
    seen = [
        strike_all(half, seed + number, sizes, log)
        for number, (half, sizes) in enumerate(zip(halves, BATCH_SIZES, strict=True))
    ]
    findings = [finding for one in seen for finding in one.ledger.findings]
    if findings:
        raise AssertionError("\n".join([f"{len(findings)} findings", *findings[:50]]))
    latest_s = max(one.ledger.latest_s for one in seen)
    outcomes = sum((one.ledger.outcomes for one in seen), Counter[str]())
    return [
        Row("rounds", sum(one.counts.total() for one in seen), "rounds", "more"),
        Row(
            "rounds run again: no processor was free",
            sum(one.repeated for one in seen),
            "rounds",
            "less",
        ),
        Row("the latest, after its deadline", latest_s, "s", "less", target="≤ 1 s"),
        *(Row(f"requests: {o}", n, "requests", "more") for o, n in outcomes.most_common()),
    ]


def main(arguments: list[str]) -> None:
    """Run as many rounds as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="where to write a line for each round")
    given = parser.parse_args(arguments)
    show("faults", run(rounds=given.rounds, seed=given.seed, log=given.log))


if __name__ == "__main__":
    main(sys.argv[1:])
