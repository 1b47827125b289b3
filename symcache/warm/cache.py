"""The public face: a symbol cache for programs, asynchronous and not."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from anyio import to_thread
from anyio.from_thread import start_blocking_portal

from symcache.config import load_config
from symcache.errors import UsageError
from symcache.events import ignore
from symcache.identity import parse_index
from symcache.inputs.detect import InputOptions, InputSource, ModuleSource, copy_input, open_inputs
from symcache.inputs.records import (
    OF_COMPLETE_DUMPS,
    CrashStack,
    Input,
    InputKind,
    Module,
    ProcessSelection,
    ProcessSummary,
    Unreadable,
)
from symcache.stores.documents import DocumentCache, answered
from symcache.stores.source import SymbolSource
from symcache.warm.inspect import DeepWish, Inspection, inspect_file
from symcache.warm.local import LocalRun
from symcache.warm.plan import ImageChoice, Plan
from symcache.warm.run import Warmer
from symcache.warm.servers import ListedServer, list_servers, probe_listed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Concatenate, Self

    from anyio.from_thread import BlockingPortal

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.identity import Key
    from symcache.stores.results import Outcome
    from symcache.warm.report import Report

    Inputs: TypeAlias = Iterable[InputSource] | InputSource

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scan:
    """What inputs hold, in their order; *processes* are those of dumps whose modules were asked for.

    *stacks* say what the crashes of dumps are about.
    """

    inputs: tuple[Input, ...] = ()
    modules: tuple[Module, ...] = ()
    processes: tuple[ProcessSummary, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    stacks: tuple[CrashStack, ...] = ()


class SymbolCache:
    """A symbol path, opened: fetch single files, or all that dumps, images and manifests need.

    Use it as an asynchronous context manager, on asyncio or trio:

        async with SymbolCache.open("srv*/tmp/sym*https://msdl.microsoft.com/download/symbols") as cache:
            outcome = await cache.fetch("ntdll.pdb/6B9E5E8038E2420E8E7C62EA60DDB0692/ntdll.pdb")
            report = await cache.warm(["MEMORY.DMP"])

    An input is a path, or what a file holds: bytes or a binary file object, alone or as a pair behind its name, or a
    `ModuleSource`, which finds its modules itself. Every setting is in *config*, as `symcache.load_config` reads them;
    *observer* is told about transfers and files that are settled.
    """

    def __init__(self, config: Config, *, observer: Observer = ignore) -> None:
        self._config = config
        self._observer = observer
        self._opened: SymbolSource | None = None

    @classmethod
    def open(
        cls, symbol_path: str | None = None, *, store: Path | str | None = None, observer: Observer = ignore
    ) -> Self:
        """Return a cache on *symbol_path*, written as ``_NT_SYMBOL_PATH`` is; the bottom-most store is *store*.

        What is not given, the environment and the config file say.

        Raises:
            SymbolPathError: *symbol_path* is not one.
            ConfigError: The config file or the environment cannot be used.
        """
        return cls(_load(symbol_path, store), observer=observer)

    async def fetch(self, key: Key | str) -> Outcome:
        """Return how the search for the file of *key*, or of an index, ended.

        See `Present`, `Fetched`, `Missing` and `Failed`.

        Raises:
            MalformedInput: A text that is not an index.
        """
        return await self._source.fetch(parse_index(key) if isinstance(key, str) else key)

    async def warm(
        self,
        inputs: Inputs,
        *,
        images: ImageChoice | str = ImageChoice.AUTO,
        all_pdbs: bool = False,
        processes: ProcessSelection | None = OF_COMPLETE_DUMPS,
        stack_only: bool = False,
        sets: Sequence[str] = (),
    ) -> Report:
        """Fetch what *inputs*, one or several, need: dumps, images, folders, PDBs, manifests, debugger logs.

        Images are wanted, too: those that a debugger asks for because the inputs do not hold them (``auto``), ``all``
        or ``none``. *all_pdbs* wants every PDB an image names, not only the one that debuggers ask for; of kernel dumps
        the modules of *processes* count, too. What the modules on a crash's stack need comes first; *stack_only* wants
        nothing else, and `Report.lacks_stack` says if there was none. With *sets* only modules of these sets
        count.
        """
        with self._run(images, all_pdbs=all_pdbs, stack_only=stack_only) as run:
            return await Warmer(self._source, run).warm(run.open_inputs(_each(inputs), processes, sets))

    async def check(
        self,
        inputs: Inputs,
        *,
        images: ImageChoice | str = ImageChoice.AUTO,
        all_pdbs: bool = False,
        processes: ProcessSelection | None = OF_COMPLETE_DUMPS,
        stack_only: bool = False,
        sets: Sequence[str] = (),
    ) -> Report:
        """Return what *inputs* need and whether it is there; no network. The arguments are those of `warm`."""
        with self._run(images, all_pdbs=all_pdbs, stack_only=stack_only) as run:
            return await Warmer(self._source, run).check(run.open_inputs(_each(inputs), processes, sets))

    async def scan(
        self,
        inputs: Inputs,
        *,
        processes: ProcessSelection | None = OF_COMPLETE_DUMPS,
        sets: Sequence[str] = (),
    ) -> Scan:
        """Return what *inputs* hold, with *sets* modules of these alone; no network, no store.

        `read_input` yields the same piece by piece.
        """
        options = InputOptions(processes, tuple(sets), self._config.sets, self._config.builds, self._config.inputs)
        return await to_thread.run_sync(_scan, _each(inputs), options, abandon_on_cancel=True)

    async def processes(self, dump: InputSource) -> tuple[ProcessSummary, ...]:
        """Return the processes of a kernel dump that holds their memory; none of other inputs."""
        return (await self.scan([dump], processes=ProcessSelection())).processes

    async def inspect(
        self, source: InputSource, *, streams: bool = False, publics: int = 0, types: int = 0
    ) -> Inspection:
        """Return all that can be told of one file; whatever is wrong with it is in there, too.

        With pdbparse, also the length of every stream of a PDB, so many of its public symbols and names of structures.

        Raises:
            UsageError: pdbparse is needed and not installed, the file is none that it reads, or *source* is no file.
        """
        return await to_thread.run_sync(_inspect, source, DeepWish(streams, publics, types), abandon_on_cancel=True)

    async def servers(self, *, probe: bool = False, timeout_s: float = 10.0) -> list[ListedServer]:
        """Return the symbol servers that are known and configured, those of the symbol path first.

        To *probe* is to return those of the symbol path alone, and to ask each for a file that cannot exist.
        """
        listed = list_servers(self._config)
        if not probe:
            return listed
        return await probe_listed([each for each in listed if each.is_in_path], self._config, timeout_s=timeout_s)

    def _run(self, images: ImageChoice | str, *, all_pdbs: bool, stack_only: bool) -> LocalRun:
        plan = Plan(images=ImageChoice(images), all_pdbs=all_pdbs, stack_only=stack_only)
        return LocalRun(self._source, plan, observer=self._observer)

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


def _waiting(
    method: Callable[Concatenate[SymbolCache, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncSymbolCache, P], T]:
    @wraps(method)
    def wait(self: SyncSymbolCache, /, *args: P.args, **options: P.kwargs) -> T:
        return self._wait(lambda cache: method(cache, *args, **options))

    return wait


class SyncSymbolCache:
    """A `SymbolCache` for scripts and notebooks: its methods wait for their results.

    The work is done on an event loop of its own, in a thread of its own, so that it can be used from a thread that runs
    an event loop, too; that loop is blocked during a call. Thread-safe. The symbol path is opened by the first call
    that needs it; `close`, or the end of a ``with`` block, closes it.

        with SyncSymbolCache.open() as cache:
            report = cache.warm("MEMORY.DMP")
    """

    def __init__(self, config: Config, *, observer: Observer = ignore) -> None:
        self._config = config
        self._observer = observer
        self._lock = threading.Lock()
        self._closing = ExitStack()
        self._opened: tuple[BlockingPortal, SymbolCache] | None = None

    @classmethod
    def open(
        cls, symbol_path: str | None = None, *, store: Path | str | None = None, observer: Observer = ignore
    ) -> Self:
        """Return a cache on *symbol_path*; see `SymbolCache.open`."""
        return cls(_load(symbol_path, store), observer=observer)

    fetch = _waiting(SymbolCache.fetch)
    warm = _waiting(SymbolCache.warm)
    check = _waiting(SymbolCache.check)
    scan = _waiting(SymbolCache.scan)
    processes = _waiting(SymbolCache.processes)
    inspect = _waiting(SymbolCache.inspect)
    servers = _waiting(SymbolCache.servers)

    def close(self) -> None:
        """Close the symbol path and end the thread; safe to call twice, and another call opens it again."""
        with self._lock:
            self._opened = None
            self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, work: Callable[[SymbolCache], Awaitable[T]]) -> T:
        portal, cache = self._open()
        future = portal.start_task_soon(partial(work, cache))
        try:
            return future.result()
        finally:
            future.cancel()  # who was interrupted while waiting wants no result

    def _open(self) -> tuple[BlockingPortal, SymbolCache]:
        with self._lock:
            if self._opened is None:
                with ExitStack() as stack:
                    portal = stack.enter_context(start_blocking_portal())
                    cache = SymbolCache(self._config, observer=self._observer)
                    stack.enter_context(portal.wrap_async_context_manager(cache))
                    self._opened = portal, cache
                    self._closing = stack.pop_all()
            return self._opened


def _load(symbol_path: str | None, store: Path | str | None) -> Config:
    return load_config(symbol_path=symbol_path, store=None if store is None else Path(store))


def _each(inputs: Inputs) -> Iterable[InputSource]:
    # Texts, bytes and file objects are iterable, too, and so is a name with its content.
    is_pair = isinstance(inputs, tuple) and len(inputs) == 2 and not isinstance(inputs[1], str | Path | tuple)
    is_one = is_pair or isinstance(inputs, str | Path | bytes | ModuleSource) or hasattr(inputs, "read")
    return [inputs] if is_one else inputs  # type: ignore[list-item,return-value]  # told apart above


def _scan(inputs: Iterable[InputSource], options: InputOptions) -> Scan:
    cache = DocumentCache(options.builds.cache, recheck_s=options.builds.recheck_s)
    records = list(answered(open_inputs(inputs, options), cache))
    return Scan(
        tuple(_once(record for record in records if isinstance(record, Input))),
        tuple(record for record in records if isinstance(record, Module)),
        tuple(record for record in records if isinstance(record, ProcessSummary)),
        tuple(record for record in records if isinstance(record, Unreadable)),
        tuple(record for record in records if isinstance(record, CrashStack)),
    )


def _once(inputs: Iterable[Input]) -> Iterator[Input]:
    """Yield *inputs* without archives that go on behind what lies in them."""
    seen: set[str] = set()
    for each in inputs:
        if each.kind is not InputKind.ARCHIVE or each.path not in seen:
            seen.add(each.path)
            yield each


def _inspect(source: InputSource, wish: DeepWish) -> Inspection:
    if isinstance(source, str | Path):
        return inspect_file(str(source), wish)
    if isinstance(source, ModuleSource):
        raise UsageError(f"{source.path}: this is no file; scan lists its modules")
    with TemporaryDirectory(prefix="symcache-") as folder:
        name, copy = copy_input(source, Path(folder))
        return replace(inspect_file(str(copy), wish), path=name)
