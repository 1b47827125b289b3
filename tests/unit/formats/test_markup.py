from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synth.pdb import NativePdbSpec, make_pdb, make_pdb2, make_portable_pdb

from symcache.formats.markup import HEAD_BYTES, Markup, could_be_markup, find_markup

GUID = UUID(int=1)
PAGES = [
    b"<!DOCTYPE html><html>",
    b"<!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>",
    b"<HTML><body>sign in",
    b"\r\n\t <html lang='en'>",
    b"\xef\xbb\xbf\r\n<!DOCTYPE html>",
    b"<!-- served by a proxy -->\n<!-- really --><html>",
    b"<!-- a comment that ends further on",
    b"<head><title>Sign in</title></head>",
    b"<body>",
    b"<title>Moved</title>",
    b"<meta charset=utf-8>",
    b"<script>location='/login'</script>",
    b"<?xml version='1.0'?>\n<!DOCTYPE html><html xmlns='http://www.w3.org/1999/xhtml'>",
    "\ufeff<!DOCTYPE html>".encode("utf-16-le"),
    "\ufeff<html>".encode("utf-16-be"),
]
TEXTS = [
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", Markup.XML),
    (b"\xef\xbb\xbf<?xml version='1.0'?><!-- --><Error/>", Markup.XML),
    (b'{"errors":[{"status":404}]}', Markup.JSON),
    (b" {\n}", Markup.JSON),
    (b'[{"error": 1}]', Markup.JSON),
]
FILES = [
    make_pdb(NativePdbSpec(GUID)),
    make_pdb2(1, 1),
    make_portable_pdb(GUID, 1)[0],
    b"Microsoft MSFZ Container\r\n\x1aALD",
    b"MZ\x90\0",
    b"MSCF\0\0\0\0",
    b"DI\0\0",
    b"\\\\build\\drops\\app.pdb",
    b"<Project Sdk='Microsoft.NET.Sdk'>",
    b"{GUID}",
    b"[section]",
    b"Symbol Not Found",
    b"",
]


@pytest.mark.parametrize("head", PAGES)
def test_a_page_is_known_by_its_first_bytes(head: bytes) -> None:
    assert find_markup(head) is Markup.HTML
    assert could_be_markup(head)


@pytest.mark.parametrize(("head", "expected"), TEXTS)
def test_messages_are_known_by_their_first_bytes(head: bytes, expected: Markup) -> None:
    assert find_markup(head) is expected


@pytest.mark.parametrize("head", FILES, ids=[str(data[:12]) for data in FILES])
def test_everything_else_is_none(head: bytes) -> None:
    assert find_markup(head[:HEAD_BYTES]) is None


@given(st.sampled_from([*PAGES, *(head for head, _ in TEXTS)]), st.data())
def test_the_beginning_of_a_page_could_be_one_however_it_is_cut(head: bytes, data: st.DataObject) -> None:
    assert could_be_markup(head[: data.draw(st.integers(0, len(head)))])


@given(st.binary(max_size=2 * HEAD_BYTES))
def test_what_could_not_be_markup_is_none(head: bytes) -> None:
    assert could_be_markup(head) or find_markup(head) is None
