"""What the wheel and the sdist hold, and what they say of themselves."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from support.parts import need

from symcache import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def in_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def in_sdist(distributions: tuple[Path, Path]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with tarfile.open(distributions[1]) as archive:
        for member in archive.getmembers():
            _, _, name = member.name.partition("/")
            file = archive.extractfile(member)
            assert file is not None, f"{name} is no file"
            files[name] = file.read()
    return files


def below(folder: str) -> dict[str, bytes]:
    """Return the files of the checkout below *folder* that are no leftovers of a run."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}


def test_the_wheel_holds_the_package_and_nothing_else(in_wheel: dict[str, bytes]) -> None:
    package = below("symcache")
    assert {"symcache/py.typed", "symcache/server/static/page.html"} <= package.keys()
    assert {name: content for name, content in in_wheel.items() if name.startswith("symcache/")} == package
    tops = {name.split("/")[0] for name in in_wheel}
    name = f"symcache-{__version__}"
    assert tops == {"symcache", f"{name}.dist-info", f"{name}.data"}


def test_the_wheel_brings_the_example_config_and_the_deployment_files(in_wheel: dict[str, bytes]) -> None:
    place = f"symcache-{__version__}.data/data/share/symcache/"
    shared = {name.removeprefix(place): content for name, content in in_wheel.items() if name.startswith(place)}
    templates = {"symcache.toml": (ROOT / "config" / "symcache.toml").read_bytes()}
    deploy = {name.removeprefix("config/"): content for name, content in below("config/deploy").items()}
    assert shared == templates | deploy
    assert len(deploy) >= 5


def test_the_sdist_holds_what_makes_and_tests_the_wheel(in_sdist: dict[str, bytes]) -> None:
    wanted = {
        name: content for folder in ("symcache", "tests", "config", "docs") for name, content in below(folder).items()
    }
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"):
        wanted[name] = (ROOT / name).read_bytes()
    assert {name: in_sdist.get(name) for name in wanted} == wanted
    assert in_sdist.keys() - wanted.keys() <= {"PKG-INFO", ".gitignore"}


def test_the_metadata_is_that_of_the_project(in_wheel: dict[str, bytes], in_sdist: dict[str, bytes]) -> None:
    text = in_wheel[f"symcache-{__version__}.dist-info/METADATA"].decode()
    assert in_sdist["PKG-INFO"].decode() == text
    said = HeaderParser().parsestr(text)
    assert (said["Name"], said["Version"], said["Summary"]) == ("symcache", __version__, PROJECT["description"])
    assert (said["Requires-Python"], said["License-Expression"]) == (PROJECT["requires-python"], "MIT")
    assert said.get_all("Classifier") == sorted(PROJECT["classifiers"])
    assert said["Description-Content-Type"] == "text/markdown"
    assert str(said.get_payload()).strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert set(said.get_all("Provides-Extra", [])) == PROJECT["optional-dependencies"].keys()
    required = {each for each in said.get_all("Requires-Dist", []) if "extra ==" not in each}
    assert len(required) == len(PROJECT["dependencies"])
    assert f"symcache-{__version__}.dist-info/licenses/LICENSE" in in_wheel
    assert (
        b"[console_scripts]\nsymcache = symcache.cli:main"
        in in_wheel[f"symcache-{__version__}.dist-info/entry_points.txt"]
    )


def test_both_are_fit_for_the_package_index(distributions: tuple[Path, Path]) -> None:
    need("twine")
    done = subprocess.run(
        [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, distributions)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_newest_changes_are_those_of_this_version() -> None:
    headings = [
        line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("## ")
    ]
    released = [line for line in headings if line != "## Unreleased"]
    assert headings[0] in {"## Unreleased", released[0]}
    assert released[:2] == [f"## {__version__}", "## 0.2.0"]
