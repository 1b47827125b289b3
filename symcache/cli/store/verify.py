"""``symcache store verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import count_text, plain, say, size_text, write_json, write_line
from symcache.cli.progress import show_ticker
from symcache.stores.check import StoredCheck
from symcache.upkeep.repair import repair
from symcache.upkeep.verify import DeepCheck, Progress, verify, why_private

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.config import Config
    from symcache.stores.local.tree import Store
    from symcache.upkeep.repair import Repaired
    from symcache.upkeep.verify import Problem

__all__ = ["command"]


@click.command()
@click.option("--deep", is_flag=True, help="Look into the streams of PDBs, too; needs pdbparse.")
@click.option("--no-private", is_flag=True, help="Report PDBs that hold private symbols, too.")
@click.option("--repair", "mends", is_flag=True, help="Move bad files into quarantine and fetch them again.")
@click.option(
    "--resume/--restart", default=True, help="Continue where the last run was interrupted (default), or start over."
)
@json_option
@settings_options
def command(settings: Settings, deep: bool, no_private: bool, mends: bool, resume: bool, as_json: bool) -> None:
    """Check that every file is whole, matches its key, and lies where debuggers look; check 000Admin, too.

    Exit code 0: nothing is wrong, or all of it was repaired; 1: a file could not be fetched this time; 3: no store or
    server of the symbol path has it; 4: something is wrong and was left.
    """
    config = settings.load()
    with open_store(config) as store:
        walk = _Walk(store, settings, deep=deep, no_private=no_private)
        walk.run(resume=resume)
        code, results = _mend(config, settings, store, walk.findings) if mends else (4 if walk.findings else 0, [])
    if as_json:
        write_json(walk.as_json(results if mends else None))
    else:
        for line in results if mends else walk.findings:
            write_line(plain(str(line)))
        if not settings.quiet:
            write_line(walk.summary(results if mends else None))
    raise click.exceptions.Exit(code)


class _Walk:
    """One verification, and what it found."""

    def __init__(self, store: Store, settings: Settings, *, deep: bool, no_private: bool) -> None:
        self._store = store
        self._quiet = settings.quiet
        self._deep = DeepCheck() if deep else None
        self._check = StoredCheck(store) if self._deep is None else StoredCheck(store, self._deep)
        self._policy = StoredCheck(store, why_private) if no_private else None
        self._scope = " ".join(["identity", *(["deep"] if deep else []), *(["no-private"] if no_private else [])])
        self.findings: list[Problem] = []
        self._progress = Progress()

    def run(self, *, resume: bool) -> None:
        with show_ticker(quiet=self._quiet) as show:

            def advance(progress: Progress) -> None:
                self._progress = progress
                show(f"{self._counts()}, {progress.problems} wrong  {progress.at}")

            run = verify(
                self._store,
                self._check,
                policy=self._policy,
                scope=self._scope,
                resume=resume,
                on_progress=advance,
            )
            self.findings.extend(run)

    def as_json(self, results: Sequence[Repaired] | None) -> dict[str, object]:
        findings: list[dict[str, object]] = [{**each.as_json()} for each in self.findings]
        if results is not None:
            findings = [each.as_json() for each in results]
        return {
            "schema": "symcache.verify/1",
            "store": str(self._store.root),
            "keys": self._progress.keys,
            "bytes": self._progress.size_bytes,
            "passed_over": 0 if self._deep is None else self._deep.passed_over,
            "findings": findings,
        }

    def summary(self, results: Sequence[Repaired] | None) -> str:
        wrong = "nothing is wrong" if not self.findings else f"{count_text(len(self.findings), 'thing')} wrong"
        if self.findings and results is not None:
            wrong += f", {sum(each.repaired for each in results)} mended"
        shallow = 0 if self._deep is None else self._deep.passed_over
        note = f"; {count_text(shallow, 'PDB')} not looked into beyond identity" if shallow else ""
        return f"{self._counts()}: {wrong}{note}"

    def _counts(self) -> str:
        return f"{count_text(self._progress.keys, 'key')}, {size_text(self._progress.size_bytes)}"


def _mend(config: Config, settings: Settings, store: Store, findings: Sequence[Problem]) -> tuple[int, list[Repaired]]:
    """Repair what was found; return the exit code and what came of each finding."""
    if not findings:
        return 0, []
    from symcache.cli.refetch import refetching  # noqa: PLC0415 - httpx costs more than many a verification

    results: list[Repaired] = []
    with refetching(config, store, quiet=settings.quiet) as refetch, show_ticker(quiet=settings.quiet) as show:
        for each in repair(store, findings, fetch=refetch):
            results.append(each)
            show(f"{len(results)} of {len(findings)} repaired  {each.problem.path}")
        if refetch.failed:
            say("some files could not be fetched; run it again")
    left = sum(not each.repaired for each in results)
    code = 1 if refetch.failed else 4 if left > refetch.missing else 3 if left else 0
    return code, results
