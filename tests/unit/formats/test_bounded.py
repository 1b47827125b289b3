from __future__ import annotations

import io
import os

import pytest

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats.disk.bounded import Budget, CountedView, Recent, ViewFile, guarded
from symcache.formats.view import BytesView


def test_reading_ends_when_it_costs_more_than_a_disk_of_its_size() -> None:
    budget = Budget(1 << 20)
    view = CountedView(BytesView(bytes(100)), budget)
    for _ in range(100_000 + 256):
        view.read(0, 1)
    assert not budget.is_spent
    for _ in range(2):
        with pytest.raises(MalformedInput, match="more reading than a disk of its size"):
            view.read(0, 0)
        assert budget.is_spent


def test_what_is_expanded_counts_as_read() -> None:
    budget = Budget(0)
    budget.spend(budget.left_bytes)
    with pytest.raises(MalformedInput):
        budget.spend(1)


def test_a_file_with_holes_does_not_buy_hours() -> None:
    assert Budget(1 << 60).left_bytes == Budget(1 << 50).left_bytes
    grown = Budget(1 << 50)
    grown.grow(1 << 50)
    assert grown.left_bytes == Budget(1 << 50).left_bytes


def test_a_view_as_a_file_reads_as_a_file() -> None:
    data = bytes(range(256)) * 4
    ours, theirs = ViewFile(BytesView(data), Budget(0)), io.BytesIO(data)
    for offset, whence, length in (
        (0, os.SEEK_SET, 10),
        (5, os.SEEK_CUR, 7),
        (-20, os.SEEK_END, 50),
        (2000, os.SEEK_SET, 4),
    ):
        assert ours.seek(offset, whence) == theirs.seek(offset, whence)
        assert ours.read(length) == theirs.read(length)
        assert ours.tell() == theirs.tell()
    ours.seek(0)
    assert ours.read() == data
    ours.seek(1000)
    buffer = bytearray(100)
    assert ours.readinto(buffer) == 24
    assert buffer[:24] == data[1000:]
    assert ours.readable()
    assert ours.seekable()
    with pytest.raises(InputError):
        ours.seek(-1)


class Endless:
    size = 1 << 40

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)


def test_a_claim_of_a_giant_piece_is_refused_before_it_is_read() -> None:
    file = ViewFile(Endless(), Budget(1 << 40))
    with pytest.raises(MalformedInput, match="claims a piece of"):
        file.read(1 << 35)


@pytest.mark.parametrize(
    "error", [ValueError("odd  number"), RecursionError(), MemoryError(), KeyError("x"), ZeroDivisionError()]
)
def test_whatever_a_reader_of_others_raises_becomes_an_input_error(error: Exception) -> None:
    with pytest.raises(MalformedInput, match="its table cannot be read: "), guarded("table"):
        raise error


def test_what_ends_early_says_so_and_what_is_ours_passes() -> None:
    with pytest.raises(TruncatedInput, match="its table ends early"), guarded("table"):
        raise EOFError
    for error in (InputError("ours"), PermissionError(13, "no"), ModuleNotFoundError("x", name="dissect")):
        with pytest.raises(type(error)), guarded("table"):
            raise error


def test_the_last_few_are_kept() -> None:
    made: list[int] = []
    recent: Recent[int] = Recent(2)

    def make(number: int) -> int:
        made.append(number)
        return number * 10

    assert [recent.get(number, make) for number in (1, 2, 1, 3, 1, 2)] == [10, 20, 10, 30, 10, 20]
    assert made == [1, 2, 3, 2]
