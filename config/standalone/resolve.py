"""Lays the packages that a program holds into a folder, for a system and a Python other than those at work here."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["lay_packages"]


def lay_packages(folder: Path, requirements: list[str], *, platform: str, python: str) -> None:
    """Install *requirements* with all that they need into *folder*, which need not exist.

    Only wheels are taken: nothing can be compiled for another system.

    Args:
        folder: Will hold the packages, and their metadata with the record of their files.
        requirements: As pip takes them.
        platform: A value of uv's option ``--python-platform``.
        python: A version such as ``3.13``.

    Raises:
        RuntimeError: They cannot be had for that system and Python; the reason stands on standard error.
    """
    # pip would take markers for the system that it runs on, whatever --platform says.
    options = ["--quiet", "--only-binary", ":all:", "--python", sys.executable]
    target = ["--target", str(folder), "--python-platform", platform, "--python-version", python]
    done = subprocess.run([sys.executable, "-m", "uv", "pip", "install", *options, *target, *requirements], check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the packages cannot be had for Python {python} on {platform}")
