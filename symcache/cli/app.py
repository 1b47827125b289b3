"""The root command, and the outermost edge where errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import keyword
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from symcache._version import __version__
from symcache.cli.output import say_error
from symcache.errors import InputError, SymcacheError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LazyGroup", "main", "root"]


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


_COMMANDS = {
    "warm": "Fill the store with what the inputs need; report what is missing.",
    "check": "Report what the inputs need and the store lacks; uses no network.",
    "scan": "List the modules of the inputs and their keys; uses neither network nor store.",
    "fetch": "Fetch single files by index; print their paths.",
    "inspect": "Show identity and health of one file.",
    "missing": "List files that no server has; request them again, or forget the answers.",
    "path": "Print the symbol path for a debugger.",
    "servers": "List known and configured symbol servers; test them.",
    "store": "Manage stores: publish, list, verify, prune, convert.",
    "export": "Pack symbols into a bundle for a machine without a network.",
    "import": "Import a bundle into the store.",
    "serve": "Serve the store and its symbol servers over HTTP.",
    "demo": "Run the whole job on this machine alone, without internet or Windows.",
}


@click.group(
    cls=LazyGroup,
    package="symcache.cli",
    summaries=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # The reader of the output has closed it. Nothing more can be written to it, at exit neither.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # noqa: BLE001 - the outermost edge: no traceback reaches a user unasked
        code = _explain(_innermost(error), is_verbose=bool({"-v", "--verbose"}.intersection(arguments)))
    if code == 130:
        _leave_at_once()
    gc.freeze()  # at its end Python would look through every object for garbage: a tenth of a short run
    sys.exit(code if isinstance(code, int) else 0)


def _innermost(error: Exception) -> Exception:
    """Return the error that a task group raised, which counts for the group: whatever came with it came of it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _explain(error: Exception, *, is_verbose: bool) -> int:
    """Say in one line what went wrong; return the exit code."""
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
