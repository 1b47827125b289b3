"""Read an image's headers at its upstream: a few ranged requests of a few KiB instead of the whole file."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from symcache.errors import InputError, TruncatedInput, WrongContent
from symcache.formats.pe.image import Layout, parse_image
from symcache.stores.http.reply import UnfitRangeError
from symcache.stores.http.urls import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.formats.view import ByteView
    from symcache.stores.http.client import Client
    from symcache.stores.http.reply import Reply

__all__ = ["RangesRefusedError", "read_remote_image", "read_remote_version"]

T = TypeVar("T")

_BLOCK_BYTES = 4096
_MOST_REQUESTS = 12
_MOST_BYTES = 512 * 1024


class RangesRefusedError(Exception):
    """The upstream has the file, but it cannot be read in pieces: it sends all or something else each time."""


class _UnfetchedError(Exception):
    """A read of bytes that have not been fetched yet."""

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(offset, length)
        self.offset = offset
        self.length = length


class _SparseView:
    """The blocks of a remote file that are here already; see `symcache.formats.view.ByteView`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: dict[int, bytes] = {}

    @property
    def size(self) -> int:
        return self._size

    @property
    def fetched_bytes(self) -> int:
        return sum(map(len, self._blocks.values()))

    def add(self, start: int, data: bytes) -> None:
        """Keep *data*, which begins at the block boundary *start*."""
        for at in range(0, len(data), _BLOCK_BYTES):
            self._blocks[(start + at) // _BLOCK_BYTES] = data[at : at + _BLOCK_BYTES]

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise TruncatedInput(f"the image ends within {length} bytes that are needed", offset=max(offset, 0))
        first, last = offset // _BLOCK_BYTES, -(-(offset + length) // _BLOCK_BYTES)
        blocks = [self._blocks.get(number) for number in range(first, last)]
        if None in blocks:
            raise _UnfetchedError(offset, length)
        begin = offset - first * _BLOCK_BYTES
        return b"".join(block for block in blocks if block is not None)[begin : begin + length]


async def read_remote_image(client: Client, url: httpx.URL) -> tuple[int, Image | None]:
    """Return the status of the image at *url*, and its headers and debug data; None if the status is that of a miss.

    Raises:
        RangesRefusedError: The upstream does not send parts, or more of them would be needed than is sensible.
        UpstreamUnavailable, UpstreamRefused: As `Client.get`; nothing is tried again here.
        WrongContent: What is there is not an image.
    """
    return await _read_remote(client, url, lambda view: parse_image(view, Layout.DISK))


async def read_remote_version(client: Client, url: httpx.URL) -> VersionInfo | None:
    """Return what the image at *url* says of its origin; None if it is not there or says nothing. Raises likewise."""
    from symcache.formats.pe.version import read_version  # noqa: PLC0415 - where something is missing alone

    return (await _read_remote(client, url, lambda view: read_version(view, Layout.DISK)))[1]


async def read_remote_runtime(client: Client, url: httpx.URL) -> RuntimeFacts | None:
    """Return what the image at *url* says of the .NET runtime that it is or holds; None if it is not there."""
    from symcache.formats.pe.managed import read_runtime_facts  # noqa: PLC0415 - for runtimes alone

    return (await _read_remote(client, url, lambda view: read_runtime_facts(view, Layout.DISK)))[1]


async def _read_remote(client: Client, url: httpx.URL, parse: Callable[[ByteView], T]) -> tuple[int, T | None]:
    try:
        return await _read_parts(client, url, parse)
    except UnfitRangeError as error:
        raise RangesRefusedError from error


async def _read_parts(client: Client, url: httpx.URL, parse: Callable[[ByteView], T]) -> tuple[int, T | None]:
    async with client.get(url, end=_BLOCK_BYTES) as reply:
        if reply.is_miss:
            return reply.status, None
        if reply.status != 206 or reply.size_bytes is None:
            raise RangesRefusedError
        view = _SparseView(reply.size_bytes)
        validator = reply.validator
        view.add(0, await _read_all(reply, min(_BLOCK_BYTES, view.size)))
    for _ in range(_MOST_REQUESTS):
        try:
            return 206, parse(view)
        except _UnfetchedError as missing:
            start = missing.offset // _BLOCK_BYTES * _BLOCK_BYTES
            end = min(-(-(missing.offset + missing.length) // _BLOCK_BYTES) * _BLOCK_BYTES, view.size)
        except InputError as error:
            raise WrongContent(str(error), url=redact(url)) from error
        if view.fetched_bytes + end - start > _MOST_BYTES:
            break
        async with client.get(url, start=start, end=end, validator=validator) as reply:
            if reply.status != 206 or reply.size_bytes != view.size or reply.validator not in {validator, None}:
                raise RangesRefusedError
            view.add(start, await _read_all(reply, end - start))
    raise RangesRefusedError


async def _read_all(reply: Reply, wanted_bytes: int) -> bytes:
    if reply.body_bytes != wanted_bytes:
        raise RangesRefusedError
    return b"".join([chunk async for chunk in reply.chunks()])
