"""Watching: what wakes a look, what becomes of each file, and when it is tried again."""

from __future__ import annotations

import importlib.util
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio
from anyio import from_thread, to_thread

from symcache.errors import StoreError, SymcacheError
from symcache.events import ignore
from symcache.reports.lines import count_text
from symcache.stores.local.mounts import find_mount
from symcache.stores.results import Cause, Failed
from symcache.warm.local import LocalRun
from symcache.warm.plan import Plan
from symcache.warm.run import Warmer
from symcache.watch.files import Found, Looker, Patience, Reports, file_report, is_final, is_unchanged, is_within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from symcache.events import Observer
    from symcache.stores.source import SymbolSource
    from symcache.warm.report import Report

    Tell: TypeAlias = Callable[["Ended | str"], None]

_POLL_S = 10.0
# Events can be lost, and none comes of a folder that was mounted meanwhile.
_LOOK_ANYWAY_S = 60.0
# Looking through folders takes at most this part of the time, however often it is woken.
_SHARE_OF_TIME = 0.2
_SHORTEST_PAUSE_S = 0.2
_FIRST_RETRY_S = 30.0
_LONGEST_RETRY_S = 3600.0
_LISTEN_AGAIN_MS = 500
_PASSING = frozenset({Cause.UNAVAILABLE, Cause.DISK})


class End(StrEnum):
    """What became of a file of a watched folder."""

    COMPLETE = "complete"
    MISSING = "missing"
    FAILED = "failed"
    UNREADABLE = "unreadable"


_ENDS = {0: End.COMPLETE, 1: End.FAILED, 3: End.MISSING, 4: End.UNREADABLE}


@dataclass(frozen=True, slots=True)
class Ended:
    """One file is done, for now if it is tried again."""

    path: Path
    end: End
    report: Report
    written: Path | None  # the report; None if it could not be written
    problem: str | None = None  # why not
    retry_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What is watched, and how.

    Attributes:
        folders: With everything below them.
        reports: Where reports go.
        poll_s: Look so often, in seconds; 0 is woken by the system where it tells of changes, else looks every 10 s.
        patience: How long files are waited for.
        first_retry_s: Pause before the first try again; it doubles up to an hour.
        files_at_once: How many files an input may ask servers for at once; 0 for as many as connections are allowed.
    """

    folders: Sequence[Path]
    reports: Reports = field(default_factory=Reports)
    poll_s: float = 0.0
    patience: Patience = field(default_factory=Patience)
    first_retry_s: float = _FIRST_RETRY_S
    files_at_once: int = 0


class Watcher:
    """Warms *source* for each dump and log that arrives, one at a time, and writes its report.

    *tell* is called on the event loop, with each file that is done, and with a text for what is wrong with a folder.

    Raises:
        UsageError: Reports of two of the folders would lie in one place.
    """

    def __init__(
        self,
        source: SymbolSource,
        settings: WatchSettings,
        tell: Tell,
        *,
        observer: Observer = ignore,
    ) -> None:
        self._source = source
        self._settings = settings
        self._tell = tell
        self._observer = observer
        self._noted: list[str] = []
        self._looker = Looker(settings.folders, settings.reports, settings.patience, self._noted.append)
        self._woken = anyio.Event()
        self._is_listening = False

    async def run(self) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as group:
            if not self._settings.poll_s:
                group.start_soon(self._listen)
            await self._go_on(is_once=False)

    async def run_once(self) -> None:
        """Do what is there and complete; what is still being written is left to the next time."""
        await self._go_on(is_once=True)

    async def _go_on(self, *, is_once: bool) -> None:
        settled_s: float | None = None
        while True:
            self._woken = anyio.Event()
            look_began_s = time.monotonic()
            look = await to_thread.run_sync(self._looker.look, abandon_on_cancel=True)
            look_ended_s = time.monotonic()
            took_s = look_ended_s - look_began_s - look.judging_s
            for text in self._noted:
                self._tell(text)
            self._noted.clear()
            for found in look.ready:
                await self._do(found)
            if is_once:
                if not look.is_full and (not look.waiting or (settled_s is not None and look_began_s >= settled_s)):
                    if look.waiting:
                        what = count_text(look.waiting, "file")
                        self._tell(
                            f"{what} not complete, or not readable, left to the next time; without --once such files"
                            " are waited for and then reported"
                        )
                    return
                if settled_s is None:  # a second look tells what has settled since the first
                    settled_s = look_ended_s + self._settings.patience.settle_s
                await anyio.sleep(0 if look.is_full else max(0.0, settled_s - time.monotonic()) + 0.01)
                continue
            if look.is_full:
                continue
            await anyio.sleep(max(_SHORTEST_PAUSE_S, took_s / _SHARE_OF_TIME))
            every_s = self._settings.poll_s or (_LOOK_ANYWAY_S if self._is_listening else _POLL_S)
            due_s = every_s if look.due_s is None else min(every_s, max(0.0, look.due_s - time.monotonic()))
            with anyio.move_on_after(due_s):
                await self._woken.wait()

    async def _do(self, found: Found) -> None:
        if not await to_thread.run_sync(_is_left_to_do, found):
            return
        try:
            with LocalRun(self._source, Plan(), observer=self._observer) as run:
                warmer = Warmer(self._source, run, at_once=self._settings.files_at_once)
                report = await warmer.warm(run.open_inputs([str(found.path)], runs_programs=False))
        except (SymcacheError, OSError) as error:  # the store cannot be used; what comes later finds it again, perhaps
            pause_s = self._pause_s(found)
            self._looker.put_back(found, pause_s)
            self._tell(f"{found.path}: {error}; tried again in {pause_s:.0f} s")
            return
        retry_s = self._retry_in_s(found, report)
        problem = None
        try:
            written = await to_thread.run_sync(partial(self._write, report, found, is_final=retry_s is None))
        except SymcacheError as error:
            written, problem = False, str(error)
        if retry_s is not None:
            self._looker.put_back(found, retry_s)
        elif written is False or (written and not is_final(found.report, found.stamp)):
            self._looker.pass_over(found)  # the report cannot tell that it is done
        if written is not None:
            end = _ENDS[report.exit_code()]
            self._tell(Ended(found.path, end, report, found.report if written else None, problem, retry_s))

    def _write(self, report: Report, found: Found, *, is_final: bool) -> bool | None:
        """Write the report; None if its file is gone, or is already the next one of its name."""
        if not is_unchanged(found):
            return None
        if self._settings.reports.folder is None and not is_within(found):
            raise StoreError("the report is not written: a link leads out of the watched folder", path=found.report)
        file_report(report, found.report, found.stamp, final=is_final)
        return True

    def _retry_in_s(self, found: Found, report: Report) -> float | None:
        outcomes = (symbol.outcome for symbol in report.symbols)
        if not any(isinstance(outcome, Failed) and outcome.cause in _PASSING for outcome in outcomes):
            return None
        return self._pause_s(found)

    def _pause_s(self, found: Found) -> float:
        return min(self._settings.first_retry_s * float(1 << min(self._looker.tries(found), 20)), _LONGEST_RETRY_S)

    async def _listen(self) -> None:
        """Wake the looks when the system tells of a change; end where it cannot."""
        if importlib.util.find_spec("watchfiles") is None:
            self._tell(
                "watchfiles is not installed: folders are looked into every 10 seconds; symcache[watch] brings it"
            )
            return
        for folder in self._settings.folders:
            mount = await to_thread.run_sync(find_mount, folder)
            if mount.is_network:
                self._tell(
                    f"{folder}: a share tells of no changes of other machines: it is looked into every 10 seconds"
                )
                return
        stopping = threading.Event()
        try:
            await to_thread.run_sync(self._pass_on_events, stopping, abandon_on_cancel=True)
        except (OSError, ImportError, RuntimeError) as error:
            self._tell(f"the system tells of no changes ({error}): folders are looked into every 10 seconds")
        finally:
            self._is_listening = False
            stopping.set()

    def _pass_on_events(self, stopping: threading.Event) -> None:
        import watchfiles  # noqa: PLC0415 - an extra

        folders = [folder for folder in self._settings.folders if folder.is_dir()]
        if len(folders) < len(self._settings.folders):
            return  # one that comes later would not be watched
        events = watchfiles.watch(
            *folders,
            watch_filter=None,
            debounce=_LISTEN_AGAIN_MS,
            stop_event=stopping,
            yield_on_timeout=True,
            rust_timeout=_LISTEN_AGAIN_MS,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        self._is_listening = True
        is_heard = self._wake_from_thread()  # for what came before
        for changes in events:
            if stopping.is_set() or not is_heard:
                return
            if changes:
                is_heard = self._wake_from_thread()

    def _wake_from_thread(self) -> bool:
        """Wake the looks; return whether there is still an event loop."""
        with suppress(RuntimeError):
            from_thread.run_sync(self._wake)
            return True
        return False

    def _wake(self) -> None:
        self._woken.set()


def _is_left_to_do(found: Found) -> bool:
    """Tell whether the file is still what was found, and no other watcher has reported on it meanwhile."""
    return is_unchanged(found) and not is_final(found.report, found.stamp)
