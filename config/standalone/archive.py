"""``symcache.pyz``: all packages in one archive, which Python runs on any system.

What packages have compiled is in it for each system of `PLATFORMS` and each of `PYTHONS`. Python imports no compiled
module out of an archive, so all that concerns a system is unpacked there on first start; see unpacking.py.
"""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from importlib.metadata import Distribution, distributions
from pathlib import Path

from licenses import license_text
from resolve import lay_packages

__all__ = ["PLATFORMS", "PYTHONS", "make_archive"]

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "aarch64-unknown-linux-gnu": "linux-aarch64",
    "aarch64-unknown-linux-musl": "linux-aarch64",
    "x86_64-unknown-linux-gnu": "linux-x86_64",
    "x86_64-unknown-linux-musl": "linux-x86_64",
    "aarch64-apple-darwin": "darwin-arm64",
    "x86_64-apple-darwin": "darwin-x86_64",
    "x86_64-pc-windows-msvc": "win32-amd64",
}
"""What uv calls a system, and where its files lie in the archive: ``sys.platform`` and the machine's name."""

# Python's own loop does the same work; for each system and Python uvloop would add 1.5 MB.
_LEFT_OUT = {"uvloop"}
_COMPILED = (".so", ".pyd")
_NOT_NEEDED = re.compile(r"(bin|Scripts)/.*|.*\.dist-info/(RECORD|WHEEL|INSTALLER|REQUESTED|direct_url\.json|uv_.*)")
_LIKE_ALL_OTHERS = (1980, 1, 1, 0, 0, 0)  # so that the same packages make the same archive
_HERE = Path(__file__).resolve().parent


def make_archive(wheel: Path, scratch: Path) -> list[Path]:
    """Return ``symcache.pyz``, made of *wheel*, and the file of its licenses, both in *scratch*.

    Raises:
        RuntimeError: It cannot be made.
    """
    common: dict[str, bytes] = {}
    compiled: dict[str, bytes] = {}
    metadata: dict[str, Distribution] = {}
    pinned = [f"{wheel}[serve]"]
    for python in reversed(PYTHONS):
        for platform, place in PLATFORMS.items():
            folder = scratch / python / platform
            lay_packages(folder, pinned, platform=platform, python=python)
            for distribution in distributions(path=[str(folder)]):
                if distribution.name in _LEFT_OUT:
                    continue
                first = metadata.setdefault(distribution.name, distribution)
                if first.version != distribution.version:
                    raise RuntimeError(f"{first.name} is {first.version} here and {distribution.version} there")
                for file in distribution.files or ():
                    name = str(file).replace("\\", "/")
                    if _NOT_NEEDED.fullmatch(name) or name.endswith(".pyc"):
                        continue
                    kept, name = (compiled, f"{place}/{name}") if name.endswith(_COMPILED) else (common, name)
                    content = Path(str(distribution.locate_file(file))).read_bytes()
                    if kept is common:  # wheels for Windows may be made of a checkout with its line ends
                        content = content.replace(b"\r\n", b"\n")
                    if kept.setdefault(name, content) != content:
                        raise RuntimeError(f"{name} is another on {platform} with Python {python}")
    licenses = license_text(metadata["symcache"], [metadata[name] for name in sorted(metadata, key=str.lower)])
    beside = scratch / "symcache.pyz.licenses.txt"
    beside.write_text(licenses, encoding="utf-8")
    common["licenses.txt"] = licenses.encode()
    files = {f"packages/{name}": common[name] for name in sorted(common)}
    files |= {f"compiled/{name}": compiled[name] for name in sorted(compiled)}
    files["modules.txt"] = "\n".join(sorted({_module(name) for name in compiled})).encode()
    archive = scratch / "symcache.pyz"
    _write(archive, files)
    return [archive, beside]


def _module(name: str) -> str:
    """Return the file of a compiled module without its system's folder and suffix: ``httptools/parser/parser``."""
    _, _, inside = name.partition("/")
    folder, slash, file = inside.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _write(archive: Path, files: dict[str, bytes]) -> None:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    start = (_HERE / "archive_start.py").read_bytes()
    unpacking = (_HERE / "unpacking.py").read_bytes()
    digest.update(unpacking)
    if unpacking.count(b"@BUILD@") != 1:
        raise RuntimeError("unpacking.py has no place for the build's name")
    files = {
        "__main__.py": start,
        "unpacking.py": unpacking.replace(b"@BUILD@", digest.hexdigest()[:16].encode()),
        **files,
    }
    with archive.open("wb") as out:
        out.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, _LIKE_ALL_OTHERS)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                packed.writestr(entry, content)
    if sys.platform != "win32":
        archive.chmod(0o755)
