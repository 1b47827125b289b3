"""The audit of dependencies: what it fails for, and what it does not."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

PROJECT = Path(__file__).parents[3]
ACCEPTED = {"one": {"CVE-1": "it is never called"}}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    path = PROJECT / ".ci" / "audit.py"
    if not path.is_file():  # the tests of a source distribution
        pytest.skip("there is no .ci here")
    spec = importlib.util.spec_from_file_location("ci_audit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ci_audit"] = module
    spec.loader.exec_module(module)
    return module


def found(name: str, *ids: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "vulns": [{"id": ids[0], "aliases": list(ids[1:]), "fix_versions": ["2"]}]}


def run(audit: ModuleType, document: Any, monkeypatch: pytest.MonkeyPatch, accepted: Path) -> int:
    accepted.write_text('[one]\nCVE-1 = "it is never called"\n')
    monkeypatch.setattr(audit, "_ask", lambda _frozen, _service: document)
    monkeypatch.setattr(audit, "_ACCEPTED", accepted)
    code: int = audit.main([sys.executable])
    return code


@pytest.mark.parametrize(
    ("document", "code", "said"),
    [
        (None, 0, "no vulnerability service can be reached"),
        ({"dependencies": [{"name": "one", "skip_reason": "not found"}]}, 0, "no vulnerability service can be reached"),
        ({"dependencies": [{"name": "one", "version": "1", "vulns": []}]}, 0, "1 packages, 0 with"),
        ({"dependencies": [found("one", "CVE-1")]}, 0, "accepted: it is never called"),
        ({"dependencies": [found("one", "PYSEC-9", "CVE-1")]}, 0, "accepted: it is never called"),
        ({"dependencies": [found("one", "CVE-2")]}, 1, "one 1: CVE-2; mended in 2"),
        ({"dependencies": [found("two", "CVE-1")]}, 1, "two 1: CVE-1; mended in 2"),
    ],
    ids=["unreachable", "unknown", "none", "accepted", "accepted by alias", "not accepted", "accepted elsewhere"],
)
def test_it_fails_for_what_is_known_and_not_accepted(
    document: Any,
    code: int,
    said: str,
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert run(audit, document, monkeypatch, tmp_path / "accepted.toml") == code
    assert said in capsys.readouterr().out


def test_what_is_accepted_is_depended_on_and_has_a_reason(audit: ModuleType) -> None:
    accepted = tomllib.loads(audit._ACCEPTED.read_text(encoding="utf-8"))
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    for package, reasons in accepted.items():
        assert any(requirement.startswith(package) for requirement in declared), package
        assert all(len(reason) > 20 for reason in reasons.values()), package
