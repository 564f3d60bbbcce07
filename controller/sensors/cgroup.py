"""The control groups that this process is in: the limits that really apply in a container or a service.

Both versions of the interface, and systems that use both: a controller is where /proc/self/cgroup says. A
limit may be set on any group above ours, so each is looked at from our own upwards.
"""

from __future__ import annotations

from pathlib import Path

from .base import number, number_in, table, text

_UNLIMITED_BYTES = 1 << 60
"""Version 1 says "no limit" by the largest number of whole pages."""

# The files of limits (bytes), of what is used, and the line of memory.stat that says what lies idle in it.
_UNIFIED = ("memory.max", "memory.high"), "memory.current", "inactive_file"
_VERSION_1 = ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"


class Cgroup:
    """The limits on processor time and memory of the group that holds this process."""

    def __init__(self, root: str | Path = "/") -> None:
        self._cpu_unified, self._cpu = _groups(Path(root), "cpu")
        self._memory_unified, self._memory = _groups(Path(root), "memory")
        self._root = Path(root)
        self._limitable: set[Path] = set()  # groups whose limit on memory could be read

    def pressure_file(self, resource: str) -> Path | None:
        """Return where version 2 tells our group's own pressure; None under version 1."""
        groups = self._cpu if resource == "cpu" else self._memory
        path = groups[0] / f"{resource}.pressure" if groups else None
        return path if path is not None and path.exists() else None

    def cpu_limit(self) -> float | None:
        """Return how many processors' time the group may take, None if that is not limited."""
        limits = [limit for group in self._cpu if (limit := self._cpu_limit(group)) is not None]
        return min(limits, default=None)

    def throttled_periods(self) -> tuple[float, float] | None:
        """Return (periods so far, of which the group was held back) at the tightest limit."""
        limited = [(self._cpu_limit(group) or float("inf"), group) for group in self._cpu]
        if not limited:
            return None
        said = table(min(limited)[1] / "cpu.stat")
        if "nr_periods" not in said:
            return None
        return said["nr_periods"], said.get("nr_throttled", 0.0)

    def memory_room_bytes(self) -> int | None:
        """Return what the group may still take, None if that is not limited; raise `OSError` if not known.

        Cached files that have not been used lately count as free: the kernel drops them before it kills.
        """
        try:
            return self._memory_room()
        except OSError:  # perhaps we were moved to another group, and the one before is gone
            self._memory_unified, groups = _groups(self._root, "memory")
            if not groups:
                raise
            self._memory = groups
            self._limitable &= set(groups)
            return self._memory_room()

    def _memory_room(self) -> int | None:
        rooms = [room for group in self._memory if (room := self._room(group)) is not None]
        return min(rooms, default=None)

    def _cpu_limit(self, group: Path) -> float | None:
        if self._cpu_unified:
            quota, _, period = (text(group / "cpu.max") or "").partition(" ")
            if not (quota.isdigit() and period.isdigit() and int(period)):
                return None  # "max": no limit
            return int(quota) / int(period)
        quota_us = number(group / "cpu.cfs_quota_us") or 0.0
        period_us = number(group / "cpu.cfs_period_us") or 0.0
        return quota_us / period_us if quota_us > 0 and period_us > 0 else None

    def _room(self, group: Path) -> int | None:
        names, used_name, idle_name = _UNIFIED if self._memory_unified else _VERSION_1
        said = [text(group / name) for name in names]
        if said[0] is None:
            if group in self._limitable:
                raise OSError(f"{group / names[0]} can no longer be read")
            return None  # the group at the root of a machine has no limit, and no file of one
        self._limitable.add(group)
        limits = [limit for each in said if (limit := number_in(each)) is not None]
        if min(limits, default=_UNLIMITED_BYTES) >= _UNLIMITED_BYTES:
            return None
        used = number(group / used_name)
        if used is None:
            raise OSError(f"{group / used_name} cannot be read")
        idle = table(group / "memory.stat").get(idle_name, 0.0)
        return max(0, int(min(limits) - used + min(idle, used)))


def _groups(root: Path, controller: str) -> tuple[bool, list[Path]]:
    """Return whether `controller` is under version 2, and our group's folder and those above it."""
    mounts = root / "sys" / "fs" / "cgroup"
    unified: str | None = None
    for line in (text(root / "proc" / "self" / "cgroup") or "").splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if controller in names.split(","):
            return False, _upwards(mounts / controller, path)
        if not names:
            unified = path
    if unified is None:
        return True, []
    hybrid = not (mounts / "cgroup.controllers").exists()
    return True, _upwards(mounts / "unified" if hybrid else mounts, unified)


def _upwards(mount: Path, path: str) -> list[Path]:
    """Return those folders from `path` up to `mount` that exist.

    A container sees its own group as the root, but may read the path that the host knows: then only `mount`.
    """
    own = mount / path.strip("/")
    groups = [own, *(folder for folder in own.parents if folder.is_relative_to(mount))]
    return [group for group in groups if ".." not in group.parts and group.is_dir()]
