"""Compressed files, and what compresses the members of a zip: expanded piece by piece, in bounded memory."""

from __future__ import annotations

import struct
import sys
import zlib
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.archive.member import PIECE_BYTES, ArchiveKind, Member, iter_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.archive.member import Spend
    from symcache.formats.view import ByteView

_MOST_WINDOW_LOG = 27
_MOST_MEMORY_BYTES = (1 << _MOST_WINDOW_LOG) + (16 << 20)
_LONGEST_NAME = 1024
_SUFFIXES = {
    ArchiveKind.GZIP: ((".gz", ""), (".tgz", ".tar"), (".gzip", "")),
    ArchiveKind.XZ: ((".xz", ""), (".txz", ".tar")),
    ArchiveKind.BZIP2: ((".bz2", ""), (".tbz2", ".tar"), (".tbz", ".tar")),
    ArchiveKind.ZSTD: ((".zst", ""), (".tzst", ".tar"), (".zstd", "")),
}
_AGAIN = {
    ArchiveKind.GZIP: b"\x1f\x8b",
    ArchiveKind.XZ: b"\xfd7zXZ",
    ArchiveKind.BZIP2: b"BZh",
    ArchiveKind.ZSTD: b"",  # frames, skippable ones too, follow each other until the end
}

_TOO_MUCH = "its compression wants too much memory: unpack it and give what was in it"
_NO_ZSTD = "compressed with zstd, which needs Python 3.14 or the extra: pip install 'symcache[archives]'"
_NO_DEFLATE64 = (
    "compressed with Deflate64, as Windows does with large files, which needs the extra: "
    "pip install 'symcache[archives]', or unpack it (`7z x FILE`) and give what was in it"
)


class Decoder(Protocol):
    """What the decoders of the standard library have in common."""

    @property
    def eof(self) -> bool:
        """The end of the compressed stream has been reached."""
        ...

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out before something is put in."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was put in behind the end."""
        ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Take *data* and return at most *max_length* bytes of what it expands to."""
        ...


class Inflate:
    """Deflate with the interface that the other decoders have; *wbits* is zlib's."""

    def __init__(self, wbits: int = -zlib.MAX_WBITS) -> None:
        self._decoder = zlib.decompressobj(wbits)
        self._left = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        piece = self._decoder.decompress(self._left + data, max(0, max_length))
        self._left = self._decoder.unconsumed_tail
        # Where a piece is full there may be more behind it, even if all input was taken.
        self.needs_input = not self._left and len(piece) < max_length
        return piece


class _Inflate64:
    """Deflate64 by inflate64, which gives all that its input expands to: up to 20,000 times its length."""

    _AT_ONCE = 1 << 8

    def __init__(self) -> None:
        try:
            from inflate64 import Inflater  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise UnknownFormat(_NO_DEFLATE64) from error
        self._decoder = Inflater()
        self._left = b""
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def needs_input(self) -> bool:
        return not self._left

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:  # noqa: ARG002 - bounded by what is put in
        self._left += data
        now, self._left = self._left[: self._AT_ONCE], self._left[self._AT_ONCE :]
        return bytes(self._decoder.inflate(now))


def _bzip2() -> Decoder:
    from bz2 import BZ2Decompressor  # noqa: PLC0415 - of few inputs

    return BZ2Decompressor()


def _xz() -> Decoder:
    import lzma  # noqa: PLC0415 - of few inputs

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY_BYTES)


def _zstd() -> Decoder:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - since 3.14
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise UnknownFormat(_NO_ZSTD) from error
    parameter = zstd.DecompressionParameter.window_log_max
    decoder: Decoder = zstd.ZstdDecompressor(options={parameter: _MOST_WINDOW_LOG})
    return decoder


_DECODERS: dict[ArchiveKind, Callable[[], Decoder]] = {
    ArchiveKind.GZIP: lambda: Inflate(zlib.MAX_WBITS | 16),
    ArchiveKind.XZ: _xz,
    ArchiveKind.BZIP2: _bzip2,
    ArchiveKind.ZSTD: _zstd,
}

_ZIP_DECODERS: dict[int, Callable[[], Decoder]] = {
    8: Inflate,
    9: _Inflate64,
    12: _bzip2,
    93: _zstd,
    95: _xz,
}
_LZMA = 14
_ZIP_METHODS = {
    1: "shrinking",
    6: "imploding",
    10: "PKWARE's implode",
    96: "JPEG",
    97: "WavPack",
    98: "PPMd",
    99: "encryption",
}


def zip_decoder(method: int) -> Callable[[], Decoder] | None:
    """Return what makes a decoder for a member of a zip; None for LZMA, which begins with its properties.

    Raises:
        UnknownFormat: There is none for *method*. Source of the numbers: APPNOTE.TXT 4.4.5.
    """
    if method == _LZMA:
        return None
    make = _ZIP_DECODERS.get(method)
    if make is None:
        name = _ZIP_METHODS.get(method, f"method {method}")
        raise UnknownFormat(f"compressed with {name}, which is not read: unpack it and give what was in it")
    return make


def lzma_decoder(properties: bytes) -> Decoder:
    """Return a decoder for what follows *properties*, the 9 bytes that begin an LZMA member of a zip.

    Raises:
        UnknownFormat: It wants more memory than is given.
        MalformedInput: The properties are none.

    Layout (LE): u8 major, u8 minor, u16 length of the rest, 5; u8 (pb * 5 + lp) * 9 + lc, u32 dictionary.
    Source: APPNOTE.TXT 5.8.8.
    """
    import lzma  # noqa: PLC0415 - of few inputs

    if len(properties) < 9 or properties[2:4] != b"\5\0" or properties[4] >= 9 * 5 * 5:
        raise MalformedInput("its LZMA properties are damaged")
    rest, lc = divmod(properties[4], 9)
    pb, lp = divmod(rest, 5)
    (dictionary,) = struct.unpack_from("<I", properties, 5)
    if dictionary > 1 << _MOST_WINDOW_LOG:
        raise UnknownFormat(f"its compression wants a memory of {dictionary} bytes: unpack it and give what was in it")
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": max(dictionary, 4096), "lc": lc, "lp": lp, "pb": pb}]
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    except (lzma.LZMAError, ValueError) as error:
        raise MalformedInput("its LZMA properties are damaged") from error


def expand_pieces(pieces: Iterator[bytes], decoder: Decoder, spend: Spend) -> Iterator[bytes]:
    """Yield what *pieces* expand to, up to the end that their format marks; return what follows that.

    Raises:
        TruncatedInput: They end before that.
        MalformedInput: They are damaged.
    """
    piece: bytes | None = b""
    while not decoder.eof:
        if decoder.needs_input:
            piece = next(pieces, None)
            if piece is None:
                raise TruncatedInput("it is cut short")
            if not piece:
                continue
        expanded = decode(decoder, piece or b"")
        piece = b""
        if expanded:
            spend(len(expanded))
            yield expanded


def decode(decoder: Decoder, data: bytes) -> bytes:
    """Return what comes out of *decoder* for *data*; every error of any of them is an `InputError`."""
    try:
        return decoder.decompress(data, PIECE_BYTES)
    except MemoryError as error:
        raise UnknownFormat(_TOO_MUCH) from error
    except _errors() as error:
        if "memory" in str(error).lower():  # xz and zstd state how much theirs takes
            raise UnknownFormat(_TOO_MUCH) from error
        raise MalformedInput(f"its compressed data is damaged ({_one_line(error)})") from error


def _errors() -> tuple[type[Exception], ...]:
    """Return what decoders raise for damaged data; those of modules that were not needed cannot have been raised."""
    own = (("_lzma", "LZMAError"), ("backports.zstd", "ZstdError"), ("compression.zstd", "ZstdError"))
    found = (getattr(sys.modules.get(module), name, None) for module, name in own)
    return (zlib.error, OSError, EOFError, ValueError, *filter(None, found))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:80]


def expand_stream(kind: ArchiveKind, pieces: Iterator[bytes], spend: Spend) -> Iterator[bytes]:
    """Yield what a compressed file expands to: one stream behind the other, without what else follows.

    Raises as `expand_pieces`; `UnknownFormat` where nothing here expands it.
    """
    rest = b""
    while True:
        decoder = _DECODERS[kind]()
        yield from expand_pieces(chain([rest], pieces), decoder, spend)  # a generator would close *pieces* with itself
        rest = _next_stream(decoder.unused_data, pieces)
        if not rest or not rest.startswith(_AGAIN[kind]):
            return


def _next_stream(rest: bytes, pieces: Iterator[bytes]) -> bytes:
    """Return the beginning of what follows, without padding of zeros; empty if nothing does."""
    rest = rest.lstrip(b"\0")
    while len(rest) < 6 and (piece := next(pieces, None)) is not None:
        rest = (rest + piece).lstrip(b"\0")
    return rest


def read_compressed(view: ByteView, kind: ArchiveKind, path: str, spend: Spend) -> Member:
    """Return the one member of a compressed file called *path*."""
    name = compressed_name(kind, path, view.read(0, min(view.size, _LONGEST_NAME)))
    return Member(name, None, lambda: expand_stream(kind, iter_pieces(view), spend), at=0)


def compressed_name(kind: ArchiveKind, path: str, head: bytes) -> str:
    """Return what is in a compressed file called *path*: the name that gzip notes, else *path*'s without its suffix."""
    if kind is ArchiveKind.GZIP and (noted := _gzip_name(head)):
        return noted
    name = path.replace("\\", "/").rpartition("/")[2]
    for suffix, plain in _SUFFIXES[kind]:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)] + plain
    return name or "content"


def _gzip_name(head: bytes) -> str | None:
    """Return the file name in a gzip header. Source: RFC 1952 2.3: flag 8; flag 4 puts a field before it."""
    flags: Any = head[3] if len(head) > 10 else 0
    at = 10
    if flags & 4:
        at += 2 + int.from_bytes(head[10:12], "little")
    if not flags & 8:
        return None
    name, nul, _ = head[at:].partition(b"\0")
    return name.decode("latin-1") if nul and name else None
