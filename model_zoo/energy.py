"""Energy as the processor counts it: RAPL, through Linux's powercap tree. None where it is absent."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


class RaplMeter:
    """Sums the package domains' counters (`intel-rapl:N/energy_uj`), wrap-around included.

    `root` is the powercap folder, an argument so that tests can replay a recorded tree. Where no
    counter can be read (a virtual machine, no permission) `available` is False. `limit_w` is what the
    packages may take together in the long run (watts), 0 where that is not said.
    """

    def __init__(self, root: str | Path = "/sys/class/powercap") -> None:
        self._counters: list[tuple[Path, int]] = []
        self.limit_w = 0.0
        for folder in sorted(Path(root).glob("*rapl:[0-9]*")):
            if folder.name.count(":") != 1:  # a subdomain is part of its package already
                continue
            try:
                int((folder / "energy_uj").read_text())
                wrap = int((folder / "max_energy_range_uj").read_text())
                if (folder / "name").read_text().strip() == "psys":
                    continue  # the whole device, its packages included
            except (OSError, ValueError):
                continue
            self._counters.append((folder / "energy_uj", wrap))
            with suppress(OSError, ValueError):
                self.limit_w += int((folder / "constraint_0_power_limit_uw").read_text()) * 1e-6
        self._last = self._read()
        self._total_uj = 0

    @property
    def available(self) -> bool:
        """Say whether any counter can be read."""
        return bool(self._counters)

    def total_mj(self) -> float:
        """Return the millijoules spent since construction; call it at least once a minute."""
        now = self._read()
        for (_, wrap), before, after in zip(self._counters, self._last, now, strict=True):
            spent = after - before
            self._total_uj += spent if spent >= 0 else spent + wrap
        self._last = now
        return self._total_uj / 1000

    def _read(self) -> list[int]:
        return [int(path.read_text()) for path, _ in self._counters]
