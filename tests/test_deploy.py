"""What deploy/ holds, checked by the tools that will read it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from adaphi.config import Config, load_config

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say once the program is where the unit looks for it."""
    unit = (DEPLOY / "adaphi.service").read_text()
    program = Path(sys.executable).parent / "adaphi"
    (tmp_path / "adaphi.service").write_text(
        unit.replace("/opt/adaphi/.venv/bin/adaphi", str(program))
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "adaphi.service")],
        capture_output=True,
        text=True,
    )
    complaints = [line for line in done.stderr.splitlines() if "adaphi.service" in line]
    assert done.returncode == 0 and not complaints, done.stderr


def test_the_configuration_that_is_shown_loads_and_names_every_section(tmp_path: Path) -> None:
    """The example is valid, and no section of the real configuration is missing from it."""
    shown = re.search(
        r'\n(    ladder = "profile.json".*)', (DEPLOY / "README.md").read_text(), re.S
    )
    assert shown is not None
    path = tmp_path / "adaphi.toml"
    path.write_text(textwrap.dedent(shown[1]))
    config = load_config(path)
    assert config.ladder == str(tmp_path.resolve() / "profile.json")
    for section in ("zmq", "http", "budget", "worker", "queue", "objective"):
        assert f"[{section}]" in shown[1] and section in Config.__struct_fields__
