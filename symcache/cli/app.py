"""The root command, and the outermost edge where errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from symcache._version import __version__
from symcache.cli.output import blot, say_error
from symcache.errors import InputError, SymcacheError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group that imports a command when it is called: ``NAME_command`` of a module of this package.

    *commands_in* gives the module and what help says of each command, in the order of help; the rest is click's.
    """

    def __init__(self, *rest: Any, commands_in: Mapping[str, tuple[str, str]], **more: Any) -> None:
        super().__init__(*rest, **more)
        self._commands_in = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self._commands_in:
            return None
        module = importlib.import_module(f"symcache.cli.{self._commands_in[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with *incomplete*; click's own would import every command."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for this question alone

        fitting = (each for each in self._commands_in.items() if each[0].startswith(incomplete))
        commands = [CompletionItem(name, help=summary) for name, (_, summary) in fitting]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._commands_in.items()])


_COMMANDS = {
    "warm": ("warm", "Fill the store with what the inputs need; report what is missing."),
    "check": ("warm", "Report what the inputs need and the store lacks; uses no network."),
    "scan": ("scan", "List the modules of the inputs and their keys; uses neither network nor store."),
    "fetch": ("fetch", "Fetch single files by index; print their paths."),
    "inspect": ("inspect", "Show identity and health of one file."),
    "missing": ("fetch", "List files that no server has; request them again, or forget the answers."),
    "path": ("path", "Print the symbol path for a debugger."),
    "servers": ("servers", "List known and configured symbol servers; test them."),
    "doctor": ("servers", "Find out why symbols do not arrive here: servers, proxies, certificates, stores."),
    "store": ("store", "Manage stores: publish, list, verify, prune, convert."),
    "sets": ("sets", "List named sets of modules, to which --set narrows inputs."),
    "builds": ("builds", "List what is known of Windows builds: releases, updates, files of one name."),
    "lock": ("lock", "Write down byte for byte which files the inputs need and the store has."),
    "diff": ("diff", "Compare two dumps, folders, reports, lock files or stores."),
    "export": ("bundle", "Pack symbols into a bundle for a machine without a network."),
    "import": ("bundle", "Import a bundle into the store."),
    "watch": ("watch", "Warm the store for each dump or log that arrives in folders."),
    "serve": ("serve", "Serve the store and its symbol servers over HTTP."),
    "demo": ("demo", "Run the whole job on this machine alone, without internet or Windows."),
    "completion": ("completion", "Print the script that completes commands and options in a shell."),
}


@click.group(cls=LazyGroup, commands_in=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="symcache %(version)s")
def root() -> None:
    """Fill, check and serve local stores of Windows symbol files.

    symcache works out which PDBs and images a debugger will ask for, from dumps, images, manifests and debugger logs,
    fetches them all at once from Microsoft's and other symbol servers, verifies them, and says what does not exist.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of docs/reference.md."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # What a run makes by the thousand lives to its end, so that looking for garbage among it is in vain.
    gc.set_threshold(100_000, 50, 50)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = root.main(args=list(arguments), prog_name="symcache", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        click.echo(blot(said.getvalue()), nl=False, err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _leave_at_once()
    except BrokenPipeError:
        # The reader of the output has closed it. Nothing more can be written to it, at exit neither.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # noqa: BLE001 - the outermost edge: no traceback reaches a user unasked
        code = _explain(error, is_verbose=bool({"-v", "--verbose"}.intersection(arguments)))
    if code == 130:
        _leave_at_once()
    gc.freeze()  # at its end Python would look through every object for garbage: a tenth of a short run
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception, *, is_verbose: bool) -> int:
    """Say in one line what went wrong; return the exit code."""
    while isinstance(error, ExceptionGroup):  # its first error counts for a task group: the others came of it
        error = error.exceptions[0]
    if isinstance(error, SymcacheError):
        say_error(str(error))
        return 2 if isinstance(error, UsageError) else 4 if isinstance(error, InputError) else 1
    say_error(f"this should not have happened, please report it: {type(error).__name__}: {error}")
    if is_verbose:
        import traceback  # noqa: PLC0415

        traceback.print_exception(error)
    return 1


def _leave_at_once() -> NoReturn:
    """End an interrupted process without waiting for threads: one that reads a pipe cannot be told to stop."""
    say_error("interrupted; what was fetched is kept")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(130)
