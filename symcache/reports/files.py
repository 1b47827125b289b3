"""A run's report as a file, its form chosen by the file's suffix."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from symcache.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from symcache.warm.report import Report

# Suffix, module of this package, and function there; a run without a report imports none of them.
_FORMS = {
    ".txt": ("text", "full_lines"),
    ".json": ("files", "json_lines"),
    ".html": ("html", "html_lines"),
    ".xml": ("junit", "junit_lines"),
    ".csv": ("tables", "csv_lines"),
    ".md": ("tables", "markdown_lines"),
    ".log": ("noisy", "noisy_lines"),
}
SUFFIXES = tuple(_FORMS)


def check_suffix(path: Path) -> None:
    """Raise `UsageError` if no form of report has the suffix of *path*."""
    if path.suffix.lower() not in _FORMS:
        *most, last = SUFFIXES
        raise UsageError(f"{path}: a report is named by its form: {', '.join(most)} or {last}")


def report_text(report: Report, suffix: str) -> str:
    """Return *report* in the form of a file with *suffix*, one of `SUFFIXES`."""
    module, function = _FORMS[suffix]
    lines: Callable[[Report], Iterator[str]] = getattr(import_module(f"symcache.reports.{module}"), function)
    return "".join(f"{line}\n" for line in lines(report))


def write_report(report: Report, path: Path) -> None:
    """Write *report* to *path*, whole or not at all, in the form that its suffix names.

    Raises:
        UsageError: There is no such form.
        StoreError: The file cannot be written.
    """
    check_suffix(path)
    write_whole(path, report_text(report, path.suffix.lower()).encode("utf-8", "backslashreplace"), "the report")


def write_whole(path: Path, content: bytes, what: str) -> None:
    """Write *content*, called *what* in errors, to *path*, whole or not at all; `StoreError` if that cannot be done."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise StoreError(f"{what} cannot be written: {error.strerror or error}", path=path) from error


def json_lines(report: Report) -> Iterator[str]:
    """Yield the document ``symcache.report/1``."""
    yield json.dumps(report.as_json(), indent=2, ensure_ascii=True)
