"""Options that many commands take, and the settings that they and the config file make together."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from symcache._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from symcache.config import Config
    from symcache.inputs.records import ProcessSelection
    from symcache.warm.plan import ImageChoice

__all__ = [
    "ImagesCommand",
    "Settings",
    "allow_options",
    "color_option",
    "images_option",
    "inputs_argument",
    "json_option",
    "process_options",
    "select_processes",
    "settings_options",
    "settings_options_but_version",
]

F = TypeVar("F", bound="Callable[..., Any]")

_IMAGE_CHOICES = ("auto", "all", "none")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the common options say.

    Attributes:
        config_file: ``--config``.
        symbol_path: ``-y``.
        store: ``--store``.
        quiet: ``-q``: only errors.
        verbose: ``-v``: everything.
    """

    config_file: Path | None = None
    symbol_path: str | None = None
    store: Path | None = None
    quiet: bool = False
    verbose: bool = False

    def load(self, *, upstreams: Sequence[str] = ()) -> Config:
        """Read the config file and the environment; the options win, and *upstreams* are asked first.

        Raises:
            ConfigError: A setting that cannot be used.
            SymbolPathError: ``-y`` is not a symbol path.
        """
        from symcache.config import load_config  # noqa: PLC0415 - not needed for --help

        return load_config(self.config_file, symbol_path=self.symbol_path, store=self.store, upstreams=upstreams)


def settings_options(command: F) -> F:
    """Give *command* the common options; it gets them as its first argument, `Settings`."""
    return click.version_option(__version__, message="symcache %(version)s")(settings_options_but_version(command))


def settings_options_but_version(command: F) -> F:
    """Do the same for a *command* to which ``--version`` means something else."""

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
    @click.option(
        "--store",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Use DIR as the bottom-most store.",
    )
    @click.option("-q", "--quiet", is_flag=True, help="Print only the result and errors.")
    @click.option("-v", "--verbose", is_flag=True, help="Print more.")
    @color_option
    @functools.wraps(command)
    def wrapped(
        config_file: Path | None, symbol_path: str | None, store: Path | None, quiet: bool, verbose: bool, **more: Any
    ) -> Any:
        return command(Settings(config_file, symbol_path, store, quiet, verbose), **more)

    return wrapped  # type: ignore[return-value]  # click has put its options on it


def json_option(command: F) -> F:
    """Give *command* ``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")(command)


def color_option(command: F) -> F:
    """Give *command* ``--no-color``."""
    return click.option("--no-color", is_flag=True, expose_value=False, callback=_no_color, help="Use no colours.")(
        command
    )


def allow_options(command: F) -> F:
    """Give *command* ``--allow-missing`` and ``--allow-empty``."""
    command = click.option("--allow-empty", is_flag=True, help="Exit with 0 even if the inputs hold no module.")(
        command
    )
    return click.option("--allow-missing", is_flag=True, help="Exit with 0 even if something is missing.")(command)


class ImagesCommand(click.Command):
    """A command with `images_option`, whose value may be left out, whatever follows: ``--images MEMORY.DMP``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*; click would take the next argument for the value."""
        options, rest = args, []
        if "--" in args:
            options, rest = args[: args.index("--")], args[args.index("--") :]
        following = [*options[1:], *rest[:1], ""]
        spelt_out = [
            "--images=all" if option == "--images" and value not in _IMAGE_CHOICES else option
            for option, value in zip(options, following, strict=False)
        ]
        return super().parse_args(ctx, spelt_out + rest)


def images_option(command: F) -> F:
    """Give *command*, an `ImagesCommand`, ``--images``, passed on as an `ImageChoice`."""
    return click.option(
        "--images",
        type=click.Choice(_IMAGE_CHOICES),
        callback=_image_choice,
        default="auto",
        is_flag=False,
        flag_value="all",
        help="Which images count beside the PDBs: auto (default), those a debugger asks for because the input does"
        " not hold them; all; none. --images alone means all.",
    )(command)


def inputs_argument(command: F) -> F:
    """Give *command* its inputs."""
    return click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)(command)


def process_options(command: F) -> F:
    """Give *command* ``--process`` and ``--user``, passed on as ``processes`` and ``user``; see `select_processes`."""
    command = click.option(
        "--user/--no-user",
        default=None,
        help="Include or leave out the modules of all processes; by default only complete dumps are searched.",
    )(command)
    return click.option(
        "--process",
        "processes",
        metavar="NAME|ID",
        multiple=True,
        help="Include the modules of this process of a kernel dump; repeatable.",
    )(command)


def select_processes(processes: Sequence[str], user: bool | None) -> ProcessSelection | None:
    """Return the processes of a kernel dump whose modules are wanted; None for none."""
    from symcache.inputs.records import ProcessSelection  # noqa: PLC0415 - the readers are not needed for --help

    if processes:
        return ProcessSelection(tuple(processes))
    if user is False:
        return None
    return ProcessSelection(if_complete=user is None)


def _no_color(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.color = False


def _image_choice(_context: click.Context, _parameter: click.Parameter, value: str) -> ImageChoice:
    from symcache.warm.plan import ImageChoice  # noqa: PLC0415 - not needed for --help

    return ImageChoice(value)
