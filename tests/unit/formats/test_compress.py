from __future__ import annotations

import io
import random
import subprocess
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parts import need

from symcache.errors import InputError
from symcache.formats import cabinet as cabinets
from symcache.formats.cabinet import expand, open_cabinet, write_cabinet
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from pathlib import Path

MIXED = (
    b"".join(b"record %d\0" % number for number in range(9000)) + random.Random(3).randbytes(70_000) + bytes(100_000)
)


def cabinet_of(content: bytes, name: str = "app.pdb", level: int = 6) -> bytes:
    target = io.BytesIO()
    size = write_cabinet(io.BytesIO(content), target, name=name, level=level)
    assert size == len(target.getvalue())
    return target.getvalue()


def expanded(data: bytes) -> tuple[str, bytes]:
    cabinet = open_cabinet(BytesView(data))
    (member,) = cabinet.members
    return member.name, b"".join(expand(cabinet, member, limit_bytes=1 << 30))


@given(
    st.lists(st.builds(bytes.__mul__, st.binary(max_size=20), st.integers(1, 4000)), max_size=5).map(b"".join),
    st.integers(1, 9),
)
def test_whatever_is_compressed_comes_back(content: bytes, level: int) -> None:
    assert expanded(cabinet_of(content, level=level)) == ("app.pdb", content)


@pytest.mark.parametrize("size", [0, 1, 32767, 32768, 32769, 65536])
def test_files_end_where_they_end(size: int) -> None:
    assert expanded(cabinet_of(MIXED[:size])) == ("app.pdb", MIXED[:size])


def test_equal_files_give_equal_cabinets() -> None:
    assert cabinet_of(MIXED) == cabinet_of(MIXED)


@pytest.mark.parametrize("level", [1, 6, 9])
def test_what_cannot_be_compressed_grows_by_twelve_bytes_a_block_at_most(level: int) -> None:
    content = random.Random(4).randbytes(4 * 32768)
    blocks = 4 * (8 + 32768 + 12)
    assert len(cabinet_of(content, level=level)) <= 36 + 8 + 16 + len("app.pdb\0") + blocks


class Dribble(io.RawIOBase):
    """A file that gives a few bytes at a time, as a pipe may."""

    def __init__(self, content: bytes) -> None:
        self._rest = io.BytesIO(content)

    def read(self, size: int = -1, /) -> bytes:
        return self._rest.read(min(size, 1000))


def test_blocks_are_full_even_if_the_source_gives_little_at_a_time() -> None:
    target = io.BytesIO()
    write_cabinet(Dribble(MIXED), target, name="app.pdb")  # type: ignore[arg-type]
    assert target.getvalue() == cabinet_of(MIXED)


def test_a_cabinet_may_stand_behind_something_else() -> None:
    target = io.BytesIO(b"before")
    target.seek(6)
    size = write_cabinet(io.BytesIO(MIXED), target, name="app.pdb")
    assert target.tell() == 6 + size
    assert target.getvalue() == b"before" + cabinet_of(MIXED)


@pytest.mark.parametrize("name", ["", "a\0b", "a" * 256, "ä" * 128], ids=["empty", "nul", "long", "long in UTF-8"])
def test_a_name_that_no_cabinet_can_hold_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="name of a file"):
        cabinet_of(b"x", name=name)


def test_a_file_too_large_for_a_cabinet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cabinets, "MAX_CABINET_INPUT_BYTES", 65536)
    assert expanded(cabinet_of(bytes(65536))) == ("app.pdb", bytes(65536))
    with pytest.raises(InputError, match="65536"):
        cabinet_of(bytes(65537))


class Zeros(io.RawIOBase):
    """Many zeros that are nowhere in memory."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        taken = min(size, self._left)
        self._left -= taken
        return bytes(taken)


def test_memory_does_not_grow_with_the_file() -> None:
    target = io.BytesIO()
    tracemalloc.start()
    try:
        write_cabinet(Zeros(32 << 20), target, name="app.pdb")  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("name", ["app.pdb", "prüfung-日本.pdb"], ids=["ascii", "unicode"])
@pytest.mark.parametrize("content", [b"", b"x", MIXED], ids=["empty", "one byte", "mixed"])
@pytest.mark.parametrize("tool", ["cabextract", "7z"])
def test_other_programs_read_it(tool: str, content: bytes, name: str, tmp_path: Path) -> None:
    arguments = {"cabextract": ["-p"], "7z": ["x", "-so"]}[tool]
    path = tmp_path / "app.pd_"
    path.write_bytes(cabinet_of(content, name))
    result = subprocess.run([need(tool), *arguments, path], capture_output=True, check=True, timeout=60)
    assert result.stdout == content


def test_another_library_reads_it() -> None:
    cabarchive = pytest.importorskip("cabarchive", reason="cabarchive is not installed")
    archive = cabarchive.CabArchive(cabinet_of(MIXED))
    assert archive["app.pdb"].buf == MIXED
