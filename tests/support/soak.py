"""What one of many processes does on a store that all of them use at once; run as ``python -m support.soak``."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import anyio

from support.synth.pdb import NativePdbSpec, make_pdb
from symcache import Fetched, PdbKey, Present, SymbolCache
from symcache.config import Config, MissSettings, Network, StoreSettings
from symcache.formats.cabinet import expand, open_cabinet
from symcache.formats.view import FileView
from symcache.stores.base import Form
from symcache.stores.check import StoredCheck
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store
from symcache.sympath import parse_symbol_path
from symcache.symstore.admin import Addition, Admin
from symcache.upkeep.inventory import take_inventory
from symcache.upkeep.prune import Limits, carry_out, plan_prune
from symcache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BUILT", "PUBLISHED", "ROLES", "content_of"]

_KEYS = tuple(PdbKey(f"{'abcdefgh'[number % 8]}file.pdb", UUID(int=number + 1), 1 + number % 3) for number in range(48))
PUBLISHED = _KEYS[:32]
"""What the upstream has."""
BUILT = _KEYS[24:]
"""What transactions bring; some of it is published, too."""


@cache
def content_of(key: PdbKey) -> bytes:
    """Return the one right file of *key*."""
    spec = NativePdbSpec(key.guid, key.age, payload_bytes=key.guid.int * 7919 % 150_000)
    return make_pdb(spec)


def add(store: Store, chance: random.Random, report: dict[str, list[object]]) -> Iterator[None]:
    """Publish a few files in each form, and take back half of what was published."""
    admin = Admin(store)
    mine: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for key in BUILT:
            Path(folder, f"{key.guid.int}").write_bytes(content_of(key))
        while True:
            keys = chance.sample(BUILT, 3)
            added = admin.add(
                [Addition(key, Path(folder, f"{key.guid.int}")) for key in keys],
                product="soak",
                compress=chance.random() < 0.3,
            )
            report["added"].append([added.id, [key.index for key in keys]])
            mine.append(added.id)
            yield
            if chance.random() < 0.6:
                id_ = mine.pop(chance.randrange(len(mine)))
                report["deleted"].append([admin.delete(id_).id, id_])
                yield


def prune(store: Store, chance: random.Random, report: dict[str, list[object]]) -> Iterator[None]:
    """Take away what no transaction names, some of it or all."""
    while True:
        plan = plan_prune(
            take_inventory(store), Limits(max_bytes=chance.choice([0, 500_000, 1_500_000])), now_s=time.time()
        )
        pruned = carry_out(store, plan)
        report["pruned"].append(pruned.removed_keys)
        yield


def check(store: Store, chance: random.Random, report: dict[str, list[object]]) -> Iterator[None]:
    """Verify the whole store; it may be found in the middle of a change, but no file may ever be wrong."""
    del chance
    while True:
        for finding in verify(store, StoredCheck(store), resume=False):
            report["findings"].append(finding.as_json())
        report["verified"].append(1)
        yield


def read(store: Store, chance: random.Random, report: dict[str, list[object]]) -> Iterator[None]:
    """Look files up as debuggers do, by their paths, and as symcache does, and read them to the end."""
    log = AccessLog(store)
    while True:
        key = chance.choice(_KEYS)
        with suppress(FileNotFoundError):
            _judge(key, (store.root / key.index).read_bytes(), report)
        found = store.find(key)
        with suppress(FileNotFoundError):  # gone since
            if found is not None and found.form is Form.PLAIN:
                _judge(key, found.path.read_bytes(), report)
            elif found is not None:
                with FileView(found.path) as view:
                    cabinet = open_cabinet(view)
                    _judge(key, b"".join(expand(cabinet, cabinet.members[0], limit_bytes=1 << 24)), report)
        if found is not None:
            log.touch_later(key)
        yield


def warm(store: Store, chance: random.Random, report: dict[str, list[object]], url: str, until_s: float) -> None:
    """Fetch what the upstream has, several at once."""
    config = Config(
        symbol_path=parse_symbol_path(f"srv*{store.root}*{url}"),
        store=StoreSettings(folder=store.root, durable=False),
        network=Network(proxy="", retries=1),
        misses=MissSettings(ttl_s=0),
    )

    async def fetch_all() -> None:
        async with SymbolCache(config) as cache_:
            while time.monotonic() < until_s:
                async with anyio.create_task_group() as group:
                    for key in chance.sample(PUBLISHED, 6):
                        group.start_soon(fetch, cache_, key)

    async def fetch(cache_: SymbolCache, key: PdbKey) -> None:
        outcome = await cache_.fetch(key)
        if isinstance(outcome, Present | Fetched):
            with suppress(FileNotFoundError):
                _judge(key, outcome.path.read_bytes(), report)
            report["warmed"].append(1)
        else:
            report["wrong"].append(f"{key.index}: {outcome}")

    anyio.run(fetch_all)


def _judge(key: PdbKey, content: bytes, report: dict[str, list[object]]) -> None:
    report["read"].append(1)
    if content != content_of(key):
        report["wrong"].append(f"{key.index}: {len(content)} bytes that are not its own")


ROLES: dict[str, Callable[[Store, random.Random, dict[str, list[object]]], Iterator[None]]] = {
    "add": add,
    "prune": prune,
    "check": check,
    "read": read,
}


def main(role: str, root: str, url: str, seconds: str, seed: str) -> None:
    """Play *role* for a time, begun when a line comes in; then print what was seen."""
    names = ("added", "deleted", "pruned", "verified", "findings", "read", "warmed", "wrong")
    report: dict[str, list[object]] = {name: [] for name in names}
    chance = random.Random(f"{role} {seed}")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    until_s = time.monotonic() + float(seconds)
    with Store(Path(root)) as store:
        if role == "warm":
            warm(store, chance, report, url, until_s)
        else:
            turns = ROLES[role](store, chance, report)
            while time.monotonic() < until_s:
                next(turns)
            turns.close()  # type: ignore[attr-defined]  # a generator
    for name in ("read", "warmed", "verified"):
        report[name] = [len(report[name])]
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
