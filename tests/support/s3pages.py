"""A bucket of S3 that is only listed: it makes up its pages, so that it may have a hundred million objects.

No signature is looked at. Source: the S3 API's ListObjectsV2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs

from support.wire import Listener, read_head

if TYPE_CHECKING:
    import socket
    from types import TracebackType

__all__ = ["PagedBucket"]

_PAGE_OBJECTS = 1000
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>symbols</Name><Prefix></Prefix><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>"
    "<IsTruncated>{is_cut}</IsTruncated>{token}"
)
_OBJECT = (
    "<Contents><Key>{name}</Key><LastModified>2026-11-30T08:00:00.000Z</LastModified>"
    "<ETag>&quot;{at:032x}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


class PagedBucket:
    """A bucket of *count* PDBs at `url`; use it as a context manager. Any name of a bucket is this one.

    Attributes:
        pages: How many were asked for.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.pages = 0
        self._listener = Listener(self._serve)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://127.0.0.1:{self._listener.port}"

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while (request := read_head(stream)) is not None:
                self.pages += 1
                body = self._page(int(parse_qs(request.query).get("continuation-token", ["0"])[0]))
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode("ascii") + body)

    def _page(self, start: int) -> bytes:
        stop = min(start + _PAGE_OBJECTS, self._count)
        is_cut = stop < self._count
        token = f"<NextContinuationToken>{stop}</NextContinuationToken>" if is_cut else ""
        head = _HEAD.format(count=stop - start, is_cut=str(is_cut).lower(), token=token)
        objects = "".join(
            _OBJECT.format(
                name=f"part{at // 8:09d}.pdb/{at:032X}1/part{at // 8:09d}.pdb", at=at, size=(at % 4096) << 10
            )
            for at in range(start, stop)
        )
        return f"{head}{objects}</ListBucketResult>".encode("ascii")
