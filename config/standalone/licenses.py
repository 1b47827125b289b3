"""The licenses of what lies in a program, in one text."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["distributions_with", "license_text"]

_NAMED = re.compile(r"(?:.*/)?(?:licen[cs]e|copying|notice)[^/]*", re.IGNORECASE)
_LICENSE_FOLDER = re.compile(r"[^/]+\.dist-info/licenses/.*")
_INTRODUCTION = "{name} {version} holds the following, each under its own license.\n"


def distributions_with(paths: Iterable[Path], folder: Path) -> list[Distribution]:
    """Return the distributions in *folder* to which any of *paths* belongs, by name."""
    wanted = {path.resolve() for path in paths}
    found = [
        distribution
        for distribution in distributions(path=[str(folder)])
        if any(Path(str(distribution.locate_file(file))).resolve() in wanted for file in distribution.files or ())
    ]
    return sorted(found, key=lambda distribution: distribution.name.lower())


def license_text(program: Distribution, others: Iterable[Distribution], texts: Iterable[tuple[str, Path]] = ()) -> str:
    """Return a text with the licenses of *program*, of *others* and, given as names and files, of *texts*.

    Raises:
        RuntimeError: A distribution comes without the text of its license, so that it may not be handed on.
    """
    parts = [_INTRODUCTION.format(name=program.name, version=program.version)]
    for title, path in texts:
        parts.append(_section(title, path.read_text(encoding="utf-8")))
    for distribution in (program, *(other for other in others if other.name != program.name)):
        names = [str(file) for file in distribution.files or () if _holds_license(str(file).replace("\\", "/"))]
        if not names:
            raise RuntimeError(f"{distribution.name} {distribution.version} comes without the text of its license")
        title = f"{distribution.name} {distribution.version}"
        for field in ("License-Expression", "License"):
            declared = distribution.metadata.get_all(field, [""])[0]
            if declared not in {"", "UNKNOWN"} and "\n" not in declared:
                title += f" ({declared})"
                break
        text = "\n\n".join((distribution.read_text(_inside(name)) or "").strip("\n") for name in sorted(names))
        parts.append(_section(title, text))
    return "\n".join(parts)


def _holds_license(name: str) -> bool:
    in_metadata = ".dist-info/" in name
    return in_metadata and (_NAMED.fullmatch(name) is not None or _LICENSE_FOLDER.fullmatch(name) is not None)


def _inside(name: str) -> str:
    """Return *name* without the folder of metadata, against which `Distribution.read_text` resolves it."""
    return re.split(r"\.dist-info[/\\]", name, maxsplit=1)[1]


def _section(title: str, text: str) -> str:
    return f"\n{'=' * 78}\n{title}\n{'=' * 78}\n\n{text.strip()}\n"
