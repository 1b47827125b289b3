"""Symbol sources that touch nothing but a test's own folder, on a clock that runs only while somebody sleeps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import anyio.lowlevel

from support.synth.cab import SynthFolder, build_cabinet
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from symcache.config import Config, ServerEntry, values
from symcache.identity import ImageKey, PdbKey
from symcache.stores.negative import Misses
from symcache.stores.source import SymbolSource
from symcache.sympath import parse_symbol_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from support.upstream import Upstream
    from symcache.events import Event

__all__ = ["CAB", "IMAGE", "IMAGE_KEY", "KEY", "PATH", "PDB", "Clock", "Rig", "cabinet", "scratch_files", "visible"]

KEY = PdbKey("app.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 3)
PATH = KEY.index
PDB = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=30_000))

IMAGE_KEY = ImageKey("app.exe", 0x5E0B1234, 0x21000)
IMAGE = disk_bytes(replace(plan_image(IMAGE_KEY, KEY), payload_bytes=200_000))


def cabinet(content: bytes, name: str = "whatever.bin") -> bytes:
    """Return *content* as stores hold it compressed."""
    return build_cabinet([SynthFolder([(name, content)])])


CAB = cabinet(PDB)


class Clock:
    """Seconds that pass only by sleeping.

    Attributes:
        slept: Every pause so far.
    """

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await anyio.lowlevel.checkpoint()


class Rig:
    """Makes sources; what they tell is kept.

    Attributes:
        folder: Where everything lies.
        transport: What carries requests that go through no proxy.
        clock: What the sources sleep by.
        events: What they told.
    """

    def __init__(self, folder: Path, *, transport: str = "auto") -> None:
        self.folder = folder
        self.transport = transport
        self.clock = Clock()
        self.events: list[Event] = []

    def config(
        self,
        symbol_path: str,
        *,
        servers: Sequence[ServerEntry] = (),
        allow: tuple[str, ...] = (),
        unc: Mapping[str, Path] | None = None,
        exclude: tuple[str, ...] = (),
        two_tier: bool = False,
        parallel: values.ParallelRanges | None = None,
        **network: object,
    ) -> Config:
        """Return settings; what is not said here is as a user has it, but that no proxy is looked for."""
        options: dict[str, object] = {
            "proxy": "",
            "transport": self.transport,
            "parallel_ranges": parallel or values.ParallelRanges(),
            **network,
        }
        return Config(
            symbol_path=parse_symbol_path(symbol_path),
            store=values.StoreSettings(folder=self.folder / "default", two_tier=two_tier, durable=False),
            network=values.Network(**options),  # type: ignore[arg-type]
            misses=values.MissSettings(folder=self.folder / "misses"),
            pointers=values.Pointers(allow),
            unc=values.Unc(unc or {}),
            exclusions=values.Exclusions(exclude),
            server=tuple(servers),
        )

    def source(self, symbol_path: str, **options: object) -> SymbolSource:
        """Return a source that is not entered yet; *options* as for `config`."""
        config = self.config(symbol_path, **options)  # type: ignore[arg-type]
        return self.open(config)

    def open(self, config: Config) -> SymbolSource:
        return SymbolSource(config, observer=self.events.append, clock_s=self.clock, sleep=self.clock.sleep)

    def plain(self, upstream: Upstream, **options: object) -> SymbolSource:
        """Return a source with the store ``sym`` in front of *upstream*, which is known to have plain files alone."""
        entry = ServerEntry(url=upstream.url, compressed=False, two_tier=False)
        return self.source(f"srv*{self.store}*{upstream.url}", servers=(entry,), **options)

    @property
    def store(self) -> Path:
        return self.folder / "sym"

    def misses(self) -> list[str]:
        """Return the indexes that are remembered as missing."""
        with Misses(self.folder / "misses", ttl_s=3600) as misses:
            return [miss.index for miss in misses.list()]


def visible(root: Path) -> list[str]:
    """Return what debuggers can see below *root*, marks of a store left out."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in paths
        if ".symcache" not in path.parts and path.name not in {"pingme.txt", "index2.txt"}
    )


def scratch_files(root: Path) -> list[str]:
    """Return what lies below *root* out of debuggers' sight; the record of uses and the locked file stay for good."""
    files = (path for path in root.rglob(".symcache/**/*") if path.is_file())
    return sorted(path.name for path in files if path.parent.name != "access" and path.name != "keys")
