"""One line on stderr that tells how far something has come; on a terminal only."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from symcache.cli.output import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["show_ticker"]

_EVERY_S = 0.2


@contextmanager
def show_ticker(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Lend what shows a text in place of the last one; most are dropped, so that showing costs nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import and only needed here
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    context = click.get_current_context(silent=True)
    console = Console(stderr=True, no_color=True if context is not None and context.color is False else None)
    # Nothing is redirected: stdout may lead elsewhere.
    with Live(
        console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        shown_s = 0.0

        def show(text: str) -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s >= _EVERY_S:
                shown_s = time.monotonic()
                live.update(Text(plain(text), no_wrap=True, overflow="ellipsis"), refresh=True)

        yield show
