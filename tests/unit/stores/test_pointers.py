"""Pointer files: followed where the configuration says so, and nowhere else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parts import WINE_LACKS
from support.sources import CAB, KEY, PATH, PDB, Rig, scratch_files, visible

from symcache.config import ServerEntry
from symcache.errors import MalformedInput
from symcache.stores.check import Pointer, parse_pointer, resolve_pointer
from symcache.stores.results import Cause, Failed, Fetched, Hint, Missing

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream

POINTER = PATH.rpartition("/")[0] + "/file.ptr"


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "builds"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "app.pdb").write_bytes(PDB)
    return folder


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (rb"\\server\share\x.pdb", Pointer(target=r"\\server\share\x.pdb")),
        (b"PATH:\\\\server\\share\\x.pdb\r\n", Pointer(target=r"\\server\share\x.pdb")),
        (b"path: C:\\x.pdb", Pointer(target=r"C:\x.pdb")),
        (b"C:\\x.pdb\0\0", Pointer(target=r"C:\x.pdb")),
        (b"\xef\xbb\xbf/srv/x.pdb\n", Pointer(target="/srv/x.pdb")),
        (b"/srv/\xfc.pdb", Pointer(target="/srv/ü.pdb")),
        (b"MSG: No longer indexed", Pointer(message="No longer indexed")),
        (b"msg:", Pointer(message="")),
    ],
)
def test_a_pointer_is_a_path_or_a_message(text: bytes, pointer: Pointer) -> None:
    assert parse_pointer(text) == pointer


@pytest.mark.parametrize("text", [b"", b" \r\n", b"a\nb", b"/x\0/y", b"x" * 5000])
def test_what_is_not_one_line_is_no_pointer(text: bytes) -> None:
    with pytest.raises(MalformedInput):
        parse_pointer(text)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_pointer_or_malformed(data: bytes) -> None:
    try:
        pointer = parse_pointer(data)
    except MalformedInput:
        return
    assert (pointer.target is None) != (pointer.message is None)


def test_a_prefix_covers_whole_parts_in_any_letter_case(allowed: Path) -> None:
    share = r"\\Server\Builds"

    def as_local(path: str) -> Path | None:
        return allowed.joinpath(*path.replace("\\", "/").split("/")[4:])

    def resolve(target: str) -> Path | None:
        return resolve_pointer(target, [share], as_local)

    assert resolve(r"\\server\BUILDS\1\app.pdb") == (allowed / "1" / "app.pdb").resolve()
    assert resolve("//server/builds/1/app.pdb") is not None
    assert resolve(r"\\server\buildsX\1\app.pdb") is None
    assert resolve(r"\\server\builds\..\secret") is None
    assert resolve(r"\\server\builds\1\.\app.pdb") is None
    assert resolve(r"\\other\builds\1\app.pdb") is None
    assert resolve("app.pdb") is None
    assert resolve_pointer(r"\\server\builds\1\app.pdb", [share], lambda _: None) is None


WAYS = ["store", "server"]


def offer(way: str, text: str, upstream: Upstream, rig: Rig, allow: tuple[str, ...]) -> dict[str, object]:
    """Let a file.ptr with *text* lie in a store or at a server; return symbol path and options of a source for it."""
    if way == "server":
        upstream.files[POINTER] = text.encode()
        entry = ServerEntry(url=upstream.url, pointers=True, two_tier=False)
        return {"symbol_path": f"srv*{rig.store}*{upstream.url}", "servers": [entry], "allow": allow}
    master = rig.folder / "master"
    (master / POINTER).parent.mkdir(parents=True)
    (master / POINTER).write_text(text)
    return {"symbol_path": f"srv*{rig.store}*{master}", "allow": allow}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["{target}", "PATH:{target}\r\n"])
@pytest.mark.parametrize("kept", ["plain", "compressed", "cabinet under the plain name"])
async def test_an_allowed_pointer_is_followed(
    way: str, form: str, kept: str, allowed: Path, upstream: Upstream, rig: Rig
) -> None:
    target = allowed / "1" / "app.pdb"
    if kept != "plain":
        target.unlink()
        target.with_name("app.pd_" if kept == "compressed" else "app.pdb").write_bytes(CAB)
    options = offer(way, form.format(target=target), upstream, rig, (str(allowed),))
    async with rig.source(**options) as source:  # type: ignore[arg-type]
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.path.read_bytes() == PDB
    assert visible(rig.store) == [PATH]
    assert scratch_files(rig.store) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trick", ["elsewhere", "nothing allowed", "dots", "link", "link to a folder", "neighbour"])
async def test_a_pointer_never_leads_out_of_what_is_allowed(
    way: str, trick: str, allowed: Path, upstream: Upstream, rig: Rig
) -> None:
    secret = rig.folder / "secret" / "app.pdb"
    secret.parent.mkdir()
    secret.write_bytes(PDB)  # even the right file is not taken from there
    target = {
        "elsewhere": str(secret),
        "nothing allowed": str(allowed / "1" / "app.pdb"),
        "dots": f"{allowed}/../secret/app.pdb",
        "link": str(allowed / "link.pdb"),
        "link to a folder": str(allowed / "linked" / "app.pdb"),
        "neighbour": f"{allowed}er/app.pdb",
    }[trick]
    if trick.startswith("link"):
        try:
            (allowed / "link.pdb").symlink_to(secret)
            (allowed / "linked").symlink_to(secret.parent, target_is_directory=True)
        except OSError:
            pytest.skip("links cannot be made here")
        if not (allowed / "link.pdb").is_symlink():
            pytest.skip(f"wine lacks {WINE_LACKS['links']}")
    allow = () if trick == "nothing allowed" else (str(allowed),)
    async with rig.source(**offer(way, target, upstream, rig, allow)) as source:  # type: ignore[arg-type]
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.REFUSED
    assert outcome.hint is Hint.POINTER
    assert "pointers.allow" in outcome.attempts[-1].answer
    assert visible(rig.store) == scratch_files(rig.store) == []


async def test_a_server_is_not_asked_for_pointers_unless_told_to(allowed: Path, upstream: Upstream, rig: Rig) -> None:
    upstream.files[POINTER] = str(allowed / "1" / "app.pdb").encode()
    async with rig.source(f"srv*{rig.store}*{upstream.url}", allow=(str(allowed),)) as source:
        assert isinstance(await source.fetch(KEY), Missing)
    assert upstream.asked(POINTER) == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_means_that_there_is_none(way: str, upstream: Upstream, rig: Rig) -> None:
    async with rig.source(**offer(way, "MSG: gone", upstream, rig, ())) as source:  # type: ignore[arg-type]
        outcome = await source.fetch(KEY)
        again = await source.fetch(KEY)
    assert isinstance(outcome, Missing)
    assert outcome.attempts[-1].answer == "MSG: gone"
    assert isinstance(again, Missing)
    assert again.cause is (Cause.REMEMBERED_MISS if way == "server" else Cause.NOT_PUBLISHED)
    assert rig.misses() == ([PATH] if way == "server" else [])


@pytest.mark.parametrize("text", ["", "a\nb", "MSG\0", "x" * 5000], ids=["empty", "lines", "nul", "long"])
async def test_nonsense_is_no_pointer(text: str, upstream: Upstream, rig: Rig) -> None:
    async with rig.source(**offer("server", text, upstream, rig, ("/",))) as source:  # type: ignore[arg-type]
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert rig.misses() == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_pointer_to_what_is_not_there_is_no_miss(way: str, allowed: Path, upstream: Upstream, rig: Rig) -> None:
    options = offer(way, str(allowed / "2" / "app.pdb"), upstream, rig, (str(allowed),))
    async with rig.source(**options) as source:  # type: ignore[arg-type]
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.attempts[-1].answer == "200, but a pointer to a file that is not there".replace(
        "200", "200" if way == "server" else "found"
    )
    assert rig.misses() == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
async def test_a_pointer_to_a_pipe_does_not_hang(allowed: Path, upstream: Upstream, rig: Rig) -> None:
    os.mkfifo(allowed / "pipe")
    options = offer("server", str(allowed / "pipe"), upstream, rig, (str(allowed),))
    async with rig.source(**options) as source:  # type: ignore[arg-type]
        assert isinstance(await source.fetch(KEY), Failed)


@pytest.mark.skipif(os.name == "nt", reason="shares are reached directly there")
async def test_a_pointer_to_a_share_is_followed_where_it_is_mounted(
    allowed: Path, upstream: Upstream, rig: Rig
) -> None:
    share = r"\\server\builds"
    options = offer("server", r"PATH:\\SERVER\Builds\1\app.pdb", upstream, rig, (share,))
    async with rig.source(**options, unc={share: allowed}) as source:  # type: ignore[arg-type]
        assert isinstance(await source.fetch(KEY), Fetched)


async def test_a_pointer_to_the_wrong_file_is_wrong_content(allowed: Path, upstream: Upstream, rig: Rig) -> None:
    (allowed / "1" / "app.pdb").write_bytes(b"root:x:0:0")
    options = offer("server", str(allowed / "1" / "app.pdb"), upstream, rig, (str(allowed),))
    async with rig.source(**options) as source:  # type: ignore[arg-type]
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.WRONG_CONTENT
