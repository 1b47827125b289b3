"""Groups of commands that are imported when they are called: httpx and rich cost more than most commands take."""

from __future__ import annotations

import importlib
import keyword
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands lie in modules of their names, each called ``command`` there.

    Args:
        package: Where those modules lie. A name that Python keeps for itself has an underscore behind it there.
        summaries: What each command is for, in the order in which help lists them.
        rest: As for `click.Group`.
    """

    def __init__(self, *rest: Any, package: str, summaries: Mapping[str, str], **more: Any) -> None:
        super().__init__(*rest, **more)
        self._package = package
        self._summaries = summaries

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self._summaries:
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = importlib.import_module(f"{self._package}.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))
