"""Reading within bounds: what a disk may cost, a view that counts, and a file object for readers that want one."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from symcache.errors import InputError, MalformedInput, TruncatedInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

    from symcache.formats.view import ByteView

T = TypeVar("T")

_READS = 100_000
_BYTES_OF_A_READ = 4096
_BYTES = 64 << 20
_MOST_READS = 8_000_000
_MOST_BYTES = 64 << 30
_LARGEST_READ = 16 << 20


class Budget:
    """What reading one disk may cost: reads, and bytes read or expanded; both grow with its size, up to minutes.

    A folder of 5,000 files that are all looked at takes 40,000 reads, all files of a Windows some millions. A file with
    holes may claim any size. Whoever catches everything meets the same error at the next read.
    """

    def __init__(self, size_bytes: int) -> None:
        self._reads, self._bytes = _READS, _BYTES
        self._more_reads, self._more_bytes = _MOST_READS, _MOST_BYTES
        self.grow(size_bytes)

    @property
    def left_bytes(self) -> int:
        """How many bytes may still be read or expanded."""
        return self._bytes

    def grow(self, size_bytes: int) -> None:
        """Allow for *size_bytes* more: of a parent, or of a further part."""
        reads = min(size_bytes // _BYTES_OF_A_READ, self._more_reads)
        bytes_ = min(2 * size_bytes, self._more_bytes)
        self._more_reads -= reads
        self._more_bytes -= bytes_
        self._reads += reads
        self._bytes += bytes_

    @property
    def is_spent(self) -> bool:
        """Nothing more can be read."""
        return self._reads < 0 or self._bytes < 0

    def spend(self, size_bytes: int) -> None:
        """Account for one read or expansion of *size_bytes*.

        Raises:
            MalformedInput: There is nothing left.
        """
        self._reads -= 1
        self._bytes -= size_bytes
        if self.is_spent:
            raise MalformedInput("it leads to more reading than a disk of its size can take")


class CountedView:
    """A view whose reads are accounted for."""

    def __init__(self, view: ByteView, budget: Budget) -> None:
        self._view = view
        self.budget = budget
        self.size = view.size

    def read(self, offset: int, length: int) -> bytes:
        self.budget.spend(length)
        return self._view.read(offset, length)


class ViewFile(io.RawIOBase):
    """A binary file object on a view; a read gives 16 MiB at most, and less at the end."""

    def __init__(self, view: ByteView, budget: Budget) -> None:
        super().__init__()
        self._view = view
        self._budget = budget
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._view.size}[whence]
        if base + offset < 0:
            raise MalformedInput("it points in front of its beginning")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._view.size - self._at)
        length = left if size is None or size < 0 else min(size, left)
        if length > _LARGEST_READ:
            raise MalformedInput(f"it claims a piece of {length} bytes", offset=self._at)
        self._budget.spend(0)
        data = self._view.read(self._at, length) if length else b""
        self._at += length
        return data

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)


class Recent(Generic[T]):
    """The last few of what is made for numbers; unlike `functools.lru_cache` it refers to no method's object."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: dict[int, T] = {}

    def get(self, number: int, make: Callable[[int], T]) -> T:
        """Return what *make* made for *number*, or makes now."""
        made = self._made.pop(number, None)
        if made is None:
            made = make(number)
            if len(self._made) == self._most:
                del self._made[next(iter(self._made))]
        self._made[number] = made
        return made


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn whatever a reader of others raises into an `InputError` that names *what* was read.

    A reader that runs out of memory or of the stack met a size or a chain that its input claims.
    """
    try:
        yield
    except (InputError, OSError, ModuleNotFoundError):
        raise
    except EOFError as error:
        raise TruncatedInput(f"its {what} ends early") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MalformedInput(f"its {what} cannot be read: {reason}") from error
