from __future__ import annotations

from uuid import UUID

import pytest

from symcache.config import ServerEntry
from symcache.identity import DbgKey, ImageKey, Key, OtherKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.stores.http.servers import (
    SERVERS,
    Hints,
    Holding,
    LetterCase,
    Server,
    entry_for,
    hints_for,
    name_as_asked,
    server_for,
)
from symcache.sympath import MICROSOFT, parse_symbol_path

GUID = UUID(int=7)
NATIVE = PdbKey("x.pdb", GUID, 1)
PORTABLE = PortablePdbKey("x.pdb", GUID)
IMAGE = ImageKey("x.dll", 1, 2)
OLD = Pdb2Key("x.pdb", 1, 2)
DBG = DbgKey("x.dbg", 1, 2)


def held(hints: Hints) -> set[Key]:
    keys: list[Key] = [NATIVE, PORTABLE, IMAGE, OLD, DBG]
    return {key for key in keys if hints.refusal(key) is None}


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_each_public_server_can_stand_in_a_symbol_path_and_is_found_by_its_url(server: Server) -> None:
    parse_symbol_path(f"srv**{server.url}")
    assert server_for(server.url) == server
    assert server_for(f"{server.url}/x.pdb/1/x.pdb") == server
    assert server.hints.plain or server.hints.compressed


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://msdl.microsoft.com/download/symbols", "Microsoft"),
        ("https://MSDL.microsoft.com:443/download/symbols/", "Microsoft"),
        ("https://me:pass@msdl.microsoft.com/download/symbols", "Microsoft"),
        ("https://symbols.mozilla.org/try/", "Mozilla"),
        ("https://download.amd.com/dir/bin_2018/", "AMD 2018"),
        ("https://download.amd.com/dir/bin/", "AMD"),
        ("https://msdl.microsoft.com/download/symbolsX", None),
        ("https://msdl.microsoft.com/download", None),
        ("https://msdl.microsoft.com:8443/download/symbols", None),
        ("https://msdl.microsoft.com.example.com/download/symbols", None),
    ],
)
def test_a_public_server_is_known_by_host_and_path(url: str, name: str | None) -> None:
    server = server_for(url)
    assert (server and server.name) == name


def test_microsoft_is_asked_for_plain_files_alone() -> None:
    hints = hints_for(MICROSOFT)
    assert (hints.plain, hints.compressed, hints.pointers, hints.two_tier) == (True, False, False, False)
    assert hints.letter_case is LetterCase.ANY
    assert held(hints) == {NATIVE, PORTABLE, IMAGE, OLD, DBG}


def test_mozilla_is_asked_for_cabinets_alone() -> None:
    hints = hints_for("https://symbols.mozilla.org/")
    assert (hints.plain, hints.compressed, hints.compressed_first) == (False, True, True)


@pytest.mark.parametrize("url", ["https://driver-symbols.nvidia.com/", "https://download.amd.com/dir/bin"])
def test_makers_of_graphics_drivers_are_asked_for_images_alone(url: str) -> None:
    hints = hints_for(url)
    assert held(hints) == {IMAGE}


def test_nuget_is_asked_for_portable_pdbs_with_their_checksum() -> None:
    hints = hints_for("https://symbols.nuget.org/download/symbols")
    assert hints.checksum
    assert held(hints) == {PORTABLE}


def test_a_file_of_no_known_kind_may_lie_anywhere() -> None:
    assert Hints(holds=()).refusal(OtherKey("x.so", "elf-buildid-00")) is None


def test_a_refusal_says_why() -> None:
    assert Hints(holds=(Holding.IMAGE,)).refusal(NATIVE) == "not asked, as it has no PDBs"


def test_an_unknown_server_has_the_usual_hints() -> None:
    assert hints_for("https://symbols.example.com") == Hints()


def test_the_config_file_comes_before_what_is_known() -> None:
    entries = [
        ServerEntry("https://h/p", compressed=False, holds=("pdb",)),
        ServerEntry("https://h/p/deep/", two_tier=True, pointers=True, checksum=True),
        ServerEntry(MICROSOFT, compressed=True, ranges=False),
    ]
    assert hints_for("https://h/p/x", entries) == Hints(compressed=False, holds=(Holding.PDB,))
    assert hints_for("https://h/p/deep", entries) == Hints(two_tier=True, pointers=True, checksum=True)
    assert hints_for("https://h/other", entries) == Hints()
    known = hints_for(MICROSOFT)
    said = hints_for(MICROSOFT, entries)
    assert (said.compressed, said.ranges, said.two_tier, said.letter_case) == (True, False, False, known.letter_case)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://h/p", True),
        ("https://H:443/p/x", True),
        ("https://me@h/p", True),
        ("http://h/p", False),
        ("https://h:8443/p", False),
        ("https://h/pp", False),
        ("https://h.example/p", False),
    ],
)
def test_an_entry_and_its_credentials_keep_to_scheme_host_port_and_path(url: str, found: bool) -> None:
    entry = ServerEntry("https://h/p", token="secret")
    assert entry_for(url, [entry]) == (entry if found else None)


def test_a_server_that_is_asked_otherwise_has_another_name_among_machines() -> None:
    url = "https://symbols.example/store"
    said = {
        "nothing": (),
        "a user": (ServerEntry(url=url, username="me", password="first secret"),),
        "a token": (ServerEntry(url=url, token="second secret"),),
        "that a 403 is a miss": (ServerEntry(url=url, forbidden_is_missing=True),),
    }
    names = [name_as_asked(url, entries) for entries in said.values()]
    assert names[0] == url
    assert len(set(names)) == len(names)
    assert all(name.startswith(url) and "secret" not in name for name in names)
    assert name_as_asked(url, (ServerEntry(url=url, username="me", password="another"),)) == names[1]
    assert name_as_asked("https://elsewhere.example", said["a user"]) == "https://elsewhere.example"
