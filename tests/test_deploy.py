"""What deploy/ holds, checked by the tools that will read it."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml

from adaphi.config import Config, load_config

DEPLOY = Path(__file__).parents[1] / "deploy"


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment or of the system; skip the test where there is none."""
    beside = Path(sys.executable).parent / tool
    found = str(beside) if beside.exists() else shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say once the program is where the unit looks for it."""
    unit = (DEPLOY / "adaphi.service").read_text()
    program = Path(sys.executable).parent / "adaphi"
    (tmp_path / "adaphi.service").write_text(
        unit.replace("/opt/adaphi/.venv/bin/adaphi", str(program))
    )
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / "adaphi.service")
    complaints = [line for line in done.stderr.splitlines() if "adaphi.service" in line]
    assert done.returncode == 0 and not complaints, done.stderr


def test_the_unit_exposes_little() -> None:
    """`systemd-analyze security` rates the exposure at 2.0 of 10 at most, and the two settings under which
    torch or the sensors fail are absent."""
    unit = DEPLOY / "adaphi.service"
    done = run(
        "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit
    )
    assert done.returncode == 0, done.stdout
    settings = [line for line in unit.read_text().splitlines() if not line.startswith("#")]
    assert not [s for s in settings if s.startswith(("MemoryDenyWriteExecute", "ProcSubset"))]


def test_the_image_is_built_by_the_rules() -> None:
    """hadolint has nothing to say about the Dockerfile, which ends as another user than root."""
    done = run("hadolint", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout
    users = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if "USER" in line]
    assert users == ["USER 10001"]


def test_the_compose_file_fits_its_schema_and_mounts_what_exists() -> None:
    """The compose specification accepts it; every file that it mounts from here is here."""
    path = DEPLOY / "compose.yaml"
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    assert done.returncode == 0, done.stdout
    services = yaml.safe_load(path.read_text())["services"]
    mounted = [v.split(":")[0] for s in services.values() for v in s.get("volumes", [])]
    local = [DEPLOY / source for source in mounted if source.startswith(".")]
    assert len(local) >= 4 and all(source.exists() for source in local), local


def test_alerts_fire_when_they_should() -> None:
    """`promtool test rules` passes, and every alert has a case in which it fires and one in which it does
    not yet."""
    done = run("promtool", "test", "rules", DEPLOY / "prometheus" / "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    cases = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    checks = [check for case in cases for check in case.get("alert_rule_test", [])]
    for fires in (True, False):
        assert {c["alertname"] for c in checks if bool(c["exp_alerts"]) == fires} == alerts
    explained = (DEPLOY / "README.md").read_text()
    assert [alert for alert in alerts if f"`{alert}`" not in explained] == []


def test_prometheus_accepts_its_configuration() -> None:
    """`promtool check config` finds the rules it names."""
    done = run("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_what_its_script_writes() -> None:
    """Nobody edited the JSON by hand, and no two panels share an id."""
    pytest.importorskip("grafana_foundation_sdk")
    script = runpy.run_path(str(DEPLOY / "grafana" / "dashboard.py"))
    assert script["to_json"]() == (DEPLOY / "grafana" / "adaphi.json").read_text()
    ids = [panel.id_val for panel in script["dashboard"]().build().panels]
    assert len(set(ids)) == len(ids)


def test_the_configuration_that_comes_along_names_every_section() -> None:
    """deploy/adaphi.toml loads, says nothing but defaults apart from where it listens, and no key of the
    real configuration is missing from it."""
    path = DEPLOY / "adaphi.toml"
    config, shown = load_config(path), tomllib.loads(path.read_text())
    default = Config()
    for name in Config.__struct_fields__:
        value = getattr(config, name)
        if isinstance(value, msgspec.Struct):
            assert name in shown
        keys = value.__struct_fields__ if isinstance(value, msgspec.Struct) else [name]
        assert all(re.search(rf"^(# )?{key} = ", path.read_text(), re.M) for key in keys)
        assert name == "zmq" or value == getattr(default, name)
