"""Lock files and reports as inputs: what is read of them, what is refused, and what hostile ones cost."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import measure
from support.mutation import mutants

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.view import BytesView
from symcache.identity import DbgKey, ImageKey, Key, OtherKey, PdbKey, PortablePdbKey
from symcache.inputs.detect import detect, read_input
from symcache.inputs.lock import (
    LARGEST_BYTES,
    LockedFile,
    file_kind,
    lock_lines,
    parse_lock,
    read_lock,
    read_report,
)
from symcache.inputs.records import Input, InputKind, Module, PdbFormat, Recorded, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from symcache.inputs.records import Record

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
PDB = LockedFile("app.exe", "pdb", PdbKey("app.pdb", GUID, 3), 4096, "a" * 64, "https://example.com/symbols")
IMAGE = LockedFile("drv.sys", "image", ImageKey("drv.sys", 0x5E0B1235, 0x22000), 512, "b" * 64)
GONE = LockedFile("secdrv.sys", "pdb", PdbKey("secdrv.pdb", GUID, 1), cause="not-published")
NAMELESS = LockedFile("x.sys", "pdb", None, cause="no-identity")
ALL = [PDB, IMAGE, GONE, NAMELESS]


def text_of(files: Sequence[LockedFile]) -> str:
    return "".join(f"{line}\n" for line in lock_lines(files))


def read(data: bytes | str) -> list[Record]:
    return list(read_lock(BytesView(data.encode() if isinstance(data, str) else data), "symbols.lock"))


def document(**changes: Any) -> str:
    return json.dumps({**json.loads(text_of(ALL)), **changes})


def record(**changes: Any) -> str:
    """Return a lock file with one file, whose record is changed; a field of None is left out."""
    fields = {**PDB.as_json(), **changes}
    return document(files=[{name: value for name, value in fields.items() if value is not None}], missing=[])


def test_a_lock_file_has_a_line_for_each_file_sorted_whatever_the_order() -> None:
    text = text_of(ALL)
    assert text_of([*ALL, PDB][::-1]) == text
    assert [line for line in text.splitlines() if "index" in line] == [
        json.dumps(PDB.as_json()) + ",",
        json.dumps(IMAGE.as_json()),
        json.dumps(NAMELESS.as_json()) + ",",
        json.dumps(GONE.as_json()),
    ]
    assert json.loads(text)["schema"] == "symcache.lock/1"
    assert text.startswith('{\n"schema": "symcache.lock/1",\n')
    assert json.loads(text_of([])) == {"schema": "symcache.lock/1", "files": [], "missing": []}


def test_each_file_is_a_module_that_is_wanted_as_such() -> None:
    first, *modules = read(text_of(ALL))
    assert first == Input("symbols.lock", InputKind.LOCK)
    pdb, image, nameless, gone = modules
    assert isinstance(pdb, Module)
    assert (pdb.name, pdb.key, pdb.image) == ("app.exe", PDB.key, None)
    assert pdb.recorded == Recorded(
        "pdb", is_locked=True, size_bytes=4096, sha256="a" * 64, origin="https://example.com/symbols"
    )
    assert isinstance(image, Module)
    assert (image.dbg, image.image, image.pdbs) == (IMAGE.key, None, ())
    assert isinstance(nameless, Module)
    assert (nameless.key, nameless.recorded) == (None, Recorded("pdb", is_locked=True, cause="no-identity"))
    assert isinstance(gone, Module)
    assert (gone.key, gone.recorded) == (GONE.key, Recorded("pdb", is_locked=True, cause="not-published"))


def keys() -> st.SearchStrategy[Key]:
    u32 = st.integers(0, 2**32 - 1)
    return st.one_of(
        st.builds(PdbKey, st.just("a.pdb"), st.uuids(), u32.filter(lambda age: age != 2**32 - 1)),
        st.builds(PortablePdbKey, st.just("b.pdb"), st.uuids()),
        st.builds(ImageKey, st.sampled_from(["ä.dll", "c.sys"]), u32, u32),
        st.builds(DbgKey, st.just("d.dbg"), u32, u32),
        st.just(OtherKey("e.so", "elf-buildid-0123456789abcdef")),
    )


def locked_files() -> st.SearchStrategy[LockedFile]:
    names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\/"), min_size=1, max_size=40)
    hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
    urls = st.none() | st.just("https://example.com/a")
    at_hand = st.builds(
        lambda name, key, size, sha256, origin: LockedFile(name, file_kind(key), key, size, sha256, origin),
        names, keys(), st.integers(1, 2**63 - 1), hashes, urls,
    )  # fmt: skip
    missing = st.builds(
        lambda name, key: LockedFile(name, "pdb" if key is None else file_kind(key), key, cause="not-published"),
        names, st.none() | keys(),
    )  # fmt: skip
    return at_hand | missing


@given(st.lists(locked_files(), max_size=8))
def test_what_is_written_reads_back(files: list[LockedFile]) -> None:
    text = text_of(files)
    assert text.isascii()
    assert detect(BytesView(text.encode())) is InputKind.LOCK
    again = parse_lock(json.loads(text))
    assert set(again) == set(files)
    assert text_of(again) == text
    assert not [each for each in read(text) if isinstance(each, Unreadable)]


TRUNCATED = text_of(ALL)[:-40]
BAD = {
    "cut short": TRUNCATED,
    "another schema": document(schema="symcache.lock/2"),
    "no schema": json.dumps({"files": [], "missing": []}),
    "a schema that is no text": document(schema=["symcache.lock/1"]),
    "a list": "[1]",
    "no files": document(files=None),
    "no missing": document(missing={}),
    "nested without end": '{"schema": "symcache.lock/1", "files": ' + "[" * 200_000,
    "a number without end": '{"schema": "symcache.lock/1", "files": [' + "9" * 100_000 + "]}",
    "not text": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_lock_file_is_refused(data: str | bytes) -> None:
    with pytest.raises(InputError):
        read(data)


@pytest.mark.parametrize("cut", range(0, len(TRUNCATED), 37))
def test_one_cut_anywhere_is_refused_before_anything_is_taken(cut: int) -> None:
    records = list(read_input((TRUNCATED[:cut]).encode()))
    assert [type(each) for each in records] == [Unreadable]


RECORDS = {
    "a path for an index": record(index="../../x"),
    "no index": record(index=None),
    "an index that is no text": record(index=7),
    "an index without end": record(index="x" * 100_000),
    "another kind": record(kind="image"),
    "an unknown kind": record(kind="exe"),
    "a kind that is no text": record(kind=["pdb"]),
    "no length": record(bytes=None),
    "a length that is true": record(bytes=True),
    "a negative length": record(bytes=-1),
    "a huge length": record(bytes=1 << 64),
    "a short hash": record(sha256="a" * 63),
    "a hash in capitals": record(sha256="A" * 64),
    "no module": record(module=None),
    "a lone surrogate": record(index="\ud800.pdb/7578144C39C4468394EF84F01549113A1/\ud800.pdb"),
    "not an object": document(files=[7], missing=[]),
    "a cause that is a sentence": document(files=[], missing=[{**GONE.as_json(), "cause": "No such file"}]),
}


@pytest.mark.parametrize("text", RECORDS.values(), ids=RECORDS)
def test_a_record_that_names_no_file_is_reported_and_the_rest_goes_on(text: str) -> None:
    records = read(text)
    assert [type(each) for each in records] == [Input, Unreadable]
    with pytest.raises(InputError):
        parse_lock(json.loads(text))


def test_one_of_bad_records_alone_ends_after_a_hundred() -> None:
    with pytest.raises(MalformedInput, match="100 lines"):
        read(document(files=[7] * 1000))


def test_an_origin_shows_no_secret_and_no_path() -> None:
    for origin, shown in {
        "https://user:secret@example.com/s?token=abc#x": "https://example.com/s",
        "/home/someone/share": None,
        "\\\\server\\share": None,
        7: None,
    }.items():
        (module,) = [each for each in read(record(origin=origin)) if isinstance(each, Module)]
        assert module.recorded is not None
        assert module.recorded.origin == shown


def report(*symbols: dict[str, Any]) -> bytes:
    return json.dumps({"schema": "symcache.report/1", "symbols": list(symbols)}).encode()


def symbol(index: str | None, kind: str = "pdb", **more: Any) -> dict[str, Any]:
    return {"index": index, "kind": kind, "module": "m.sys", "state": "missing", "cause": None, **more}


def test_a_report_names_again_what_it_was_about() -> None:
    pdb, image = "app.pdb/7578144C39C4468394EF84F01549113A3/app.pdb", "drv.sys/5E0B123522000/drv.sys"
    data = report(
        symbol(pdb, state="fetched", upstream="https://u:p@example.com/s"),
        symbol(pdb, cause="embedded"),
        symbol(image, "image", cause="not-published"),
        symbol(image, cause="image-not-published"),
        symbol(image, cause="no-debug-record"),
        symbol(None, cause="no-identity"),
        symbol("../x"),
    )
    first, fetched, embedded, whole, hop, bare, nameless, bad = read_report(BytesView(data), "r.json")
    assert first == Input("r.json", InputKind.REPORT)
    assert isinstance(fetched, Module)
    assert fetched.recorded == Recorded("pdb", origin="https://example.com/s")
    assert isinstance(embedded, Module)
    assert embedded.pdbs[0].format is PdbFormat.EMBEDDED
    assert isinstance(whole, Module)
    assert (whole.dbg, whole.image) == (IMAGE.key, None)
    assert isinstance(hop, Module)
    assert (hop.dbg, hop.image, hop.no_debug_record) == (None, IMAGE.key, False)
    assert isinstance(bare, Module)
    assert bare.no_debug_record
    assert isinstance(nameless, Module)
    assert nameless.key is None
    assert isinstance(bad, Unreadable)
    with pytest.raises(UnknownFormat):
        next(iter(read_report(BytesView(text_of([]).encode()), "x")))


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16 as PowerShell writes it": lambda text: text.encode("utf-16"),
    "on one line": lambda text: json.dumps(json.loads(text)).encode(),
    "indented": lambda text: b"\n " + json.dumps(json.loads(text), indent=4).encode(),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_another_program_may_have_rewritten_it(encode: Callable[[str], bytes]) -> None:
    first, *modules = read_input(io.BytesIO(encode(text_of(ALL))))
    assert isinstance(first, Input)
    assert first.kind is InputKind.LOCK
    assert len(modules) == len(ALL)


def test_a_folder_s_lock_file_is_passed_over_as_every_text(tmp_path: Any) -> None:
    (tmp_path / "symbols.lock").write_text(text_of(ALL))
    assert [type(each) for each in read_input(tmp_path)] == [Input]


def hostile() -> list[bytes]:
    head = b'{"schema": "symcache.lock/1", "files": ['
    many = {"objects": b"{},", "lists": b"[],", "numbers": b"1.5,", "texts": b'"",'}
    return [
        *(head + piece * ((LARGEST_BYTES - 100) // len(piece)) + b'1], "missing": []}' for piece in many.values()),
        head + b'"' + b"x" * (LARGEST_BYTES - 100) + b'"], "missing": []}',
        head + b"[" * 500_000,
        head + b'{"index": "' + b"\\ud800" * 400 + b'"}], "missing": []}',
        b" " * (LARGEST_BYTES + 1),
    ]


def test_hostile_ones_are_refused_within_bounds(record_property: Callable[[str, object], None]) -> None:
    inputs = hostile()
    cost = measure(inputs, read)
    cost.check(record_property)
    assert cost.refused == len(inputs) - 2  # a long text and a lone surrogate are records, and reported as such


def test_damaged_ones_raise_nothing_but_input_errors() -> None:
    many = [replace(PDB, key=PdbKey(f"f{number}.pdb", GUID, number)) for number in range(20)]
    for data in mutants(text_of([*many, GONE, NAMELESS]).encode(), 1500):
        try:
            for each in read(data):
                assert isinstance(each, Input | Module | Unreadable)
        except InputError:
            pass
