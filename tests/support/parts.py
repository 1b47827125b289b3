"""Programs and packages that some tests need and a machine may lack.

A test that needs one is skipped where it is absent. Where ``SYMCACHE_TEST_REQUIRE`` names it (parts by comma), it
fails instead: a build machine must not go quiet because a package was not installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

__all__ = ["IS_WINE", "PARTS", "WINE_LACKS", "is_required", "need", "required_in", "skip_without", "wine_lacks"]

PARTS = {
    "7z": "7z",
    "apache": "apache2",
    "aria2": "aria2c",
    "azurite": "azurite-blob",
    "cabextract": "cabextract",
    "chromium": "chromium",
    "compiler": "cc",
    "curl": "curl",
    "docker-compose": "docker-compose",
    "genisoimage": "genisoimage",
    "haproxy": "haproxy",
    "kadmin.local": "kadmin.local",
    "kdb5_util": "kdb5_util",
    "kdc": "krb5kdc",
    "kinit": "kinit",
    "llvm": "llvm-pdbutil",
    "microsocks": "microsocks",
    "mkntfs": "mkntfs",
    "mingw": "x86_64-w64-mingw32-g++-win32",
    "moto": "moto_server",
    "nginx": "nginx",
    "openssl": "openssl",
    "px": "px",
    "qemu-img": "qemu-img",
    "redis": "redis-server",
    "s3rver": "s3rver",
    "setfacl": "setfacl",
    "strace": "strace",
    "wimlib": "wimlib-imagex",
    "wine": "wineserver",
    "squid": "squid",
    "tar": "tar",
    "wrk": "wrk",
    "xz": "xz",
    "zstd": "zstd",
}
"""The program of each part; a part that is not listed is a Python package of that name."""

if sys.platform == "win32":
    import ctypes

    IS_WINE = hasattr(ctypes.windll.ntdll, "wine_get_version")
else:
    IS_WINE = False
"""Whether this Python for Windows runs under wine."""

WINE_LACKS = {
    "trio": "the base provider's handle of a socket (SIO_BASE_HANDLE), which trio asks for",
    "ntlm": "NTLM, for which it wants Samba's ntlm_auth",
    "own authorities": "chains of certificates to own roots (it says ERROR_INVALID_PARAMETER), and to addresses",
    "paths through files": "Windows' error for a path that leads through a file: in some calls the name is invalid",
    "folders in use": "the refusal to rename a folder with a file in it that is open",
    "resets": "the reset that a client's socket gets: it finds the end of the connection",
    "watchfiles": "a DLL that watchfiles is linked with (bcryptprimitives.dll)",
    "broken writes": "now and then the end of a write that is under way when the other side goes away",
    "links": "symbolic links that can be seen: making one succeeds, and leaves nothing",
}
"""What Debian's wine 8 lacks, of that which Windows has and tests need."""


def wine_lacks(what: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test under wine, which lacks *what*, a key of `WINE_LACKS`."""
    return pytest.mark.skipif(IS_WINE, reason=f"wine lacks {WINE_LACKS[what]}")


# Debian keeps servers out of an ordinary user's search path; packages' programs lie beside this Python.
_SEARCH_PATH = os.pathsep.join(
    [
        os.environ.get("PATH", os.defpath),
        str(Path(sys.executable).parent),
        *(["/usr/sbin", "/usr/local/sbin"] if sys.platform != "win32" else []),
    ]
)


def need(part: str) -> str:
    """Return the path of a part's program (a package's name), or skip the test; fail it if the part is required."""
    here = part if _has_package(part) else None
    found = shutil.which(PARTS[part], path=_SEARCH_PATH) if part in PARTS else here
    skip_without(part, found is not None, f"{part} is not installed")
    assert found is not None
    return found


def _has_package(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


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
    # The program zstd is not the package backports.zstd.
    named = [part for part in _required() if any(_speaks_of(said, name) for name in (part, PARTS.get(part, part)))]
    return named[0] if named else None


def _speaks_of(said: str, name: str) -> bool:
    return re.search(rf"(?<!\.){re.escape(name)}", said) is not None


def _required() -> list[str]:
    names = os.environ.get("SYMCACHE_TEST_REQUIRE", "").split(",")
    return [name.strip() for name in names if name.strip()]
