"""What is handed on with a program is gathered from what is in it, or the program is not made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from licenses import distributions_with, license_text

if TYPE_CHECKING:
    from pathlib import Path


def install(folder: Path, name: str, declared: str = "", *, texts: tuple[str, ...] = ("licenses/LICENSE",)) -> Path:
    """Install a distribution of one module in *folder*; return the module."""
    metadata = folder / f"{name}-1.0.dist-info"
    (metadata / "licenses").mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{declared}\n")
    for text in texts:
        (metadata / text).write_text(f"terms of {name} in {text}\n")
    (folder / f"{name}.py").touch()
    files = [f"{name}.py", *(f"{metadata.name}/{text}" for text in ("METADATA", *texts))]
    (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    return folder / f"{name}.py"


def test_only_what_is_in_the_program_is_named(tmp_path: Path) -> None:
    inside, also = install(tmp_path, "inside"), install(tmp_path, "also")
    install(tmp_path, "beside")
    assert [each.name for each in distributions_with([inside, also], tmp_path)] == ["also", "inside"]


def test_every_text_is_there_under_its_name(tmp_path: Path) -> None:
    paths = [
        install(tmp_path, "program", "License-Expression: MIT"),
        install(tmp_path, "older", "License: BSD", texts=("LICENSE.txt", "NOTICE")),
        install(tmp_path, "untold", "License: UNKNOWN"),
    ]
    (tmp_path / "python.txt").write_text("terms of Python")
    older, program, untold = distributions_with(paths, tmp_path)
    text = license_text(program, [older, program, untold], [("Python 3.13.2", tmp_path / "python.txt")])
    places = [
        text.index(line)
        for line in (
            "program 1.0 holds the following",
            "Python 3.13.2\n",
            "terms of Python",
            "program 1.0 (MIT)",
            "terms of program in licenses/LICENSE",
            "older 1.0 (BSD)",
            "terms of older in LICENSE.txt",
            "terms of older in NOTICE",
            "untold 1.0\n",
        )
    ]
    assert places == sorted(places)
    assert text.count("terms of program") == 1


def test_what_has_no_text_may_not_be_handed_on(tmp_path: Path) -> None:
    paths = [install(tmp_path, "program"), install(tmp_path, "without", "License: MIT", texts=())]
    program, without = distributions_with(paths, tmp_path)
    with pytest.raises(RuntimeError, match=r"without 1\.0 comes without the text of its license"):
        license_text(program, [without])
