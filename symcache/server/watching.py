"""Watched folders of a server: warmed for in one worker, with its stores and network, and counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from symcache.reports.lines import plain
from symcache.reports.text import summary
from symcache.watch import End, Reports, Watcher, WatchSettings

if TYPE_CHECKING:
    from symcache.config import Serve
    from symcache.server.metrics import Metrics
    from symcache.stores.source import SymbolSource
    from symcache.watch import Ended

# Of the connections to servers, so that clients have the others.
_FILES_AT_ONCE = 4

_log = logging.getLogger("symcache.serve")


class Watching:
    """Watches the folders of *settings*; see `Watcher`, which raises what this raises."""

    def __init__(self, source: SymbolSource, settings: Serve, metrics: Metrics) -> None:
        self._metrics = metrics
        watched = WatchSettings(
            settings.watch,
            Reports(settings.watch_report_as, settings.watch_reports),
            settings.watch_poll_s,
            files_at_once=_FILES_AT_ONCE,
        )
        self._watcher = Watcher(source, watched, self._tell)

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._watcher.run()

    def _tell(self, told: Ended | str) -> None:
        if isinstance(told, str):
            _log.warning("%s", plain(told))
            return
        self._metrics.watched[told.end] += 1
        level = logging.INFO if told.end in {End.COMPLETE, End.MISSING} else logging.WARNING
        problem = next((item.problem for item in told.report.unreadable), None)
        said = filter(None, [summary(told.report), problem, told.problem])
        _log.log(level, "%s: %s", plain(str(told.path)), plain("; ".join(said)))
