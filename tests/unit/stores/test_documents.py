from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.answers import cut, file, status

from symcache.config import load_config
from symcache.errors import MalformedInput
from symcache.events import Noted
from symcache.inputs.records import Document, DocumentsWanted, Remark
from symcache.stores.documents import NOT_HERE, DocumentCache, answered
from symcache.stores.source import SymbolSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.upstream import Upstream

    from symcache.config import Config
    from symcache.events import Event

DAY_S = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def config(upstream: Upstream, tmp_path: Path) -> Config:
    upstream.files = {"a.json": b"[1]", "b.json": b"[2]"}
    config = load_config(None, {}, symbol_path=f"srv*{tmp_path / 'sym'}*{upstream.url}")
    network = replace(config.network, retries=0, read_timeout_s=5.0)
    builds = replace(config.builds, cache=tmp_path / "documents", recheck_s=0.0)
    return replace(config, network=network, builds=builds, misses=replace(config.misses, folder=tmp_path / "misses"))


@pytest.fixture
def notes() -> list[str]:
    return []


async def fetch(config: Config, *documents: Document, notes: list[str] | None = None) -> None:
    def observe(event: Event) -> None:
        if isinstance(event, Noted) and notes is not None:
            notes.append(event.text)

    async with SymbolSource(config, observer=observe) as source:
        await source.fetch_documents(source.documents.answer(documents, may_fetch=True))


def document(upstream: Upstream, name: str = "a.json", largest_bytes: int = 100) -> Document:
    return Document(name, f"{upstream.url}/{name}", largest_bytes)


def content(answered: Document) -> bytes:
    assert answered.path is not None, answered.problem
    return answered.path.read_bytes()


async def test_a_document_is_fetched_and_asked_for_again_only_if_it_changed(config: Config, upstream: Upstream) -> None:
    first, again, changed = (document(upstream) for _ in range(3))
    await fetch(config, first)
    await fetch(config, again)
    assert (content(first), content(again)) == (b"[1]", b"[1]")
    assert [request.status for request in upstream.requests] == [200, 304]
    upstream.files["a.json"] = b"[3]"
    await fetch(config, changed)
    assert content(changed) == b"[3]"


async def test_what_is_young_enough_is_not_asked_for(config: Config, upstream: Upstream) -> None:
    config = replace(config, builds=replace(config.builds, recheck_s=DAY_S))
    await fetch(config, document(upstream))
    again = document(upstream)
    await fetch(config, again)
    assert content(again) == b"[1]"
    assert len(upstream.requests) == 1


async def test_a_server_without_validators_sends_it_anew(config: Config, upstream: Upstream) -> None:
    upstream.always("a.json", file(etag=None))
    for _ in range(2):
        await fetch(config, document(upstream))
    assert [request.status for request in upstream.requests] == [200, 200]


async def test_that_a_server_lacks_a_document_is_remembered(config: Config, upstream: Upstream) -> None:
    config = replace(config, builds=replace(config.builds, recheck_s=DAY_S))
    for _ in range(2):
        lacking = document(upstream, "none.json")
        await fetch(config, lacking)
        assert (lacking.is_missing, lacking.path, lacking.problem) == (True, None, None)
    assert len(upstream.requests) == 1


async def test_a_document_that_comes_later_replaces_what_was_missing(config: Config, upstream: Upstream) -> None:
    await fetch(config, document(upstream, "late.json"))
    upstream.files["late.json"] = b"[4]"
    late = document(upstream, "late.json")
    await fetch(config, late)
    assert content(late) == b"[4]"
    del upstream.files["late.json"]
    gone = document(upstream, "late.json")
    await fetch(config, gone)
    assert gone.is_missing
    assert late.path is not None
    assert not late.path.exists()


async def test_a_copy_is_used_while_the_server_is_down_and_that_is_said_once(
    config: Config, upstream: Upstream, notes: list[str]
) -> None:
    await fetch(config, document(upstream), document(upstream, "b.json"))
    for name in ("a.json", "b.json"):
        upstream.always(name, status(503))
    both = [document(upstream), document(upstream, "b.json")]
    await fetch(config, *both, notes=notes)
    assert [content(each) for each in both] == [b"[1]", b"[2]"]
    (note,) = notes
    assert "503" in note
    assert "2 copies of documents, the oldest of 20" in note
    await fetch(config, document(upstream), notes=notes)
    assert "the copy of a.json of 20" in notes[1]


async def test_without_a_copy_it_is_said_why_there_is_none(config: Config, upstream: Upstream) -> None:
    upstream.always("a.json", status(503))
    lacking = document(upstream)
    await fetch(config, lacking)
    assert lacking.problem is not None
    assert "503" in lacking.problem
    assert (lacking.path, lacking.is_missing) == (None, False)


def refuse(path: Path) -> None:
    if not path.read_bytes().startswith(b"["):
        raise MalformedInput("no list")


async def test_a_document_may_be_json_or_a_page(config: Config, upstream: Upstream) -> None:
    upstream.files |= {"a.json": b'{"a": 1}', "b.json": b"<!DOCTYPE html><html>"}
    both = [document(upstream), document(upstream, "b.json")]
    await fetch(config, *both)
    assert [content(each) for each in both] == [b'{"a": 1}', b"<!DOCTYPE html><html>"]


@pytest.mark.parametrize(
    ("sent", "said"),
    [(b"<!DOCTYPE html><html>", "no list"), (b"[" + b"1" * 200, "longer than 100 bytes"), (b"{}", "no list")],
    ids=["page", "length", "check"],
)
async def test_what_cannot_be_the_document_takes_no_place(
    config: Config, upstream: Upstream, notes: list[str], sent: bytes, said: str
) -> None:
    upstream.files["a.json"] = sent
    first = replace(document(upstream), check=refuse)
    await fetch(config, first)
    assert first.problem is not None
    assert said in first.problem
    assert first.url in first.problem
    upstream.files["a.json"] = b"[1]"
    await fetch(config, document(upstream))
    upstream.files["a.json"] = sent
    kept = replace(document(upstream), check=refuse)
    await fetch(config, kept, notes=notes)
    assert content(kept) == b"[1]"
    assert said in notes[0]
    assert list(config.builds.cache.glob("*.part")) == []


async def test_a_body_that_breaks_off_is_no_document(config: Config, upstream: Upstream) -> None:
    upstream.script("a.json", cut(at=1))
    broken = document(upstream)
    await fetch(config, broken)
    assert broken.problem is not None
    assert list(config.builds.cache.iterdir()) == []


async def test_a_password_in_a_url_is_kept_nowhere(config: Config, upstream: Upstream) -> None:
    url = f"{upstream.url}/a.json".replace("://", "://me:hunter2@")
    await fetch(config, Document("a.json", url, 100))
    assert all(b"hunter2" not in path.read_bytes() for path in config.builds.cache.iterdir())
    assert len(list(config.builds.cache.iterdir())) == 2


@pytest.fixture
def cache(tmp_path: Path) -> DocumentCache:
    return DocumentCache(tmp_path / "cache", recheck_s=DAY_S, clock_s=Clock())


def keep(cache: DocumentCache, url: str = "https://a.test/x") -> None:
    scratch = cache.scratch(url)
    scratch.write_bytes(b"[]")
    cache.put(url, scratch, etag='"1"')


@pytest.mark.parametrize("past_s", [0.0, DAY_S - 1])
def test_a_young_copy_answers(cache: DocumentCache, past_s: float) -> None:
    keep(cache)
    cache._clock_s.now_s += past_s  # type: ignore[attr-defined]
    asked = Document("x", "https://a.test/x")
    assert cache.answer([asked], may_fetch=True) == []
    assert content(asked) == b"[]"


@pytest.mark.parametrize("past_s", [DAY_S, -1.0])
def test_an_old_copy_or_one_of_the_future_answers_only_without_a_network(cache: DocumentCache, past_s: float) -> None:
    keep(cache)
    cache._clock_s.now_s += past_s  # type: ignore[attr-defined]
    asked, offline = Document("x", "https://a.test/x"), Document("x", "https://a.test/x")
    assert cache.answer([asked], may_fetch=True) == [asked]
    assert asked.is_open
    assert cache.answer([offline], may_fetch=False) == []
    assert content(offline) == b"[]"


@pytest.mark.parametrize(
    "note",
    [
        json.dumps(
            {
                "url": "https://a.test/x",
                "asked_s": 1e300,
                "is_missing": True,
                "etag": 1,
                "last_modified": 1,
                "size_bytes": 1,
                "changed_ns": 1,
            }
        ).encode(),
        b"",
        b"{",
        b"[]",
        b"{}",
        b"[" * 5000,
        json.dumps({"url": "https://other.test/x", "asked_s": 1}).encode(),
    ],
)
def test_a_note_that_cannot_be_read_is_as_good_as_none(cache: DocumentCache, note: bytes) -> None:
    keep(cache)
    (path,) = cache.path_of("https://a.test/x").parent.glob("*.json")
    path.write_bytes(note)
    assert cache.find("https://a.test/x") is None


def test_a_copy_that_another_program_changed_is_none(cache: DocumentCache) -> None:
    keep(cache)
    cache.path_of("https://a.test/x").write_bytes(b"[1, 2, 3]")
    assert cache.find("https://a.test/x") is None


def test_a_note_is_not_about_what_another_process_put_there(cache: DocumentCache) -> None:
    url = "https://a.test/x"
    keep(cache)
    cache.path_of(url).write_bytes(b"{}")
    os.utime(cache.path_of(url), ns=(1, 1))
    assert cache.find(url) is None


def test_readers_without_a_network_are_answered_by_what_is_kept(cache: DocumentCache) -> None:
    keep(cache)
    here, lacking = Document("x", "https://a.test/x"), Document("y", "https://a.test/y")

    def reader() -> Iterator[DocumentsWanted | Remark]:
        yield DocumentsWanted([here, lacking])
        yield Remark(f"{here.path is not None} {lacking.problem}")

    assert list(answered(reader(), cache)) == [Remark(f"True {NOT_HERE}")]


async def test_of_many_documents_it_is_told_before_they_are_fetched(
    config: Config, upstream: Upstream, notes: list[str]
) -> None:
    upstream.files = {f"{number}.json": b"[]" for number in range(40)}
    many = [document(upstream, name) for name in upstream.files]
    await fetch(config, *many, notes=notes)
    assert notes == ["40 documents are asked for at 127.0.0.1"]
    assert all(each.path is not None for each in many)
