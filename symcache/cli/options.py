"""Options that many commands take, and what commands get of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from symcache._version import __version__
from symcache.cli.output import say
from symcache.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from symcache.config import Config
    from symcache.identity import Key
    from symcache.inputs.records import ProcessSelection
    from symcache.warm.plan import Plan

F = TypeVar("F", bound="Callable[..., Any]")

_IMAGE_CHOICES = ("auto", "all", "none")


class Settings(NamedTuple):
    """What the common options say."""

    config_file: Path | None = None
    symbol_path: str | None = None
    store: Path | None = None
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    def load(self, *, upstreams: Sequence[str] = ()) -> Config:
        """Read the config file and the environment; the options win, and *upstreams* are asked first."""
        from symcache.config import load_config  # noqa: PLC0415 - not needed for --help

        return load_config(self.config_file, symbol_path=self.symbol_path, store=self.store, upstreams=upstreams)

    def note(self, text: str) -> None:
        """Write a note to stderr, but not with ``-q``."""
        if not self.quiet:
            say(text)


class Wish(NamedTuple):
    """What inputs are to be asked for, and with what a report counts as complete."""

    plan: Plan
    processes: ProcessSelection | None
    allow_missing: bool
    allow_empty: bool


def folder_option(name: str, help_text: str) -> Callable[[F], F]:
    """Return an option whose value is a folder, there or not."""
    return click.option(name, type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help=help_text)


def timeout_option(help_text: str) -> Callable[[F], F]:
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0.1, max=600),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help=help_text,
    )


def _no_color(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.color = False


inputs_argument = click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only the result and errors.")
color_option = click.option("--no-color", is_flag=True, expose_value=False, callback=_no_color, help="Use no colours.")
version_option = click.version_option(__version__, message="symcache %(version)s")


def settings_options(*, json: bool = True, version: bool = True) -> Callable[[F], F]:
    """Give a command the common options; it gets them as its first argument, `Settings`.

    Without *json* it writes no document; without *version* ``--version`` means something else to it.
    """

    def decorate(command: F) -> F:
        @(json_option if json else _nothing)
        @click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Read settings from FILE instead of the user's symcache.toml.",
        )
        @click.option(
            "-y", "--symbol-path", metavar="TEXT", help="Symbol path, in place of _NT_SYMBOL_PATH and the config file."
        )
        @folder_option("--store", "Use DIR as the bottom-most store.")
        @quiet_option
        @click.option("-v", "--verbose", is_flag=True, help="Print more.")
        @color_option
        @(version_option if version else _nothing)
        @functools.wraps(command)
        def wrapped(**said: Any) -> Any:
            common = {name: said.pop(name) for name in Settings._fields if name in said}
            return command(Settings(**common), **said)

        return wrapped  # type: ignore[return-value]  # click has put its options on it

    return decorate


def _nothing(command: F) -> F:
    return command


def process_options(command: F) -> F:
    """Give *command* ``--process`` and ``--user``, passed on as ``selection``; None for no processes."""

    @click.option(
        "--process",
        "processes",
        metavar="NAME|ID",
        multiple=True,
        help="Include the modules of this process of a kernel dump; repeatable.",
    )
    @click.option(
        "--user/--no-user",
        default=None,
        help="Include or leave out the modules of all processes; by default only complete dumps are searched.",
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, processes: tuple[str, ...], user: bool | None, **more: Any) -> Any:
        from symcache.inputs.records import ProcessSelection  # noqa: PLC0415 - not needed for --help

        selection = None if user is False else ProcessSelection(if_complete=user is None)
        return command(*arguments, selection=ProcessSelection(processes) if processes else selection, **more)

    return wrapped  # type: ignore[return-value]


def wish_options(verb: str) -> Callable[[F], F]:
    """Give a command, a `WishCommand`, the options about what inputs need, passed on as ``wish``."""

    def decorate(command: F) -> F:
        @process_options
        @click.option(
            "--images",
            type=click.Choice(_IMAGE_CHOICES),
            default="auto",
            is_flag=False,
            flag_value="all",
            help="Which images count beside the PDBs: auto (default), those a debugger asks for because the input does"
            " not hold them; all; none. --images alone means all.",
        )
        @click.option(
            "--all-pdbs", is_flag=True, help=f"{verb} every PDB an image names, not only the one debuggers ask for."
        )
        @click.option("--allow-missing", is_flag=True, help="Exit with 0 even if something is missing.")
        @click.option("--allow-empty", is_flag=True, help="Exit with 0 even if the inputs hold no module.")
        @functools.wraps(command)
        def wrapped(
            *arguments: Any, images: str, all_pdbs: bool, selection: ProcessSelection | None, **more: Any
        ) -> Any:
            from symcache.warm.plan import ImageChoice, Plan  # noqa: PLC0415 - not needed for --help

            plan = Plan(images=ImageChoice(images), all_pdbs=all_pdbs)
            wish = Wish(plan, selection, more.pop("allow_missing"), more.pop("allow_empty"))
            return command(*arguments, wish=wish, **more)

        return wrapped  # type: ignore[return-value]

    return decorate


class WishCommand(click.Command):
    """A command with `wish_options`; the value of ``--images`` may be left out, whatever follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*; click would take ``MEMORY.DMP`` for the value in ``--images MEMORY.DMP``."""
        options, rest = args, []
        if "--" in args:
            options, rest = args[: args.index("--")], args[args.index("--") :]
        following = [*options[1:], *rest[:1], ""]
        spelt_out = [
            "--images=all" if option == "--images" and value not in _IMAGE_CHOICES else option
            for option, value in zip(options, following, strict=False)
        ]
        return super().parse_args(ctx, spelt_out + rest)


def parse_key(index: str) -> Key:
    """Return the key that *index* writes out; else `UsageError`, which shows nothing that may be a password."""
    from symcache.identity import parse_index  # noqa: PLC0415 - not needed for --help
    from symcache.sympath import redact_text  # noqa: PLC0415

    try:
        return parse_index(index)
    except InputError as error:
        raise UsageError(redact_text(str(error))) from error
