"""``symcache demo``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import click

from symcache.cli.options import color_option, json_option
from symcache.cli.output import plain, say, say_error, write_json, write_line, write_table
from symcache.cli.progress import show_progress
from symcache.cli.rehearsal import Rehearsal, find_deviations, rehearse
from symcache.cli.reporttext import write_report
from symcache.errors import StoreError, UsageError
from symcache.synth.session import SESSION, make_published, write_inputs
from symcache.synth.upstream import LoopbackUpstream

__all__ = ["command"]

_NEXT = (
    ("symcache warm MEMORY.DMP", "fetch what your own dump needs, all at once, and see what does not exist"),
    ("symcache check MEMORY.DMP", "see, without a network, whether anything is missing"),
    ("symcache path", "the symbol path to give to the debugger"),
)


@click.command()
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Fill DIR and keep it, instead of a temporary store.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep all of it in DIR, a new folder: the dump, the drivers and the store, to go on with a debugger.",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the result and errors.")
@click.option("-v", "--verbose", is_flag=True, help="List every file, not only what is missing.")
@color_option
def command(store: Path | None, keep: Path | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Run the whole job on this machine alone: no internet, no Windows, no settings.

    A server on loopback that behaves like Microsoft's is stocked with made-up symbols of a Windows Server 2008
    session; a folder of its drivers and a kernel dump are what is given. All but one PDB can be had.
    """
    note = (lambda _text: None) if quiet else say
    with TemporaryDirectory(prefix="symcache-demo-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder) if keep is None else _make_folder(keep)
        note("making a kernel dump, the drivers of the machine, and a symbol server on loopback")
        published = make_published()
        inputs = write_inputs(scratch)
        with LoopbackUpstream(published) as upstream, show_progress(quiet=quiet) as observer:
            note(f"symcache warm {' '.join(path.name for path in inputs)}")
            place = Rehearsal(upstream.url, (store or scratch / "store").absolute(), Path(folder, "misses"))
            report = anyio.run(rehearse, place, inputs, observer)
        deviations = list(find_deviations(report, SESSION, published))
    if as_json:
        write_json(report.as_json())
    else:
        write_report(report, quiet=quiet, verbose=verbose)
    for deviation in deviations:
        say_error(deviation)
    if deviations:
        raise click.exceptions.Exit(1)
    if not (as_json or quiet):
        _say_what_next(kept=store is not None or keep is not None)
        if keep is not None:
            dump, path = keep.absolute() / inputs[-1].name, f"srv*{(store or keep / 'store').absolute()}"
            write_line(plain(f"On with a debugger: windbg -z {dump} -y {path}, then .reload /f and lm"))


def _make_folder(keep: Path) -> Path:
    """Return *keep*, made.

    Raises:
        UsageError: It holds something already.
        StoreError: It cannot be made.
    """
    try:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise UsageError(f"{keep} is not empty; name a new folder")
    except OSError as error:
        raise StoreError(error.strerror or str(error), path=keep) from error
    return keep


def _say_what_next(*, kept: bool) -> None:
    kept_text = "is kept" if kept else "was temporary and is gone; --store DIR or --keep DIR keeps it"
    write_line()
    missing = ", ".join(module.pdb.name for module in SESSION if not module.is_published)
    write_line(f"As expected: {missing} is published nowhere, every other PDB is in the store, byte for byte.")
    write_line(f"The store {kept_text}. Now with your own:")
    write_table(("", *step) for step in _NEXT)
