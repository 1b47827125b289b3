"""The page about security: each threat names the tests that hold its measure, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
PAGE = PROJECT / "docs" / "security.md"
ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| (?!threat \||-)", line)]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((PROJECT / path).read_bytes())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name.startswith("test_")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_threat_has_a_measure_and_tests_that_exist(row: str) -> None:
    threat, measure, held = (cell.strip() for cell in row.strip("|").split("|"))
    assert threat
    assert measure
    named = NAMED.findall(held)
    assert named, "no test holds it"
    assert re.sub(NAMED, "", held).strip(" ,") == "", "nothing but tests"
    for path, name in named:
        assert name in names_in(path), f"{path} has no {name}"


def test_there_are_threats() -> None:
    assert len(ROWS) > 30
