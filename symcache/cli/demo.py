"""``symcache demo``: the whole job with an upstream of our own, and whether it came out as it must."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import click
from click.exceptions import Exit

from symcache.cli.options import color_option, folder_option, json_option, quiet_option
from symcache.cli.output import progress_option, say, say_error, show_progress, write_json, write_line, write_table
from symcache.cli.warm import write_report
from symcache.config import Config, MissSettings, Network, ServerEntry, StoreSettings
from symcache.errors import UsageError
from symcache.identity import fold
from symcache.stores.local.atomic import store_errors
from symcache.stores.results import Cause, Fetched, Present
from symcache.sympath import ChainElement, HttpPlace, LocalPlace, SymbolPath
from symcache.synth.session import SESSION, make_published, write_inputs
from symcache.warm.local import LocalRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from symcache.events import Observer
    from symcache.synth.session import SessionModule
    from symcache.warm.report import Report, Symbol

_NEXT = (
    ("symcache warm MEMORY.DMP", "fetch what your own dump needs, all at once, and see what does not exist"),
    ("symcache check MEMORY.DMP", "see, without a network, whether anything is missing"),
    ("symcache path", "the symbol path to give to the debugger"),
)


@click.command()
@folder_option("--store", "Fill DIR and keep it, instead of a temporary store.")
@folder_option(
    "--keep", "Keep all of it in DIR, a new folder: the dump, the drivers and the store, to go on with a debugger."
)
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="List every file, not only what is missing.")
@progress_option
@color_option
def demo_command(store: Path | None, keep: Path | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Run the whole job on this machine alone: no internet, no Windows, no settings.

    A server on loopback that behaves like Microsoft's is stocked with made-up symbols of a Windows Server 2008
    session; a folder of its drivers and a kernel dump are what is given. All but one PDB can be had.
    """
    import anyio  # noqa: PLC0415 - neither help nor a shell that completes needs the network

    from symcache.synth.upstream import LoopbackUpstream  # noqa: PLC0415

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
        raise Exit(1)
    if not (as_json or quiet):
        _say_what_next(kept=store is not None or keep is not None)
        if keep is not None:
            dump, path = keep.absolute() / inputs[-1].name, f"srv*{(store or keep / 'store').absolute()}"
            write_line(f"On with a debugger: windbg -z {dump} -y {path}, then .reload /f and lm")


def _make_folder(keep: Path) -> Path:
    with store_errors(keep):
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise UsageError(f"{keep} is not empty; name a new folder")
    return keep


def _say_what_next(*, kept: bool) -> None:
    write_line()
    missing = ", ".join(module.pdb.name for module in SESSION if not module.is_published)
    write_line(f"As expected: {missing} is published nowhere, every other PDB is in the store, byte for byte.")
    kept_text = "is kept" if kept else "was temporary and is gone; --store DIR or --keep DIR keeps it"
    write_line(f"The store {kept_text}. Now with your own:")
    write_table(("", *step) for step in _NEXT)


class Rehearsal(NamedTuple):
    """The upstream, the store to fill, and a folder for remembered misses: the user's own is left alone."""

    url: str
    store: Path
    memory: Path

    @property
    def config(self) -> Config:
        """Settings that owe nothing to the user's: no file, no environment, no proxy."""
        return Config(
            symbol_path=SymbolPath((ChainElement((LocalPlace(str(self.store)), HttpPlace(self.url))),)),
            store=StoreSettings(folder=self.store),
            network=Network(proxy="", backoff_s=0.05, retries=2),
            misses=MissSettings(folder=self.memory),
            # What is known of Microsoft's server holds for one that behaves like it.
            server=(ServerEntry(self.url, compressed=False, two_tier=False),),
        )


async def rehearse(rehearsal: Rehearsal, inputs: Sequence[Path], observer: Observer) -> Report:
    """Warm the store with what *inputs* need, through the code that ``symcache warm`` runs."""
    from symcache.stores.source import SymbolSource  # noqa: PLC0415
    from symcache.warm.run import Warmer  # noqa: PLC0415

    async with SymbolSource(rehearsal.config, observer=observer) as source:
        with LocalRun(source, observer=observer) as run:
            return await Warmer(source, run).warm(run.open_inputs(inputs))


def find_deviations(report: Report, modules: Sequence[SessionModule], published: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what came out otherwise than it must with inputs that hold *modules*, one line each.

    Every PDB that is published must be in the store, byte for byte, and so must images that the dump lacks; every other
    PDB must be missing because it is not published; and nothing else may have been wanted. *published* are the right
    files, by index; not what the upstream was given, which may have come to harm.
    """
    left = {fold(symbol.index or symbol.module): symbol for symbol in report.symbols}
    for module in modules:
        symbol = left.pop(module.pdb.folded, None)
        if symbol is None:
            yield f"{module.pdb.index}: it was not requested"
        elif module.is_published:
            yield from _compare(symbol, published[module.pdb.index])
        elif symbol.cause is not Cause.NOT_PUBLISHED:
            yield f"{module.pdb.index}: {symbol.cause or symbol.state}, but it is not published"
        # Its debug directory is not in the dump, so that a debugger asks for the image first.
        if module.is_paged_out and (image := left.pop(module.image.folded, None)) is not None:
            yield from _compare(image, published[module.image.index])
    for symbol in left.values():
        yield f"{symbol.index or symbol.module}: {symbol.cause or symbol.state}, but it is not needed"
    for item in report.unreadable:
        yield f"{item.path}: {item.problem}"


def _compare(symbol: Symbol, right: bytes) -> Iterator[str]:
    outcome = symbol.outcome
    if not isinstance(outcome, Present | Fetched):
        yield f"{symbol.index}: {outcome.cause}, but it is published"
    elif outcome.path.read_bytes() != right:
        yield f"{symbol.index}: the store's file is not the one that is published"
