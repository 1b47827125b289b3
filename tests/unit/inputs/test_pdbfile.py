from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.pdb import (
    NativePdbSpec,
    Packing,
    make_compressed_pdb,
    make_msfz,
    make_pdb,
    make_pdb2,
    make_portable_pdb,
    make_streams,
)

from symcache.errors import InputError, UnknownFormat
from symcache.formats.view import BytesView, FileView
from symcache.identity import Pdb2Key, PdbKey, PortablePdbKey
from symcache.inputs.pdbfile import read_pdb
from symcache.inputs.records import Input, InputKind, Module, PdbFormat, PdbReference

GUID = UUID("3249d99d-0c40-4931-8610-f4e4fb0b6936")


def read(data: bytes, path: str = "C:\\sym\\crash.pdb") -> tuple[dict[str, Any], Module]:
    head, module = read_pdb(BytesView(data), path)
    assert isinstance(head, Input)
    assert isinstance(module, Module)
    assert (head.path, head.kind) == (path, InputKind.PDB)
    details = dict(head.details)
    assert json.loads(json.dumps(details)) == details
    return details, module


@needs_corpus
@pytest.mark.parametrize("name", [*corpus_files("pdb"), *corpus_files("pdb-portable")])
def test_real_pdbs_are_filed_under_the_key_that_debuggers_ask_for(name: str) -> None:
    with FileView(corpus / name) as view:
        _, module = read_pdb(view, str(corpus / name))
    assert isinstance(module, Module)
    assert [reference.key.id for reference in module.pdbs] == [truth()[name]["pdb_key"]]
    assert module.name == name.rpartition("/")[2]


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pdb-bad"))
def test_bad_pdbs_yield_nothing(name: str) -> None:
    with FileView(corpus / name) as view, pytest.raises(InputError):
        next(read_pdb(view, name))


def test_a_native_pdb_is_described() -> None:
    details, module = read(make_pdb(NativePdbSpec(GUID, age=10, timestamp=0x5AB38077)))
    assert details == {
        "format": "native",
        "container": "msf",
        "guid": "3249d99d-0c40-4931-8610-f4e4fb0b6936",
        "age": 10,
        "info_age": 10,
        "dbi_age": 10,
        "signature": "5AB38077",
        "version": 20000404,
        "machine": "x64",
        "symbols": "private",
        "block_size": 4096,
        "streams": 9,
        "notes": [],
    }
    reference = PdbReference(PdbKey("crash.pdb", GUID, 10), PdbFormat.NATIVE)
    assert module == Module("crash.pdb", "C:\\sym\\crash.pdb", pdbs=(reference,))
    assert reference.key.id.endswith("6936a")


def test_an_old_pdb_is_described() -> None:
    details, module = read(make_pdb2(0x3E4A21B7, 2))
    assert (details["format"], details["signature"], details["age"]) == ("pdb2", "3E4A21B7", 2)
    assert module.pdbs == (PdbReference(Pdb2Key("crash.pdb", 0x3E4A21B7, 2), PdbFormat.PDB2),)


def test_a_portable_pdb_is_described() -> None:
    details, module = read(make_portable_pdb(GUID, 0xAB8CF31E)[0])
    assert (details["format"], details["stamp"]) == ("portable", "AB8CF31E")
    assert module.pdbs == (PdbReference(PortablePdbKey("crash.pdb", GUID), PdbFormat.PORTABLE),)


PLAIN = NativePdbSpec(GUID)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (make_pdb(replace(PLAIN, info_age=4)), "information stream has age 4, debug information has age 1"),
        (make_pdb(replace(PLAIN, mini=True)), "/DEBUG:FASTLINK"),
        (make_pdb(replace(PLAIN, dbi=False)), "filed without an age"),
        (make_compressed_pdb(PLAIN), "MSFZ container"),
    ],
    ids=["ages", "mini", "types", "MSFZ"],
)
def test_what_is_odd_is_noted(data: bytes, note: str) -> None:
    details, _ = read(data)
    assert [text for text in details["notes"] if note in text]


def test_a_pdb_without_debug_information_is_filed_without_an_age() -> None:
    details, module = read(make_pdb(replace(PLAIN, dbi=False, info_age=7)))
    assert (details["age"], details["machine"], details["symbols"]) == (0, None, "type-only")
    assert module.pdbs[0].key.id == GUID.hex.upper()


def test_debug_information_that_cannot_be_read_is_noted() -> None:
    streams = [None if content is None else content[:] for content in make_streams(replace(PLAIN, info_age=4))]
    data = bytearray(make_msfz(streams, Packing.DEFLATE, plain=frozenset({1}), plain_directory=True))
    table_at = int.from_bytes(data[0x30:0x38], "little")
    data[table_at + 8] = 9
    details, module = read(bytes(data))
    assert "stands in for that of the debug information" in details["notes"][0]
    assert details["symbols"] is None
    assert module.pdbs[0].key == PdbKey("crash.pdb", GUID, 4)


@pytest.mark.parametrize(
    ("data", "path", "problem"),
    [
        (make_pdb(PLAIN), "-", "no name to be filed under"),
        (make_pdb(PLAIN), "/tmp/file.ptr", "a store keeps that name for itself"),
        (make_pdb(NativePdbSpec(UUID(int=0))), "x.pdb", "GUID is nil"),
    ],
    ids=["standard input", "a store's own name", "no GUID"],
)
def test_a_pdb_that_cannot_be_filed_says_why(data: bytes, path: str, problem: str) -> None:
    _, module = read(data, path)
    assert module.pdbs == ()
    assert problem in (module.problem or "")


def test_a_page_instead_of_a_pdb_is_refused_before_anything_is_yielded() -> None:
    with pytest.raises(UnknownFormat, match="an HTML or XML page"):
        next(read_pdb(BytesView(b"<html></html>"), "x.pdb"))
