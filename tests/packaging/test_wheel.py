"""The built wheel, in an environment of its own, with the source tree out of reach."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOKE = Path(__file__).with_name("smoke.py")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DIST_INFO = f"agent_cache-{PYPROJECT['project']['version']}.dist-info"


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, the wheel built from the sdist, as an index gets them."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        # `filter` came with 3.11.4, and 3.14 wants to be told.
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    source = folder / archive.name.removesuffix(".tar.gz")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    shutil.rmtree(source)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "virtualenv", "--quiet", folder, cwd=folder)
    _run(
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-compile",
        wheel,
        cwd=folder,
    )
    return folder


def test_it_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {Path(package).name for package in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert {name.split("/")[0] for name in names} == tops | {DIST_INFO}
    for top in tops:
        assert f"{top}/__init__.py" in names
        assert f"{top}/py.typed" in names
    assert [name for name in names if name.endswith((".pyc", ".ipynb")) or "/tests/" in name] == []


def test_it_holds_every_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [
        path
        for root in (ROOT, ROOT / "integrations")
        for path in (file.relative_to(root).as_posix() for file in sorted(root.glob("agent_cache*/**/*.py")))
        if path not in names
    ]
    assert missing == []


def test_its_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = Parser().parsestr(archive.read(f"{DIST_INFO}/METADATA").decode())
    required = metadata.get_all("Requires-Dist", [])
    assert metadata["Name"] == "agent-cache"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert [line for line in required if "extra ==" not in line] == ["pydantic>=2.9"]
    assert f"{DIST_INFO}/licenses/LICENSE" in archive.namelist()


def test_it_works_where_the_source_is_out_of_reach(environment: Path, tmp_path: Path) -> None:
    shutil.copy(SMOKE, tmp_path)
    python = environment / "bin" / "python"
    assert _run(python, "-I", "smoke.py", environment, cwd=tmp_path) == "ok\n"


def test_type_checkers_see_its_types(environment: Path, tmp_path: Path) -> None:
    case = Path(__file__).parents[1] / "typing" / "cases" / "reads.py"
    shutil.copy(case, tmp_path)
    python = environment / "bin" / "python"
    _run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "reads.py", cwd=tmp_path)


def test_the_sdist_holds_what_the_tests_need(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    assert {"README.md", "LICENSE", "pyproject.toml", "Makefile", "tests/conftest.py"} <= names
    assert not [name for name in names if name.startswith((".venv", ".git/"))]
