from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from symcache.config import load_config
from symcache.doctor.finding import Finding, Rating
from symcache.doctor.run import examine_debugger

if TYPE_CHECKING:
    from pathlib import Path


def examine(variables: dict[str, str], store: Path) -> list[Finding]:
    config = load_config(environ={}, symbol_path=f"srv*{store}*https://symbols.example/s")
    return list(examine_debugger(variables, config))


def test_a_path_that_leads_to_the_store_is_fine(tmp_path: Path) -> None:
    (finding,) = examine({"_NT_SYMBOL_PATH": f"srv*{tmp_path}*https://other.example"}, tmp_path)
    assert finding.rating is Rating.FINE


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("srv*/elsewhere*https://symbols.example", Rating.WRONG),
        ("/folder/of/pdbs", Rating.WARNING),
        ("srv*a*b*https://[", Rating.WRONG),
    ],
)
def test_a_path_that_leads_elsewhere_is_told(text: str, rating: Rating, tmp_path: Path) -> None:
    finding = examine({"_NT_SYMBOL_PATH": text}, tmp_path)[0]
    assert finding.rating is rating
    assert finding.advice


def test_no_path_at_all_and_variables_that_surprise_are_warnings(tmp_path: Path) -> None:
    (finding,) = examine({}, tmp_path)
    assert (finding.subject, finding.rating) == ("_NT_SYMBOL_PATH", Rating.WARNING)
    variables = dict.fromkeys(("_NT_SYMBOL_PATH", "_NT_ALT_SYMBOL_PATH"), f"srv*{tmp_path}")
    findings = examine({**variables, "_NT_SYMBOL_PROXY": "proxy:8080"}, tmp_path)
    assert [(each.subject, each.check) for each in findings if each.rating is Rating.WARNING] == [
        ("_NT_ALT_SYMBOL_PATH", "order"),
        ("_NT_SYMBOL_PROXY", "proxy"),
    ]


def test_credentials_in_a_path_are_not_shown(tmp_path: Path) -> None:
    findings = examine({"_NT_SYMBOL_PATH": "srv*/elsewhere*https://me:hunter2@symbols.example"}, tmp_path)
    assert "hunter2" not in repr(findings)
