"""The root command, and the outermost edge where errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

import click

from symcache._version import __version__
from symcache.cli.lazygroup import LazyGroup
from symcache.cli.output import say_error
from symcache.errors import InputError, SymcacheError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "root"]

_COMMANDS = {
    "warm": "Fill the store with what the inputs need; report what is missing.",
    "check": "Report what the inputs need and the store lacks; no network.",
    "scan": "List the modules of the inputs and their keys; no network, no store.",
    "fetch": "Fetch single files by index; print where they lie.",
    "inspect": "Show identity and health of one file.",
    "missing": "What upstreams do not have: list, ask again, forget.",
    "path": "The symbol path to give to a debugger.",
    "servers": "Symbol servers known and configured.",
    "store": "Look after stores: publish, list, verify, prune, convert.",
    "export": "Pack symbols into a bundle for a machine without a network.",
    "import": "Take a bundle into the store.",
    "serve": "Serve the store and its upstreams over HTTP.",
    "demo": "The whole job on this machine alone, without internet or Windows.",
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
        # Whoever read the result has had enough. Nothing more can be said to them, at exit neither.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # noqa: BLE001 - the outermost edge: no traceback reaches a user unasked
        code = _explain(_innermost(error), is_verbose=bool({"-v", "--verbose"}.intersection(arguments)))
    if code == 130:
        _leave_at_once()
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
        traceback.print_exception(error)
    return 1


def _leave_at_once() -> NoReturn:
    """End an interrupted process without waiting for threads: one that reads a pipe cannot be told to stop."""
    say_error("interrupted; what was fetched is kept")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(130)
