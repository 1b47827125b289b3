"""Programs and packages that some tests need and a machine may lack.

A test that needs one is skipped where it is absent. Where ``SYMCACHE_TEST_REQUIRE`` names it (parts by comma), it
fails instead: a build machine must not go quiet because a package was not installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

__all__ = ["PARTS", "is_required", "need", "required_in", "skip_without"]

PARTS = {
    "7z": "7z",
    "apache": "apache2",
    "aria2": "aria2c",
    "cabextract": "cabextract",
    "chromium": "chromium",
    "compiler": "cc",
    "curl": "curl",
    "kadmin.local": "kadmin.local",
    "kdb5_util": "kdb5_util",
    "kdc": "krb5kdc",
    "kinit": "kinit",
    "llvm": "llvm-pdbutil",
    "microsocks": "microsocks",
    "mingw": "x86_64-w64-mingw32-g++-win32",
    "nginx": "nginx",
    "openssl": "openssl",
    "px": "px",
    "setfacl": "setfacl",
    "strace": "strace",
    "wine": "wineserver",
    "squid": "squid",
    "wrk": "wrk",
}
"""The program of each part; a part that is not listed is a Python package of that name."""

# Debian keeps servers out of an ordinary user's search path.
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def need(part: str) -> str:
    """Return the path of a part's program (a package's name), or skip the test; fail it if the part is required."""
    if part in PARTS:
        found = shutil.which(PARTS[part], path=_SEARCH_PATH)
    else:
        found = part if importlib.util.find_spec(part) else None
    skip_without(part, found is not None, f"{part} is not installed")
    assert found is not None
    return found


def skip_without(part: str, is_there: bool, reason: str) -> None:
    """Skip the test for *reason* unless *is_there*; fail it if the part is required."""
    if is_there:
        return
    if is_required(part):
        pytest.fail(f"{reason}, but SYMCACHE_TEST_REQUIRE names it ({part})", pytrace=False)
    pytest.skip(reason)


def is_required(part: str) -> bool:
    return part in _required()


def required_in(reason: str) -> str | None:
    """Return the required part, or its program, that the *reason* of a skip speaks of; None if it names none."""
    said = reason.lower()
    named = [part for part in _required() if part in said or PARTS.get(part, part) in said]
    return named[0] if named else None


def _required() -> list[str]:
    names = os.environ.get("SYMCACHE_TEST_REQUIRE", "").split(",")
    return [name.strip() for name in names if name.strip()]
