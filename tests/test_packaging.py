"""The folders at the root, the links in adaphi/ and pyproject.toml tell one story."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]


def test_every_folder_with_an_init_is_packaged() -> None:
    """A sub-package that pyproject.toml forgets would be missing from the wheel without a word."""
    found = {
        ".".join((name, *init.parent.relative_to(ROOT / folder).parts))
        for name, folder in {**FOLDERS, "adaphi.cli": "adaphi/cli"}.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert {"adaphi"} | found == set(SETUPTOOLS["packages"])


def test_the_links_agree_with_package_dir() -> None:
    """What pip sees as a package, mypy and editors see too."""
    links = {
        f"adaphi.{p.name}": p.resolve().name for p in (ROOT / "adaphi").iterdir() if p.is_symlink()
    }
    assert links == FOLDERS


def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    """Each file of Python below the folders is in the wheel under the package's name, and no other."""
    names = ("adaphi", *FOLDERS.values(), "pyproject.toml", "README.md", "LICENSE")
    for name in names:  # a copy, so that building leaves nothing in the checkout
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source = shutil.ignore_patterns("__pycache__")
        extra = {"symlinks": True, "ignore": source} if copy is shutil.copytree else {}
        copy(ROOT / name, tmp_path / "src" / name, **extra)  # type: ignore[operator]
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", tmp_path, tmp_path / "src"], check=True)
    (wheel,) = tmp_path.glob("adaphi-*.whl")
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".py")}
    expected = {
        "/".join((name.replace(".", "/"), *path.relative_to(ROOT / folder).parts))
        for name, folder in {**FOLDERS, "adaphi": "adaphi"}.items()
        for path in (ROOT / folder).rglob("*.py")
        if not (ROOT / folder / path.relative_to(ROOT / folder).parts[0]).is_symlink()
    }
    assert packed == expected


def test_importing_adaphi_brings_neither_torch_nor_zmq() -> None:
    """`import adaphi` stays light, and so do the policies and the simulator."""
    code = (
        "import sys, adaphi, adaphi.sim, adaphi.policies;"
        "heavy = {'torch', 'timm', 'zmq'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_no_generic_name_becomes_importable() -> None:
    """Nobody's own controller.py or sim.py can collide with ours."""
    code = (
        "import importlib.util as u;"
        "found = [n for n in ('controller', 'policies', 'model_zoo', 'sim') if u.find_spec(n)];"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd=ROOT.parent)


def test_public_names_resolve() -> None:
    """Everything that `adaphi.__all__` promises is there."""
    import adaphi

    assert all(getattr(adaphi, name) for name in adaphi.__all__)
    assert set(adaphi.__all__) <= set(dir(adaphi))
