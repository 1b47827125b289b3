"""What a lock file states of a report, what it wants of a run, and how the two agree."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import pytest

from symcache.identity import ImageKey, Key, PdbKey, PortablePdbKey
from symcache.inputs.lock import LockedFile, lock_lines
from symcache.inputs.records import WHOLE_FILE, ImageUse, Module, Recorded, reference_to
from symcache.stores.links import Link
from symcache.stores.results import Cause, Missing, Present
from symcache.warm.local import module_of
from symcache.warm.lock import Said, make_lock, with_known_causes
from symcache.warm.plan import FileKind, ImageChoice, NothingToFetch, Plan, Want, WantedFile, wants_of
from symcache.warm.report import Report, Symbol

PDB = PdbKey("app.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 3)
IMAGE = ImageKey("drv.sys", 0x5E0B1235, 0x22000)
ONE, OTHER = "1" * 64, "2" * 64


def locked(key: Key | None, *, sha256: str | None = ONE, cause: str | None = None, kind: str = "pdb") -> Module:
    said = Recorded(kind, is_locked=True, cause=cause, size_bytes=1, sha256=sha256)
    reference = None if key is None else reference_to(key)
    if reference is not None:
        return Module("m.sys", pdbs=(reference,), recorded=said)
    return Module("m.sys", dbg=key, recorded=said) if kind != "pdb" else Module("m.sys", image=IMAGE, recorded=said)


def asks(key: PdbKey = PDB) -> Module:
    reference = reference_to(key)
    assert reference is not None
    return Module("app.exe", pdbs=(reference,))


def planned(*modules: Module) -> list[Want]:
    plan = Plan()
    for module in modules:
        plan.add_module(module)
    return list(plan.wants)


def hashes(*digests: str) -> tuple[str, ...]:
    return tuple(f"{WHOLE_FILE}{digest}" for digest in digests)


@pytest.mark.parametrize("images", ImageChoice)
def test_a_locked_file_is_wanted_with_its_hash_whatever_images_are_chosen(images: ImageChoice) -> None:
    module = locked(IMAGE, kind="image")
    assert list(wants_of(module, images=images, all_pdbs=False)) == [WantedFile("m.sys", IMAGE, hashes(ONE))]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_lock_binds_what_another_input_asks_for(is_first: bool) -> None:
    (want,) = planned(*[locked(PDB), asks()][:: 1 if is_first else -1])
    assert isinstance(want, WantedFile)
    assert want.checksums == hashes(ONE)


def test_locks_that_contradict_each_other_both_count() -> None:
    (want,) = planned(locked(PDB), locked(PDB, sha256=OTHER), locked(PDB))
    assert isinstance(want, WantedFile)
    assert set(want.checksums) == set(hashes(ONE, OTHER))


def test_what_an_image_is_needed_for_is_not_lost_to_a_lock() -> None:
    needy = Module("drv.sys", image=IMAGE, pdbs=asks().pdbs, base=0x1000, needs_image=ImageUse.SYMBOLS)
    wants = {want.key: want for want in planned(needy, locked(IMAGE, kind="image")) if isinstance(want, WantedFile)}
    assert (wants[IMAGE].use, wants[IMAGE].checksums) == (ImageUse.SYMBOLS, hashes(ONE))


def test_what_was_missing_is_not_asked_for_but_by_another_input() -> None:
    gone = locked(PDB, sha256=None, cause="not-published")
    assert planned(gone) == [NothingToFetch("m.sys", FileKind.PDB, Cause.KNOWN_MISSING, PDB, "not-published")]
    for modules in ([gone, asks()], [asks(), gone]):
        assert planned(*modules) == [WantedFile("app.exe", PDB)]


def test_an_image_that_names_an_unknown_pdb_does_not_hide_the_image_itself() -> None:
    hop = locked(None, sha256=None, cause="image-not-published")
    wants = planned(hop, locked(IMAGE, kind="image"))
    assert [type(want) for want in wants] == [NothingToFetch, WantedFile]


def test_what_a_shared_store_says_of_an_image_states_no_lock() -> None:
    key = PortablePdbKey("lib.pdb", PDB.guid)
    module = module_of("lib.dll", IMAGE, [Link(key, False, (*hashes(ONE), "SHA256:cd"))])
    assert [each.checksums for each in module.pdbs] == [("SHA256:cd",)]


def symbol(outcome: Present | Missing, key: Key | None = PDB, detail: str | None = None) -> Symbol:
    return Symbol(None if key is None else key.index, FileKind.PDB, "app.exe", outcome, detail)


def report(*symbols: Symbol) -> Report:
    return Report("srv*", None, 0.0, symbols)


def digest(key: Key) -> tuple[int, str]:
    return len(key.index), hashlib.sha256(key.index.encode()).hexdigest()


def test_every_file_of_a_report_has_one_line_and_its_own_length() -> None:
    present = Present(Path("x"), 1)  # of a cabinet, perhaps
    said = Said()
    list(said.watch([Module("app.exe", pdbs=asks().pdbs, recorded=Recorded("pdb", origin="https://example.com/s"))]))
    files = make_lock(
        report(
            symbol(present),
            symbol(Missing(Cause.NO_IDENTITY), None),
            symbol(Missing(Cause.KNOWN_MISSING), IMAGE, "not-published"),
            symbol(Missing(Cause.REMEMBERED_MISS), IMAGE),
        ),
        digest,
        said,
    )
    assert files == [
        LockedFile("app.exe", "pdb", PDB, *digest(PDB), origin="https://example.com/s"),
        LockedFile("app.exe", "pdb", None, cause="no-identity"),
        LockedFile("app.exe", "pdb", IMAGE, cause="not-published"),
        LockedFile("app.exe", "pdb", IMAGE, cause="not-published"),
    ]
    assert sum('"index"' in line for line in lock_lines(files)) == 3  # the last two are one and the same


CAUSES = {
    "nobody knows": (None, frozenset[str](), PDB, Cause.NOT_CACHED),
    "every server denied it": (None, frozenset({PDB.folded}), PDB, Cause.NOT_PUBLISHED),
    "every server denied the image": (None, frozenset({IMAGE.folded}), IMAGE, Cause.IMAGE_NOT_PUBLISHED),
    "a report says so": ("not-published", frozenset[str](), PDB, Cause.NOT_PUBLISHED),
    "a report says that it failed": ("unavailable", frozenset[str](), PDB, Cause.NOT_CACHED),
    "a report of a check": ("not-cached", frozenset[str](), PDB, Cause.NOT_CACHED),
    "a report made up": ("embedded", frozenset[str](), PDB, Cause.NOT_CACHED),
}


@pytest.mark.parametrize(("stated", "denied", "key", "cause"), CAUSES.values(), ids=CAUSES)
def test_the_cause_of_what_no_store_has_is_looked_up(
    stated: str | None, denied: frozenset[str], key: Key, cause: Cause
) -> None:
    said = Said()
    if stated is not None:
        list(said.watch([Module("app.exe", pdbs=asks().pdbs, recorded=Recorded("pdb", cause=stated))]))
    told = with_known_causes(report(symbol(Missing(Cause.NOT_CACHED), key)), said, lambda: denied)
    assert [each.cause for each in told.symbols] == [cause]


def test_servers_memory_is_left_alone_if_all_is_there() -> None:
    whole = report(symbol(Present(Path("x"), 1)), symbol(Missing(Cause.NO_IDENTITY), None))

    def never() -> frozenset[str]:
        raise AssertionError

    assert with_known_causes(whole, Said(), never) is whole
