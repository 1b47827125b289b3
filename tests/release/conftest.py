"""What would go out: wheel, sdist and the programs that need no installation, made once for all tests here.

``SYMCACHE_TEST_PROGRAMS`` names a folder with programs to test in place of made ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.parts import need
from support.programs import USERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, made from the sdist, and the sdist."""
    need("uv")
    out = tmp_path_factory.mktemp("distributions")
    done = subprocess.run(
        [sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", str(out), str(ROOT)],
        env=USERS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="session")
def wheel(distributions: tuple[Path, Path]) -> Path:
    return distributions[0]


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """``symcache.exe``."""
    if sys.platform != "win32":
        need("wine")
    return _program("exe", tmp_path_factory, request)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """``symcache.pyz``."""
    return _program("pyz", tmp_path_factory, request)


def _program(kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    if given := os.environ.get("SYMCACHE_TEST_PROGRAMS"):
        return Path(given, f"symcache.{kind}").absolute()
    wheel: Path = request.getfixturevalue("wheel")
    out = tmp_path_factory.mktemp(kind)
    make = ROOT / "config" / "standalone" / "make.py"
    done = subprocess.run(
        [sys.executable, str(make), kind, "--out", str(out), "--wheel", str(wheel)],
        env=USERS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out / f"symcache.{kind}"
