"""Memory that runs out in a real control group: who gives way first, the daemon or the kernel's victim.

A daemon with real models shares a group with a neighbour who takes ever more memory, until together they need
more than the limit. Once the daemon senses memory, and once, for comparison, it does not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from adaphi import Client
from adaphi.errors import RequestError
from adaphi.model_zoo import Latency, Profile, VariantProfile
from adaphi.model_zoo.images import example_image

from .device import Device
from .harness import Row, show

MIB = 1 << 20
ROOM_BYTES = 180 * MIB
"""What the group has left when the whole ladder is resident."""
TAKEN_BYTES = 204 * MIB
"""What the neighbour takes: more than there is, less than there is without the larger variants."""
STEP_BYTES, STEP_S = 6 * MIB, 0.05

NEIGHBOUR = """
import sys
held = []
for line in sys.stdin:
    held = held + [bytearray(b"x") * int(line)] if int(line) else []
    print(flush=True)
"""


class Unavailable(Exception):
    """No control group with a limit on memory can be made here; the message says why."""


@dataclass
class MemoryGroup:
    """A control group of one's own, of either version of the interface."""

    folder: Path

    def __post_init__(self) -> None:
        old = (self.folder / "memory.limit_in_bytes").exists()
        self._limit = self.folder / ("memory.limit_in_bytes" if old else "memory.max")
        self._kills = self.folder / ("memory.oom_control" if old else "memory.events")
        self._own = "total_rss" if old else "anon"

    @property
    def own_bytes(self) -> int:
        """Return what processes of the group hold that is not a copy of a file."""
        return self._number(self.folder / "memory.stat", self._own)

    @property
    def kills(self) -> int:
        """Return how often the kernel killed a process of the group for want of memory."""
        return self._number(self._kills, "oom_kill")

    def limit(self, size: int) -> None:
        """Let the group take `size` bytes together."""
        self._limit.write_text(str(size))

    def entering(self, command: list[str]) -> list[str]:
        """Return `command` as one that is run inside the group."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", enter, str(self.folder / "cgroup.procs"), *command]

    @staticmethod
    def _number(path: Path, name: str) -> int:
        lines = (line.split() for line in path.read_text().splitlines())
        return next(int(value) for key, value in lines if key == name)


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Yield a new group, which is empty again at the end; raise `Unavailable`."""
    mount = Path("/sys/fs/cgroup")
    top = mount / "memory" if (mount / "memory").is_dir() else mount
    folder = top / f"adaphi-pressure-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise Unavailable(f"no control group can be made in {top}: {error.strerror}") from None
    try:
        group = MemoryGroup(folder)
        if not group._limit.exists():
            raise Unavailable(f"the groups in {top} have no limit on memory")
        yield group
    finally:
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            with suppress(OSError):  # processes that ended are still counted for a moment
                folder.rmdir()
                break
            time.sleep(0.05)


def ladder() -> Profile:
    """Return a profile of the default ladder, with sizes on the safe side."""
    variants = [(0.751, 20.0, 60), (0.767, 26.0, 70), (0.776, 34.0, 80)]
    return Profile(
        ladder="efficientnet-lite",
        variants=tuple(
            VariantProfile(
                phi,
                f"tf_efficientnet_lite{phi}",
                quality,
                Latency(p50=ms, p95=ms),
                memory_bytes=mib * MIB,
            )
            for phi, (quality, ms, mib) in enumerate(variants)
        ),
        stall_ms=((0.0,) * 3,) * 3,
    )


@dataclass
class Squeezed:
    """What happened: kills by the kernel, lost workers, answers and refusals, the resident sets, bytes."""

    kills: int
    restarts: int
    answers: int
    refusals: list[str]
    resident: list[list[int]]
    """With room, under pressure, and with room again."""
    given_bytes: int
    """What the worker gave back to the system."""


class Squeeze:
    """One daemon in one group, with its neighbour."""

    def __init__(self, group: MemoryGroup, folder: Path, senses: bool) -> None:
        self.group = group
        self.device = Device(
            folder,
            profile=ladder(),
            root="/",
            hang_s=10.0,
            sources=["memory", "pushed"] if senses else ["pushed"],
            entering=group.entering,
        )
        self.answers, self.refusals = 0, list[str]()

    def run(self) -> Squeezed:
        """Take the memory and give it back."""
        command = self.group.entering([sys.executable, "-c", NEIGHBOUR])
        with (
            self.device,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as neighbour,
            Client(self.device.address) as self.client,
        ):
            return self._run(neighbour)

    def _run(self, neighbour: subprocess.Popen[bytes]) -> Squeezed:
        resident = [self._resident_soon([0, 1, 2])]
        worker = psutil.Process(self.device.worker_pid())
        before = worker.memory_info().rss
        self.group.limit(self.group.own_bytes + ROOM_BYTES)
        for _ in range(TAKEN_BYTES // STEP_BYTES):
            self._take(neighbour, STEP_BYTES)
            self._ask()
            time.sleep(STEP_S)
        resident.append(self.device.state()["resident"])
        given = before - worker.memory_info().rss if worker.is_running() else 0
        self._take(neighbour, 0)
        resident.append(self._resident_soon([0, 1, 2]))
        restarts = self.device.state()["worker_restarts"]
        return Squeezed(self.group.kills, restarts, self.answers, self.refusals, resident, given)

    def _take(self, neighbour: subprocess.Popen[bytes], size: int) -> None:
        assert neighbour.stdin is not None and neighbour.stdout is not None
        with suppress(BrokenPipeError):  # it was the kernel's victim
            neighbour.stdin.write(b"%d\n" % size)
            neighbour.stdin.flush()
            neighbour.stdout.readline()

    def _ask(self) -> None:
        try:
            self.client.infer(example_image(), deadline_ms=5000)
        except RequestError as error:
            self.refusals.append(error.code)
        else:
            self.answers += 1

    def _resident_soon(self, wanted: list[int]) -> list[int]:
        """Return what is resident once it is what is `wanted`, or after a minute."""
        until_s = time.monotonic() + 60
        while (resident := self.device.state()["resident"]) != wanted:
            if time.monotonic() > until_s:
                break
            self._ask()
            time.sleep(0.05)
        return list(resident)


def squeeze(senses: bool) -> Squeezed:
    """Squeeze a daemon that senses memory, or one that does not; raise `Unavailable`."""
    with memory_group() as group, tempfile.TemporaryDirectory(prefix="adaphi-pressure-") as folder:
        return Squeeze(group, Path(folder), senses).run()


def run(quick: bool = False) -> list[Row]:
    """Return what became of both daemons; no rows, and the reason, where no group can be made."""
    rows = []
    for senses in (True, False):
        try:
            seen = squeeze(senses)
        except Unavailable as error:
            print(error)
            return []
        who = "sensing" if senses else "not sensing"
        under = ", ".join(map(str, seen.resident[1]))
        rows += [
            Row(f"{who}: processes killed by the kernel", seen.kills, "", "less"),
            Row(f"{who}: requests answered", seen.answers, "", "more"),
            Row(f"{who}: workers lost", seen.restarts, "", "less"),
            Row(f"{who}: requests refused", len(seen.refusals), "", "less"),
            Row(f"{who}: given back, φ = {under} kept", seen.given_bytes / 1e6, "MB", "more"),
        ]
        if quick:
            break
    return rows


def main(arguments: list[str]) -> None:
    """Squeeze both daemons."""
    argparse.ArgumentParser(prog="python -m benchmarks pressure", description=__doc__).parse_args(
        arguments
    )
    show("pressure", run())


if __name__ == "__main__":
    main(sys.argv[1:])
