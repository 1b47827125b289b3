"""Who made the modules whose files are missing, and what that says of the chance to find these somewhere."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.formats.pe.version import dotted
from symcache.identity import fold
from symcache.inputs.records import ImageUse, RuntimeKind
from symcache.inputs.runtimes import PRIVATE_VERSION, runtime_of
from symcache.inputs.versions import read_versions
from symcache.stores.http.servers import SERVERS
from symcache.stores.results import Attempt, Cause, Hint, Missing
from symcache.warm.plan import kind_of
from symcache.warm.report import Symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import ImageKey, Key
    from symcache.inputs.records import Input, Module, Runtime
    from symcache.stores.disk import DiskSource
    from symcache.stores.negative import Miss
    from symcache.stores.results import Outcome


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made a module; *is_presumed* if only its name tells."""

    name: str
    is_presumed: bool = False

    @property
    def is_microsoft(self) -> bool:
        """Microsoft, whose public server is asked anyway."""
        return "microsoft" in self.name.casefold()

    @property
    def server(self) -> str | None:
        """URL of this maker's own public symbol server, if one is known."""
        folded = self.name.casefold()
        return next((url for word, url in _SERVERS.items() if re.search(rf"\b{word}\b", folded)), None)


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a module whose file is not at hand, as far as somebody needs it to look for that file."""

    maker: Maker | None = None
    version: VersionInfo | None = None
    image: ImageKey | None = None
    path: str | None = None  # where the input says that the module lies
    windows: str | None = None  # version of the system that it ran on: ``10.0.19041``
    windows_build: int | None = None

    @property
    def number(self) -> str | None:
        """The file's version in four numbers; None if it is not known."""
        numbers = None if self.version is None else self.version.file_numbers
        return None if numbers is None else dotted(numbers)


_WORDS = {
    "nvidia": "NVIDIA",
    "advanced micro devices": "AMD",
    "amd": "AMD",
    "intel": "Intel",
    "mozilla": "Mozilla",
    "google": "Chromium",
    "chromium": "Chromium",
    "unity technologies": "Unity",
    "citrix": "Citrix",
    "autodesk": "Autodesk",
    "github": "Electron",
    "document foundation": "LibreOffice",
    "mcneel": "Rhino",
}
_URLS = {server.name: server.url for server in SERVERS}
_SERVERS = {word: _URLS[name] for word, name in _WORDS.items()}

# Drivers that crashes are often about, by the begin of their names, for dumps that hold nothing else of them: what
# their version resources say.
_BY_NAME = (
    (re.compile(r"nv(?:lddmkm|haldc?|vad|pci|stor|module)"), "NVIDIA Corporation"),
    (re.compile(r"(?:atikm|amdkm|atihd|amdpsp|amdgpio|amdacp)"), "Advanced Micro Devices, Inc."),
    (re.compile(r"(?:igdkmd|iastor|intcdaud|e1[cdgikqry]\d\d|netwtw|netwsw|ibtusb|teedriver)"), "Intel Corporation"),
    (re.compile(r"(?:rt\d{3,4}x64|rt\d{2}cx21|rtkvhd|rtux64|rtwlan)"), "Realtek"),
    (re.compile(r"(?:vm3dmp|vmci|vmmemctl|vmhgfs|vmxnet|vsock|vmnet)"), "VMware, Inc."),
    (re.compile(r"vbox"), "Oracle Corporation"),
    (re.compile(r"(?:vio(?:stor|scsi|ser|input|rng|gpu)|netkvm|balloon\.)"), "Red Hat, Inc."),
    (re.compile(r"(?:bcmwl|b57nd|bxnd)"), "Broadcom Corporation"),
    (re.compile(r"(?:athw|athr|qca)"), "Qualcomm Atheros"),
    (re.compile(r"(?:csagent|csboot|csdevice)"), "CrowdStrike, Inc."),
    (re.compile(r"(?:klif|klim|kneps|klhk)"), "AO Kaspersky Lab"),
    (re.compile(r"(?:mbam|mwac|farflt)"), "Malwarebytes"),
    (re.compile(r"(?:symefa|symnets|srtsp)"), "Symantec Corporation"),
    (re.compile(r"(?:aswsp|aswsnx|aswmonflt|asw[a-z]+\.sys)"), "AVAST Software"),
)

# The last release of Windows whose public symbols are known here; they come with a release, or days after it.
_NEWEST_RELEASE = 26200

# SafeDisc's driver.
_NEVER_PUBLISHED = {"secdrv.sys": Maker("Macrovision", is_presumed=True)}

_ABSENT = frozenset({Cause.NOT_PUBLISHED, Cause.REMEMBERED_MISS, Cause.IMAGE_NOT_PUBLISHED, Cause.NOT_CACHED})
# Hints that say less than what a runtime's library is.
_OF_RUNTIMES = frozenset({None, Hint.NEW_BUILD, Hint.MICROSOFT, Hint.PRIVATE_BUILD, Hint.THIRD_PARTY})


def maker_of(module: str, version: VersionInfo | None) -> Maker | None:
    """Return who made *module*: by its version resource, else by its name; None if neither tells."""
    if version is not None and version.company:
        return Maker(version.company)
    name = fold(module)
    if name in _NEVER_PUBLISHED:
        return _NEVER_PUBLISHED[name]
    return next((Maker(maker, is_presumed=True) for start, maker in _BY_NAME if start.match(name)), None)


def hint_of(module: str, outcome: Outcome, origin: Origin) -> Hint | None:
    """Return what *origin* says of a file that is *Missing*, where that calls for other advice than its cause.

    Sources: Microsoft's bulletin MS15-097 for secdrv.sys, the driver of SafeDisc, which Windows does not load any more.
    """
    if not isinstance(outcome, Missing) or outcome.cause not in _ABSENT or outcome.hint is not None:
        return None
    if any(attempt.answer.startswith("MSG:") for attempt in outcome.attempts):
        return Hint.WITHDRAWN
    if fold(module) in _NEVER_PUBLISHED:
        return Hint.NEVER_PUBLISHED
    if outcome.cause is Cause.NOT_CACHED:
        return None
    if origin.maker is not None and origin.maker.is_microsoft:
        # Some of Microsoft's own releases are marked as private builds.
        return Hint.NEW_BUILD if (origin.windows_build or 0) > _NEWEST_RELEASE else Hint.MICROSOFT
    if origin.version is not None and origin.version.is_private:
        return Hint.PRIVATE_BUILD
    return None if origin.maker is None else Hint.THIRD_PARTY


def _runtime_hint(outcome: Outcome, origin: Origin, runtime: Runtime | None) -> Hint | None:
    """Return what is to be done about a missing library of a .NET *runtime*, of which None is known for sure.

    A program that holds its runtime is its maker's, whoever built the runtime.
    """
    if not isinstance(outcome, Missing) or outcome.cause not in _ABSENT or outcome.cause is Cause.NOT_CACHED:
        return None
    numbers = None if origin.version is None else origin.version.file_numbers
    is_private = PRIVATE_VERSION in {numbers, None if runtime is None else runtime.version}
    is_program = runtime is not None and runtime.kind is RuntimeKind.SINGLE_FILE
    is_others = origin.maker is not None and not origin.maker.is_microsoft and not is_program
    return Hint.PRIVATE_RUNTIME if is_private or is_others else Hint.RUNTIME


def symbol_of(
    key: Key,
    misses: Iterable[Miss],
    image: ImageKey | None = None,
    find_version: Callable[[ImageKey], VersionInfo | None] = lambda _: None,
) -> Symbol:
    """Return *key*'s file, which every server lacks as *misses* say: what a run would say of it.

    Where no run has said who made its module, *find_version* is asked about *image*, which names the file; it may raise
    `StoreError`. Else the name tells.
    """
    misses, wanted = tuple(misses), None
    for miss in misses:
        wanted = miss.wanted or wanted
    # Drivers are known by their names, and a PDB mostly has that of its module.
    named = (wanted.module if wanted is not None else None) or (key if image is None else image).name
    module = re.sub(r"(?i)\.pdb$", ".sys", named)
    version = None
    if wanted is not None and wanted.maker:
        maker: Maker | None = Maker(wanted.maker)
    else:
        with suppress(StoreError):
            version = None if image is None else find_version(image)
        maker = maker_of(module, version)
    origin = Origin(maker, version, image)
    attempts = tuple(Attempt(miss.upstream, miss.answer) for miss in misses)
    outcome = Missing(Cause.NOT_PUBLISHED, attempts, hint=None if wanted is None else wanted.hint)
    hint = outcome.hint or hint_of(module, outcome, origin)
    return Symbol(key.index, kind_of(key), module, replace(outcome, hint=hint), origin=origin)


def explain(
    symbols: Sequence[Symbol],
    modules: Mapping[str, tuple[Input, Module]],
    source: DiskSource | None,
    published: Mapping[ImageKey, VersionInfo],
) -> list[Symbol]:
    """Return *symbols*, each that is wanting with its origin, and with other advice where that calls for it.

    Args:
        symbols: Of a whole report.
        modules: The module that needs a file, and its input, by the file's folded index; by the module's folded name
            if it names no file.
        source: Where images may lie; version resources are read there and in the inputs again. None reads nothing.
        published: What servers were found to have in the images that lie nowhere here.
    """

    def module_of(symbol: Symbol) -> tuple[Input, Module] | None:
        return modules.get(fold(symbol.module if symbol.index is None else symbol.index))

    versions: dict[Module, VersionInfo] = {}
    if source is not None:
        of_inputs: dict[str, dict[Module, None]] = {}
        for known in filter(None, (module_of(symbol) for symbol in symbols if symbol.is_wanting)):
            of_inputs.setdefault(known[0].path, {})[known[1]] = None
        for path, some in of_inputs.items():
            versions |= read_versions(path, some)

    def origin_of(symbol: Symbol) -> Origin:
        known = module_of(symbol)
        if known is None:
            return Origin(maker_of(symbol.module, None))
        input_, module = known
        version = versions.get(module, module.version)
        is_unsaid = version is None or (runtime_of(module) is not None and version.company is None)
        if is_unsaid and source is not None and module.image is not None:
            # A minidump's list of modules has numbers alone, and whose build a runtime is decides what can be done.
            with suppress(StoreError):
                version = source.find_version(module.image) or published.get(module.image) or version
        build = input_.details.get("build")
        windows = input_.details.get("version") or (None if build is None else f"build {build}")
        return Origin(maker_of(module.name, version), version, module.image, module.path, windows, build)

    def explained(symbol: Symbol) -> Symbol:
        origin, outcome = origin_of(symbol), symbol.outcome
        hint = hint_of(symbol.module, outcome, origin)
        if symbol.use is ImageUse.DATA_ACCESS and hint in _OF_RUNTIMES:
            known = module_of(symbol)
            runtime = None if known is None else runtime_of(known[1])
            hint = _runtime_hint(outcome, origin, runtime)
        if hint is not None and isinstance(outcome, Missing):
            outcome = replace(outcome, hint=hint)
        return replace(symbol, origin=origin, outcome=outcome)

    return [explained(symbol) if symbol.is_wanting else symbol for symbol in symbols]
