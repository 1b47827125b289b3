"""Ask a vulnerability service about every package of an environment: ``python .ci/audit.py PYTHON``.

*PYTHON* is the environment's own. Needs pip-audit beside the Python that runs this (dependency group ``audit``). Ends
with 1 for a known vulnerability that `accepted.toml` does not name, and with 0, after a line about it, where no service
can be reached: a network that is not there says nothing about the packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ACCEPTED = Path(__file__).with_name("accepted.toml")
_SERVICES = ("pypi", "osv")
_PATIENCE_S = 300


@dataclass(slots=True)
class Findings:
    """What a service says of packages, each in a line."""

    asked: int = 0
    unknown: list[str] = field(default_factory=list)  # it knows nothing of them
    accepted: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Print what was found; return the exit status."""
    (python,) = arguments
    frozen = subprocess.run(
        [python, "-m", "pip", "freeze", "--all", "--exclude-editable"], check=True, capture_output=True, text=True
    ).stdout
    accepted = tomllib.loads(_ACCEPTED.read_text(encoding="utf-8"))
    for service in _SERVICES:
        document = _ask(frozen, service)
        findings = judge(document, accepted)
        if findings.asked:
            break
    else:
        print("audit: no vulnerability service can be reached from here; nothing was audited")
        return 0
    if findings.unknown:
        print(f"audit: {service} knows nothing of {', '.join(findings.unknown)}")
    for line in findings.accepted + findings.bad:
        print(f"audit: {line}")
    print(f"audit: {findings.asked} packages, {len(findings.bad)} with vulnerabilities that are not accepted")
    return 1 if findings.bad else 0


def _ask(frozen: str, service: str) -> Any:
    """Return the document of pip-audit; None if it has none, as the service could not be asked."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(frozen, encoding="utf-8")
        asked = ["--requirement", str(requirements), "--no-deps", "--disable-pip", "--vulnerability-service", service]
        command = [sys.executable, "-m", "pip_audit", *asked, "--progress-spinner", "off", "--format", "json"]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE_S)
            return json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return None


def judge(document: Any, accepted: Mapping[str, Mapping[str, str]]) -> Findings:
    """Return what pip-audit's *document* says; *accepted* has reasons by package and vulnerability."""
    findings = Findings()
    for package in document["dependencies"] if isinstance(document, dict) else []:
        if "skip_reason" in package:
            findings.unknown.append(package["name"])
            continue
        findings.asked += 1
        for each in package["vulns"]:
            names = [each["id"], *each.get("aliases", [])]
            reasons = [accepted.get(package["name"], {}).get(name) for name in names]
            reason = next((reason for reason in reasons if reason), None)
            text = f"{package['name']} {package['version']}: {' = '.join(names)}"
            if reason is not None:
                findings.accepted.append(f"{text}: accepted: {reason}")
            else:
                findings.bad.append(f"{text}; mended in {', '.join(each['fix_versions']) or 'no release'}")
    return findings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
