"""What symcache.pyz does at its start: unpack what this system needs, once, and go on as the installed command.

Unpacked it lies in the user's cache folder, under the name of the build; it may be deleted at any time. Where nothing
can be written there, it lies in a temporary folder until the end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["run"]

_BUILD = "@BUILD@"


def run(archive: str) -> None:
    """Run symcache out of *archive*, the first entry of `sys.path`; ``licenses`` alone prints those of its parts."""
    if sys.argv[1:] == ["licenses"]:
        from zipfile import ZipFile

        sys.stdout.buffer.write(ZipFile(archive).read("packages/licenses.txt"))
        return
    sys.path[0] = str(_unpacked(archive))
    from symcache.cli import main

    main()


def _unpacked(archive: str) -> Path:
    """Return the folder of what is in *archive*, unpacked now if it has not been."""
    folder = _cache_folder() / "symcache" / "pyz" / f"{_BUILD}-{sys.implementation.cache_tag}"
    if folder.is_dir():  # it takes this name when it is complete
        return folder
    import shutil
    import tempfile

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    except OSError:
        import atexit

        scratch = Path(tempfile.mkdtemp(prefix="symcache-pyz-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        _unpack(archive, scratch)
        return scratch
    try:
        _unpack(archive, scratch)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _cache_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _unpack(archive: str, folder: Path) -> None:
    """Unpack the packages and what is compiled for this Python on this system into *folder*."""
    import platform
    from importlib.machinery import EXTENSION_SUFFIXES
    from zipfile import ZipFile

    compiled = f"compiled/{sys.platform}-{platform.machine().lower()}/"
    with ZipFile(archive) as packed:
        missing = set(packed.read("modules.txt").decode().split())
        for name in packed.namelist():
            if name.startswith("packages/"):
                inside = name.removeprefix("packages/")
            elif name.startswith(compiled):
                inside = name.removeprefix(compiled)
                module, dot, suffix = inside.partition(".")
                if dot + suffix not in EXTENSION_SUFFIXES:
                    continue
                missing.discard(module)
            else:
                continue
            path = folder / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(packed.read(name))
    if missing:
        sys.exit(
            f"symcache.pyz: holds nothing compiled for {sys.implementation.cache_tag} on {sys.platform}, "
            f"{platform.machine()} ({', '.join(sorted(missing))}); install symcache with pip instead"
        )
