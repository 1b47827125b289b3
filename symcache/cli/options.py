"""Options that many commands take, and what commands get of them."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from symcache._version import __version__
from symcache.cli.output import progress_option, say
from symcache.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from click.shell_completion import CompletionItem

    from symcache.config import Config, Inputs
    from symcache.identity import Key
    from symcache.inputs.detect import InputSource
    from symcache.inputs.records import ProcessSelection
    from symcache.warm.plan import Plan
    from symcache.warm.report import FailOn

F = TypeVar("F", bound="Callable[..., Any]")

_IMAGE_CHOICES = ("auto", "all", "none")
architecture_type = click.Choice(["x64", "x86", "arm64"])


class _StoreType(click.Path):
    """A folder as a `Path`, there or not; a URL stays a text."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return what *value* is."""
        if isinstance(value, str) and re.match("(?i)(?:s3|gs|az|https?)://", value):
            return value
        return super().convert(value, parameter, context)


store_type = _StoreType()


class Settings(NamedTuple):
    """What the common options say."""

    config_file: Path | None = None
    symbol_path: str | None = None
    store: Path | str | None = None  # a text for a URL
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    def load(self, *, upstreams: Sequence[str] = ()) -> Config:
        """Read the config file and the environment; the options win, and *upstreams* are asked first.

        A bucket as ``--store`` is a `UsageError`: a debugger, and this command, open files in a folder.
        """
        config, bucket = self.load_with_bucket(upstreams=upstreams)
        if bucket is not None:
            text = f"--store: {bucket} is a bucket; name it in the symbol path, behind a folder: -y 'srv*DIR*{bucket}'"
            raise UsageError(text)
        return config

    def load_with_bucket(self, *, upstreams: Sequence[str] = ()) -> tuple[Config, str | None]:
        """Return the same, and the URL of the bucket if ``--store`` names one."""
        from symcache.config import load_config  # noqa: PLC0415 - not needed for --help

        load = functools.partial(load_config, self.config_file, symbol_path=self.symbol_path, upstreams=upstreams)
        if not isinstance(self.store, str):
            return load(store=self.store), None
        from symcache.config import read_bucket_url  # noqa: PLC0415
        from symcache.stores.disk import find_entry  # noqa: PLC0415

        config = load()
        is_bucket = not self.store.lower().startswith("http") or find_entry(self.store.rstrip("/"), config.bucket)
        if not is_bucket:
            return load(store=Path(self.store)), None  # which says what a store is
        return config, read_bucket_url(self.store, "--store")

    def input_limits(self) -> Inputs:
        """Read from the config file how far archives are read."""
        from symcache.config import load_file  # noqa: PLC0415 - not needed for --help

        return load_file(self.config_file).inputs

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


def output_option(help_text: str) -> Callable[[F], F]:
    """Return the option for the one file that a command is there to write."""
    return click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=help_text,
    )


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


def complete_files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete files for a value that `click.Path` does not check, as ``-`` and a folder do, too."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for a shell alone

    return [CompletionItem(incomplete, type="file")]


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
        @click.option("--store", type=store_type, metavar="DIR", help="Use DIR as the bottom-most store.")
        @quiet_option
        @click.option("-v", "--verbose", is_flag=True, help="Print more.")
        @progress_option
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


def complete_sets(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete names of sets that everybody has."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for a shell alone

    from symcache.inputs.sets import load_sets  # noqa: PLC0415

    return [CompletionItem(each.name, help=each.about) for each in load_sets() if each.name.startswith(incomplete)]


def build_options(command: F) -> F:
    """Give *command* ``--build`` and what belongs to it, passed on as ``builds``, a tuple of `BuildSource`."""

    @click.option(
        "--build",
        "names",
        metavar="BUILD",
        multiple=True,
        help="In place of an input, a Windows build: 22621.1483, 22621 (its latest update), KB5023706 or '11 22H2'. Of"
        " it the modules of --set, by default kernel; repeatable.",
    )
    @click.option(
        "--arch",
        "architectures",
        type=architecture_type,
        multiple=True,
        help="What the files of --build were compiled for: x64 (default), x86, arm64; repeatable.",
    )
    @folder_option("--index", "Take what the index of builds says from files in DIR, not from the network.")
    @functools.wraps(command)
    def wrapped(
        *arguments: Any, names: tuple[str, ...], architectures: tuple[str, ...], index: Path | None, **more: Any
    ) -> Any:
        if not names and (architectures or index is not None):
            raise click.UsageError("--arch and --index belong to --build, which is not given.")
        builds: tuple[InputSource, ...] = ()
        if names:
            from symcache.inputs.builds.source import BuildSource  # noqa: PLC0415 - most runs name none
            from symcache.inputs.builds.words import parse_words  # noqa: PLC0415

            for name in names:
                try:
                    parse_words(name)
                except InputError as error:
                    raise UsageError(str(error)) from error
            builds = tuple(BuildSource(name, each, index) for name in names for each in architectures or ("x64",))
        return command(*arguments, builds=builds, **more)

    return wrapped  # type: ignore[return-value]  # click has put its options on it


sets_option = click.option(
    "--set",
    "sets",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_sets,
    help="Take only modules of this set: kernel, drivers, user-core, or one of the config file; repeatable.",
)


def source_options(*, required: bool = True) -> Callable[[F], F]:
    """Give a command what says where modules come from, passed on as ``inputs``, a tuple of `InputSource`.

    These are the paths of its arguments, and what options put in their place; with *required* there has to be one.
    Names of sets, which narrow all of them, are passed on as ``sets``.
    """

    def decorate(command: F) -> F:
        @click.argument("inputs", metavar="[INPUT]...", nargs=-1, shell_complete=complete_files)
        @sets_option
        @click.option(
            "--wim-image",
            metavar="NUMBER|NAME",
            help="Of a WIM file, or of a disc with one, take this image alone.",
        )
        @build_options
        @live_options
        @functools.wraps(command)
        def wrapped(
            *arguments: Any,
            inputs: tuple[str, ...],
            wim_image: str | None,
            builds: tuple[InputSource, ...],
            live: tuple[InputSource, ...],
            **more: Any,
        ) -> Any:
            named: tuple[InputSource, ...] = inputs
            if wim_image is not None:
                from symcache.inputs.disk import ChosenImage  # noqa: PLC0415 - few runs meet a disk

                named = tuple(ChosenImage(each, wim_image) for each in inputs)
            sources: tuple[InputSource, ...] = (*named, *builds, *live)
            if required and not sources:
                text = (
                    "Missing argument 'INPUT...': a dump, an image, a folder, a log or a list; - is standard input; or"
                    " --build for a Windows build, --live or --pid for this machine."
                )
                raise click.UsageError(text)
            if more["sets"] and not sources:
                raise click.UsageError("--set narrows inputs, and there is none.")
            return command(*arguments, inputs=sources, **more)

        return wrapped  # type: ignore[return-value]  # click has put its options on it

    return decorate


def live_options(command: F) -> F:
    """Give *command* ``--live`` and ``--pid``, passed on as ``live``: values that stand in place of inputs."""

    @click.option(
        "--live",
        "is_live",
        is_flag=True,
        callback=_check_windows,
        help="Take the drivers that are loaded on this Windows machine, in place of an INPUT.",
    )
    @click.option(
        "--pid",
        "wanted",
        metavar="ID|NAME",
        multiple=True,
        callback=_check_windows,
        help="Take the modules of this process of this Windows machine, in place of an INPUT; repeatable.",
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, is_live: bool, wanted: tuple[str, ...], **more: Any) -> Any:
        live: tuple[InputSource, ...] = ()
        if is_live or wanted:
            from symcache.inputs.live import LiveKernel, LiveProcess  # noqa: PLC0415 - most runs have files

            live = (*([LiveKernel()] if is_live else []), *map(LiveProcess, wanted))
        return command(*arguments, live=live, **more)

    return wrapped  # type: ignore[return-value]


def _check_windows(_context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if value and sys.platform != "win32":
        raise UsageError(f"{parameter.opts[0]} asks the Windows machine that it runs on; here, give a dump of one")
    return value


def process_options(command: F) -> F:
    """Give *command* ``--process`` and ``--user``, passed on as ``selection``; None for no processes."""

    @click.option(
        "--process",
        "processes",
        metavar="NAME|ID",
        multiple=True,
        help="Include the modules of this process of a kernel dump or memory image, or leave out those of all others"
        " of a trace; repeatable.",
    )
    @click.option(
        "--hot",
        type=click.IntRange(1),
        metavar="N",
        help="Take of a trace only the N modules that its samples and stacks point into most, most first.",
    )
    @click.option(
        "--user/--no-user",
        default=None,
        help="Include or leave out the modules of all processes; by default only complete dumps and memory images"
        " are searched.",
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, processes: tuple[str, ...], user: bool | None, hot: int | None, **more: Any) -> Any:
        from symcache.inputs.records import ProcessSelection  # noqa: PLC0415 - not needed for --help

        if hot is not None and user is False and not processes:
            raise UsageError("--hot and --no-user exclude each other: samples are those of processes")
        selection = None if user is False else ProcessSelection(if_complete=user is None, hot=hot)
        return command(*arguments, selection=ProcessSelection(processes, hot=hot) if processes else selection, **more)

    return wrapped  # type: ignore[return-value]


def wish_options(verb: str, *, stack: bool = False) -> Callable[[F], F]:
    """Give a command, a `WishCommand`, the options about what inputs need, passed on as ``wish``.

    With *stack* it can be told to want nothing but what the modules on a crash's stack need.
    """
    help_text = f"{verb} only what the modules on the crash's stack need: enough for a first look."
    stack_option = click.option("--stack", is_flag=True, help=help_text)

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
        @(stack_option if stack else _nothing)
        @click.option("--allow-missing", is_flag=True, help="Exit with 0 even if something is missing.")
        @click.option("--allow-empty", is_flag=True, help="Exit with 0 even if the inputs hold no module.")
        @functools.wraps(command)
        def wrapped(
            *arguments: Any, images: str, all_pdbs: bool, selection: ProcessSelection | None, **more: Any
        ) -> Any:
            from symcache.warm.plan import ImageChoice, Plan  # noqa: PLC0415 - not needed for --help

            stack_only = more.pop("stack", False)
            plan = Plan(images=ImageChoice(images), all_pdbs=all_pdbs, stack_only=stack_only)
            wish = Wish(plan, selection, more.pop("allow_missing"), more.pop("allow_empty"))
            return command(*arguments, wish=wish, **more)

        return wrapped  # type: ignore[return-value]

    return decorate


class Ending(NamedTuple):
    """What is written of a run beside its result, and what alone makes it fail, if that is said."""

    reports: tuple[Path, ...] = ()
    fail_on: frozenset[FailOn] | None = None


def ending_options(command: F) -> F:
    """Give *command* ``--report`` and ``--fail-on``, passed on as ``ending``."""

    @click.option(
        "--report",
        "reports",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        multiple=True,
        callback=_check_reports,
        help="Write the report to FILE, too, in the form of its suffix: .txt, .json, .html, .xml (JUnit), .csv, .md, or"
        " .log as a debugger's noisy mode prints it; repeatable.",
    )
    @click.option(
        "--fail-on",
        "fail_on",
        type=click.Choice(["missing", "failed", "private", "images"]),
        multiple=True,
        help="Exit with an error for these alone: missing files, files that failed, PDBs with private symbols, missing"
        " images; repeatable.",
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, reports: tuple[Path, ...], fail_on: tuple[str, ...], **more: Any) -> Any:
        from symcache.warm.report import FailOn  # noqa: PLC0415 - not needed for --help

        return command(*arguments, ending=Ending(reports, frozenset(map(FailOn, fail_on)) or None), **more)

    return wrapped  # type: ignore[return-value]


def _check_reports(_context: click.Context, _parameter: click.Parameter, value: tuple[Path, ...]) -> tuple[Path, ...]:
    if value:
        from symcache.reports.files import check_suffix  # noqa: PLC0415 - most runs write none

        for path in value:
            check_suffix(path)
            if not path.parent.is_dir():  # said before a run that may take long
                raise UsageError(f"{path}: there is no folder {path.parent}")
    return value


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
