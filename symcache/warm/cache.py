"""The public face: a symbol cache for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from symcache.config import load_config
from symcache.events import ignore
from symcache.identity import parse_index
from symcache.inputs.records import OF_COMPLETE_DUMPS
from symcache.stores.source import SymbolSource
from symcache.warm.plan import ImageChoice, Plan
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.identity import Key
    from symcache.inputs.records import ProcessSelection
    from symcache.stores.results import Outcome
    from symcache.warm.report import Report

__all__ = ["SymbolCache"]


class SymbolCache:
    """A symbol path, opened: fetch single files, or all that dumps, images and manifests need.

    Use it as an asynchronous context manager, on asyncio or trio:

        async with SymbolCache.open("srv*/tmp/sym*https://msdl.microsoft.com/download/symbols") as cache:
            outcome = await cache.fetch("ntdll.pdb/6B9E5E8038E2420E8E7C62EA60DDB0692/ntdll.pdb")
            report = await cache.warm(["MEMORY.DMP"])

    Args:
        config: Every setting, as `symcache.load_config` reads them.
        observer: Told about transfers and files that are settled.
    """

    def __init__(self, config: Config, *, observer: Observer = ignore) -> None:
        self._config = config
        self._observer = observer
        self._opened: SymbolSource | None = None

    @classmethod
    def open(
        cls, symbol_path: str | None = None, *, store: Path | str | None = None, observer: Observer = ignore
    ) -> Self:
        """Return a cache on *symbol_path*; without one, on what the environment and the config file say.

        Args:
            symbol_path: As ``_NT_SYMBOL_PATH`` has it.
            store: Folder to fill in place of the bottom-most store.
            observer: Told about transfers and files that are settled.

        Raises:
            SymbolPathError: *symbol_path* is not one.
            ConfigError: The config file or the environment cannot be used.
        """
        config = load_config(symbol_path=symbol_path, store=None if store is None else Path(store))
        return cls(config, observer=observer)

    async def fetch(self, key: Key | str) -> Outcome:
        """Return how the search for one file ended; see `Present`, `Fetched`, `Missing` and `Failed`.

        Args:
            key: A key, or an index as text.

        Raises:
            MalformedInput: A text that is not an index.
        """
        return await self._source.fetch(parse_index(key) if isinstance(key, str) else key)

    async def warm(
        self,
        inputs: Iterable[Path | str] | Path | str,
        *,
        images: ImageChoice | str = ImageChoice.AUTO,
        all_pdbs: bool = False,
        processes: ProcessSelection | None = OF_COMPLETE_DUMPS,
    ) -> Report:
        """Fetch what *inputs* need: dumps, images, folders, PDBs, manifests, debugger logs.

        Args:
            inputs: A path or several; what each is, its content says.
            images: Which images are wanted, too: ``auto``, those that a debugger asks for because the inputs do not
                hold them; ``all``; ``none``.
            all_pdbs: Fetch every PDB an image names, not only the one that debuggers ask for.
            processes: Processes of kernel dumps whose modules count; None for none.
        """
        with self._warmer(images, all_pdbs=all_pdbs) as warmer:
            return await warmer.warm(warmer.open_inputs(_paths(inputs), processes))

    async def check(
        self,
        inputs: Iterable[Path | str] | Path | str,
        *,
        images: ImageChoice | str = ImageChoice.AUTO,
        all_pdbs: bool = False,
        processes: ProcessSelection | None = OF_COMPLETE_DUMPS,
    ) -> Report:
        """Return what *inputs* need and whether it is there; no network. The arguments are those of `warm`."""
        with self._warmer(images, all_pdbs=all_pdbs) as warmer:
            return await warmer.check(warmer.open_inputs(_paths(inputs), processes))

    def _warmer(self, images: ImageChoice | str, *, all_pdbs: bool) -> Warmer:
        return Warmer(self._source, Plan(images=ImageChoice(images), all_pdbs=all_pdbs), observer=self._observer)

    async def __aenter__(self) -> Self:
        """Open the symbol path.

        Raises:
            ConfigError: A place of it cannot be reached from this system.
        """
        self._opened = await SymbolSource(self._config, observer=self._observer).__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        source, self._opened = self._source, None
        await source.__aexit__(kind, error, traceback)

    @property
    def _source(self) -> SymbolSource:
        if self._opened is None:
            raise RuntimeError("a SymbolCache is opened by `async with`")
        return self._opened


def _paths(inputs: Iterable[Path | str] | Path | str) -> Iterable[Path | str]:
    # A text is an iterable of texts, too, so that no type checker warns of one path given as it is.
    return [inputs] if isinstance(inputs, Path | str) else inputs
