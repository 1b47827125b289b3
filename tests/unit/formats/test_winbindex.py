from __future__ import annotations

import gzip
import json
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synth.winbindex import AMD64, Entry, base, delta_fields, document, full_fields, insider, update
from support.views import CountingView

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats import winbindex
from symcache.formats.view import BytesView
from symcache.formats.winbindex import (
    EntryKind,
    IndexedFile,
    Occurrence,
    check_document,
    read_index,
    read_names,
    size_candidates,
)

FULL = full_fields(0x6F001122, 0x1046000)


def read(content: bytes) -> list[IndexedFile]:
    return list(read_index(BytesView(content)))


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        (FULL, EntryKind.FULL),
        (without(FULL, "version", "signingStatus"), EntryKind.PE),
        (delta_fields(1, 0x9000) | {"virtualSize": 0x9000}, EntryKind.DELTA_PLUS),
        (delta_fields(1, 0x9000), EntryKind.DELTA),
        ({"size": 10, "md5": "0" * 32}, EntryKind.RAW),
        (None, EntryKind.UNKNOWN),
        (without(FULL, "virtualSize"), EntryKind.UNKNOWN),
        (without(FULL, "timestamp"), EntryKind.UNKNOWN),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_a_kind_of_entry_is_told_by_its_fields(info: dict[str, Any] | None, kind: EntryKind, compressed: bool) -> None:
    (entry,) = read(document([Entry(info, [base("11-22H2")])], compressed=compressed))
    assert entry.kind is kind
    assert entry.timestamp == (info or {}).get("timestamp")
    assert entry.size_of_image == (info or {}).get("virtualSize")


def test_an_entry_says_where_it_occurs() -> None:
    places = [
        update("11-22H2", "KB5023706", "22621.1413", others=["11-23H2"], language="en-us"),
        base("11-22H2"),
        base("11-23H2", component=None),
        insider("26120.461"),
    ]
    (entry,) = read(document([Entry(FULL, places)]))
    part = "amd64_microsoft-windows-os-kernel_31bf3856ad364e35_"
    assert entry.occurrences[:3] == (
        Occurrence("11-22H2", "KB5023706", "22621.1413", "2023-03-14", ("11-23H2",), (f"{part}en-us",)),
        Occurrence("11-22H2", "BASE", None, "2022-09-20", (), (f"{part}none",)),
        Occurrence("11-23H2", "BASE", None, "2022-09-20"),
    )
    last = entry.occurrences[3]
    assert (last.release, last.build, last.components) == ("builds", "26120.461", (f"{part}none",))
    assert entry.machine == AMD64


def test_old_documents_write_a_build_in_a_sentence() -> None:
    release, name, about = update("1607", "KB4571694", "14393.3866")
    about["updateInfo"]["releaseVersion"] = "OS Build 14393.3866"
    (entry,) = read(document([Entry(FULL, [(release, name, about)])]))
    assert entry.occurrences[0].build == "14393.3866"


def test_an_empty_document_has_no_entry() -> None:
    assert read(b" {} ") == []
    assert list(read_names(BytesView(b"[]"))) == []


def test_names_are_listed() -> None:
    assert list(read_names(BytesView(b'["a.dll",\n"b.sys", 3]'))) == ["a.dll", "b.sys"]


@pytest.mark.parametrize("read_bytes", [1, 7, 64])
def test_entries_do_not_depend_on_how_the_document_is_cut(read_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = document([Entry({**FULL, "version": "größe"}, [update("1903", "KB1", "18362.1")])] * 3)
    whole = read(content)
    monkeypatch.setattr(winbindex, "_READ_BYTES", read_bytes)
    assert read(content) == whole
    assert len(whole) == 3


def test_a_large_document_is_read_piece_by_piece() -> None:
    entries = [Entry(FULL, [update("11-22H2", f"KB{n}", f"22621.{n}") for n in range(100)]) for _ in range(100)]
    content = document(entries, compressed=False)
    view = CountingView(BytesView(content))
    first = next(read_index(view))
    assert len(first.occurrences) == 100
    assert view.read_bytes < len(content) / 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends early"),
        (b"[]", "no JSON object"),
        (b"<html>", "no JSON object"),
        (b'{"a": {}', "ends early"),
        (b'{"a" {}}', "a value was expected"),
        (b'{"a": {}; }', "does not go on"),
        (b"{3: {}}", "a name was expected"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": ' + b"[" * 100_000, "nested too deep"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"\x1f\x8b\x09\0garbage!!!!", "gzip data is damaged"),
        (document([Entry(FULL)])[:-9], "gzip data ends early"),
        (document([Entry(FULL)])[:-1] + b"\xff", "gzip data is damaged"),
    ],
)
def test_what_is_no_document_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(content)


def test_what_came_before_the_damage_is_had() -> None:
    entries = read_index(BytesView(document([Entry(FULL)] * 2, compressed=False)[:-30]))
    assert next(entries).kind is EntryKind.FULL
    with pytest.raises(InputError):
        next(entries)


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", {"fileInfo": []}, {"windowsVersions": []}, {"windowsVersions": {"1903": []}},
        {"windowsVersions": {"1903": {"KB1": None}}},
        {"windowsVersions": {"1903": {"KB1": {"updateInfo": [], "assemblies": []}}}},
        {"windowsVersions": {"1903": {"KB1": {"updateInfo": {"releaseVersion": 3, "otherWindowsVersions": [1]}}}}},
        {"windowsVersions": {"1903": {"BASE": {"windowsVersionInfo": 1, "sourcePaths": [1, "a", "b\\\\WinSxS"]}}}},
        {"fileInfo": {"machineType": "x", "timestamp": True, "virtualSize": -1, "size": 1.5, "version": 3}},
    ],
)  # fmt: skip
def test_an_entry_of_wrong_types_has_fewer_fields(value: object) -> None:
    (entry,) = read(json.dumps({"a": value}).encode())
    assert (entry.machine, entry.timestamp, entry.size_of_image) == (None, None, None)
    assert all(each.build is None and not each.components for each in entry.occurrences)


def test_an_entry_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winbindex, "_LONGEST_ENTRY", 1 << 12)
    monkeypatch.setattr(winbindex, "_READ_BYTES", 1 << 10)
    view = CountingView(BytesView(b'{"a": "' + b"x" * (1 << 20)))
    with pytest.raises(MalformedInput, match="too long"):
        list(read_index(view))
    assert view.read_bytes < 1 << 15


def test_a_document_that_expands_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winbindex, "_LARGEST_BYTES", 1 << 20)
    bomb = gzip.compress(b'{"a": 1' + b" " * (1 << 24))
    for give_up in (read, lambda content: check_document(BytesView(content))):
        with pytest.raises(MalformedInput, match="longer than"):
            give_up(bomb)


def test_more_than_any_file_has_of_occurrences_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winbindex, "_MOST_PLACES", 3)
    (entry,) = read(document([Entry(FULL, [update("1903", f"KB{n}", f"18362.{n}") for n in range(9)])]))
    assert len(entry.occurrences) == 3


@pytest.mark.parametrize("content", [document([]), b"[]", b" \n{}"])
def test_a_document_is_looked_at_as_a_whole(content: bytes) -> None:
    check_document(BytesView(content))


@pytest.mark.parametrize("content", [b"", b"x", document([])[:-1], document([])[:-8] + bytes(8)])
def test_a_damaged_document_is_found_out(content: bytes) -> None:
    with pytest.raises((MalformedInput, TruncatedInput)):
        check_document(BytesView(content))


@pytest.mark.parametrize("signature", range(0x2000, 0x4001, 0x400))
def test_the_size_of_an_image_is_among_the_first_of_its_candidates(signature: int) -> None:
    (entry,) = read(document([Entry(delta_fields(1, 0x9000, signature_bytes=signature))]))
    sizes = size_candidates(entry)
    assert 0x9000 in sizes[:5]
    assert len(sizes) == len(set(sizes))


def test_there_are_not_too_many_candidates_and_none_that_cannot_be() -> None:
    fields = {**delta_fields(1, 0x9000), "size": 1 << 30}
    (entry,) = read(document([Entry(fields)]))
    assert len(size_candidates(entry)) < 32
    (entry,) = read(document([Entry({**fields, "size": 1})]))
    assert size_candidates(entry) == []
    (entry,) = read(document([Entry({**fields, "lastSectionVirtualAddress": 0xFFFFF000, "size": 1 << 33})]))
    assert size_candidates(entry) == []


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["fileInfo", "windowsVersions", "updateInfo", "assemblies", "sourcePaths", "BASE", "size"]), inner
)))  # fmt: skip
def test_any_json_is_a_document_or_refused(value: object) -> None:
    content = json.dumps(value).encode()
    try:
        entries = read(content)
    except InputError:
        assert not isinstance(value, dict)
    else:
        assert isinstance(value, dict)
        assert len(entries) == len(value)


@given(st.binary(), st.integers(0, 300))
def test_damage_raises_nothing_else(junk: bytes, at: int) -> None:
    for content in (document([Entry(FULL, [base("1903")])]), document([Entry(FULL, [base("1903")])], compressed=False)):
        for damaged in (content[:at] + junk, content[:at] + junk + content[at + len(junk) :], zlib.compress(junk)):
            with suppress(InputError):
                read(damaged)
