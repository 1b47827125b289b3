from __future__ import annotations

from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import InputError, MalformedInput
from symcache.identity import ImageKey, OtherKey, parse_index
from symcache.stores.base import Form
from symcache.symstore.transactions import (
    Content,
    Kind,
    Ref,
    Refs,
    Transaction,
    TransactionFile,
    clean,
    format_added,
    format_deleted,
    format_file,
    format_ref,
    parse_file,
    parse_ref,
    parse_transaction,
    split_lines,
)

WHEN = datetime(2016, 9, 6, 10, 34, 19)  # noqa: DTZ001 - none is written


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            b'0000000003,add,file,09/06/2016,10:34:19,"peprods","1.0.1","",',
            Transaction(3, None, Kind.FILE, WHEN, "peprods", "1.0.1", ""),
            id="today's form",
        ),
        pytest.param(
            rb"0000000096,add,ptr,10/09/99,00:08:32,Windows Vista SP 1,x86 fre 1.156c,Added from \\m\s, again,",
            Transaction(
                96, None, Kind.POINTER, datetime(1999, 10, 9, 0, 8, 32),  # noqa: DTZ001 - none is written
                "Windows Vista SP 1", "x86 fre 1.156c", r"Added from \\m\s, again",
            ),
            id="old form",
        ),
        pytest.param(b"0000000105,del,0000000096", Transaction(105, deleted_id=96), id="delete"),
        pytest.param(
            b'1,add,file,13/40/2016,10:34:19,"a, b","","c"', Transaction(1, None, Kind.FILE, None, "a, b", "", "c"),
            id="no such date, no reserved field",
        ),
        pytest.param(
            b'1,add,file,09/06/2016,10:34:19,"caf\xe9","","",', Transaction(1, None, Kind.FILE, WHEN, "caf\xe9"),
            id="code page",
        ),
    ],
)  # fmt: skip
def test_a_line_of_the_account_is_read(line: bytes, expected: Transaction) -> None:
    assert parse_transaction(line) == expected


@pytest.mark.parametrize(
    "line", [b"", b"x,add,file", b"1,add,folder,,,,,", b"1,del", b"1,del,x", b"9" * 40 + b",del,1"]
)
def test_what_is_no_transaction_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedInput):
        parse_transaction(line)


def test_lines_are_written_as_symstore_writes_them() -> None:
    added = Transaction(2, None, Kind.FILE, WHEN, "dummyprod", "", "")
    assert format_added(added) == b'0000000002,add,file,09/06/2016,10:34:19,"dummyprod","","",'
    assert format_deleted(105, 96) == b"0000000105,del,0000000096"
    key = parse_index("dummylib.dll/5617D5638000")
    assert format_file(TransactionFile(key, r"C:\x.dll")) == rb'"dummylib.dll\5617D5638000","C:\x.dll"'
    ref = Ref(1, Kind.FILE, r"F:\x.pdb", Content.PRIVATE, compressed=True)
    assert format_ref(ref) == rb'0000000001,file,"F:\x.pdb",pri,,Y,,'


@given(st.text(), st.text(), st.text())
def test_no_text_breaks_the_format(product: str, version: str, comment: str) -> None:
    added = Transaction(7, None, Kind.POINTER, WHEN, product, version, comment)
    line = format_added(added)
    assert split_lines(line) == [line]
    assert parse_transaction(line) == Transaction(7, None, Kind.POINTER, WHEN, *map(clean, (product, version, comment)))


@given(st.text(), st.sampled_from(Kind), st.none() | st.sampled_from(Content), st.booleans())
def test_no_source_breaks_a_reference(source: str, kind: Kind, content: Content | None, compressed: bool) -> None:
    ref = Ref(1, kind, clean(source), content, compressed)
    assert parse_ref(format_ref(Ref(1, kind, source, content, compressed))) == ref
    filed = TransactionFile(ImageKey("a.dll", 1, 2), source)
    assert parse_file(format_file(filed)) == TransactionFile(filed.key, clean(source))


@given(st.binary(max_size=200) | st.lists(st.sampled_from([b'"', b",", b"1", b"add", b"file", b"\\"])).map(b"".join))
def test_readers_of_lines_raise_nothing_but_input_errors(line: bytes) -> None:
    for parse in (parse_transaction, parse_file, parse_ref):
        with suppress(InputError):
            parse(line)


def test_old_references_do_not_say_in_which_form_the_file_is() -> None:
    ref = parse_ref(rb"0000000043,file,e:\binaries\a,b.dbg")
    assert ref == Ref(43, Kind.FILE, r"e:\binaries\a,b.dbg")
    assert Refs(((b"", ref),)).forms == {Form.PLAIN, Form.COMPRESSED}


def test_copies_of_symstore_leave_out_the_last_quote() -> None:
    assert parse_file(rb'"a.src\1","/tmp/a.src') == TransactionFile(OtherKey("a.src", "1"), "/tmp/a.src")


@pytest.mark.parametrize("name", [rb"..\..\x", rb"a.pdb", rb"a.pdb\1\x", rb"a/b\1", rb"\1", rb"con.pdb\1"])
def test_no_line_leads_out_of_the_store(name: bytes) -> None:
    with pytest.raises(MalformedInput):
        parse_file(b'"' + name + b'","x"')
