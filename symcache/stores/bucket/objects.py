"""One bucket of an object store, through obstore: S3 and what speaks like it, Google Cloud Storage, Azure.

Nothing here knows keys or chains. Calls block, and each has an end: an answer that does not begin, or stops, is given
up after seconds, one to a file that is sent after minutes. What a server says in its errors is never shown, as it may
repeat what signs a request.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from symcache.config import aws_profile, azure_endpoint, google_endpoint
from symcache.errors import ConfigError, Forbidden, TruncatedInput, UpstreamRefused, UpstreamUnavailable, WrongContent
from symcache.stores.local.mounts import find_mount
from symcache.sympath import redact_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from io import BufferedReader
    from pathlib import Path
    from typing import TypeVar

    from symcache.config import BucketEntry, Network
    from symcache.errors import UpstreamError

    T = TypeVar("T")

HASH_FIELD = "sha256"
"""The field of an object's own metadata that holds the SHA-256 of its bytes, in lower-case hex."""

_MIB = 1 << 20
_CHUNK_BYTES = 1 << 18
# What is longer is sent in parts, which only the last request puts together under the name.
_WHOLE_BYTES = 64 * _MIB
# From a share it is read into memory: a mapped file that another machine removes there ends the process.
_READ_WHOLE_BYTES = 8 * _MIB
_PART_BYTES = 8 * _MIB
_PARTS_AT_ONCE = 2
_CONNECT_S = 3.0
_READ_S = 10.0
_REQUEST_S = 120.0
_SEND_S = 300.0  # a file of 64 MiB by a line of 2 Mbit/s
_RETRIES = 2
_PAGE_OBJECTS = 1000
# Of obstore's debug output, where it stands on a line of its own; names of objects, which texts repeat, have one line.
_STATUS = re.compile(r"^\s+status: ([1-5][0-9]{2}),$", re.MULTILINE)
_HASH = re.compile(r"[0-9a-f]{64}")
# What obstore makes of a part of an empty object, where the server does not refuse to send one.
_EMPTY = re.compile(r"but object was only 0 bytes long|header: \"bytes 0--1/0\"")
# How S3 says, with a 200, that it did not remove one of many objects.
_NOT_DELETED = re.compile(r'^\s+code: "AccessDenied",$', re.MULTILINE)
# How the servers of S3 and Azure call it in the bodies of their errors.
_NO_BUCKET = re.compile("<Code>(NoSuchBucket|ContainerNotFound)</Code>")
# Where they are asked for last of all, which is answered in a cloud alone.
_NO_CREDENTIALS = re.compile(r"http://[^/\s]+/(latest/api/token|metadata/identity/|computeMetadata/)")
_REPLACED = "the object was replaced while it was read"
_MISSING_EXTRA = "buckets need obstore; install symcache[object]"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object, as a listing or an answer states it."""

    name: str  # below the prefix of the bucket
    size_bytes: int
    modified_s: float  # seconds since 1970, UTC
    tag: str | None  # of its bytes; another one after they were replaced
    sha256: str | None = None  # of its bytes, as who put it there states it; not in listings
    version: str | None = None  # by which Google knows which one is to be replaced


class Bucket:
    """The objects of *url*, ``s3://bucket/prefix``, whose names begin with the prefix; names here are without it.

    *entry* is what the config file says of it; an object of more than *largest_bytes* is copied by nobody. Nothing is
    asked before the first call.

    Attributes:
        name: *url*.
        address: Where a named server has it, ``https://server/bucket/prefix``; None if that is to be found out.

    Methods raise `UpstreamUnavailable` where another try may help, `UpstreamRefused` where credentials, rights or the
    bucket itself are wrong.

    Raises:
        ConfigError: obstore is not installed, or does not take the settings.
    """

    def __init__(self, url: str, entry: BucketEntry | None, network: Network) -> None:
        self.name = url
        self.entry = entry
        self.largest_bytes = network.largest_file_bytes
        self.parts = network.parallel_ranges.parts  # most that are asked for at once
        self._store: Any
        self._store, self.address = _open(url, entry, network, silence_s=min(network.read_timeout_s, _READ_S))
        # An answer to what is sent begins when all of it has come, which takes a slow line its time.
        self._patient_store: Any = _open(url, entry, network, silence_s=_SEND_S)[0]
        self._is_there = False  # the bucket, as far as is known
        self._asking = threading.Lock()
        self._keeps_names: bool | None = None

    def find(self, name: str) -> ObjectInfo | None:
        """Return what is known of the object *name*; None if there is none, or an empty one."""
        import obstore  # noqa: PLC0415 - of the extra

        meta = self._call(lambda: obstore.head(self._store, name))
        if meta is None and not self._is_there:
            # An answer to HEAD does not say what it is that is not there.
            self.read(name, 0, 2)
        self._is_there = True
        return None if meta is None or not meta["size"] else _info(meta)

    def read(
        self, name: str, start: int, stop: int, *, of: ObjectInfo | None = None
    ) -> tuple[bytes, ObjectInfo] | None:
        """Return bytes *start* to before *stop* of the object *name*, fewer at its end; None if there is none.

        They are *of* the object that was read before, if that is given. An empty object is none.
        """
        got = self.read_chunks(name, start, stop, of=of)
        return None if got is None else (b"".join(got[0]), got[1])

    def read_chunks(
        self,
        name: str,
        start: int,
        stop: int,
        *,
        of: ObjectInfo | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> tuple[Sequence[bytes], ObjectInfo] | None:
        """Return what `read` does as it came, without a copy of it; it is given up soon after *is_over* says so."""
        import obstore  # noqa: PLC0415 - of the extra

        options: Any = {"range": (start, stop)}
        if of is not None and of.tag is not None:
            options["if_match"] = of.tag  # some servers do not heed it

        def get() -> tuple[Sequence[bytes], ObjectInfo]:
            result = obstore.get(self._store, name, options=options)
            stated = result.attributes.get(HASH_FIELD, "")
            info = _info(result.meta, stated if _HASH.fullmatch(stated) else None)
            if of is not None and not _are_same(info, of):
                raise UpstreamUnavailable(_REPLACED, url=self.name)
            chunks: list[bytes] = []
            left = min(stop, info.size_bytes) - start
            for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
                chunks.append(chunk)
                left -= len(chunk)
                if left < 0 or is_over():
                    break  # whatever the server sends beyond what it states is not gathered
            if left:
                raise UpstreamUnavailable("the answer is not as long as it says", url=self.name)
            return chunks, info

        return self._call(get)

    def refuse_excess(self, info: ObjectInfo) -> None:
        """Raise `WrongContent` if *info*'s object is longer than files may be, as a server may say of any."""
        if info.size_bytes > self.largest_bytes:
            raise WrongContent(f"{info.size_bytes} bytes, more than network.largest_file_bytes", url=self.name)

    def put(self, name: str, file: Path, sha256: str | None = None, *, instead_of: ObjectInfo | None = None) -> bool:
        """Let *file* become the object *name* in one step; return False, and leave it alone, if there is one already.

        Only the object *instead_of* is replaced, where the server heeds a condition; a longer file replaces any.

        *sha256*, in lower-case hex, is stated with it; where it is not given, it is found out from the bytes that are
        sent, whatever takes the file's place meanwhile. `OSError` if the file cannot be read.
        """
        import obstore  # noqa: PLC0415 - of the extra

        with file.open("rb") as opened:
            size_bytes = os.fstat(opened.fileno()).st_size
            is_mapped = not find_mount(file).is_network
            is_whole = size_bytes <= (_WHOLE_BYTES if is_mapped else _READ_WHOLE_BYTES)
            if instead_of is None and not (is_whole and self.keeps_names()) and self.find(name) is not None:
                return False
            if sha256 is None:
                sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
                opened.seek(0)
            how: dict[str, Any] = {"mode": "create"} if self._keeps_names else {"use_multipart": False}
            if instead_of is not None:
                is_told = self._keeps_names and instead_of.tag is not None
                what = {"e_tag": instead_of.tag, "version": instead_of.version}
                what = {name: value for name, value in what.items() if value is not None}
                how = {"mode": what} if is_told else {"use_multipart": False}
            if not is_whole:
                how = {"chunk_size": _part_bytes(size_bytes), "max_concurrency": _PARTS_AT_ONCE}
            content = opened if not is_whole else _mapped(opened, size_bytes) if is_mapped else opened.read()
            attributes = {"Content-Type": "application/octet-stream", HASH_FIELD: sha256}
            return self._create(lambda: obstore.put(self._patient_store, name, content, attributes=attributes, **how))

    def keeps_names(self) -> bool:
        """Return whether the server refuses to replace an object when it is asked to.

        Some S3-compatible ones replace it, or refuse to be asked. It is found out once, by ``pingme.txt``, which the
        root of every symbol store has.
        """
        with self._asking:
            if self._keeps_names is None:
                try:
                    # A new bucket has none, so that the first try puts it there.
                    self._keeps_names = not (self._put_mark() and self._put_mark())
                except UpstreamUnavailable as error:
                    if error.problem != "501":  # it does not know what it is asked
                        raise
                    self._keeps_names = False
            return self._keeps_names

    def _put_mark(self) -> bool:
        import obstore  # noqa: PLC0415 - of the extra

        return self._create(lambda: obstore.put(self._store, "pingme.txt", b"", mode="create"))

    def list(self, under: str = "", *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Yield every object whose name begins with *under* and a slash, or every one, page by page.

        Those up to the name *after* are left out. S3, Google and Azure list in the order of names, by their bytes in
        UTF-8.
        """
        import obstore  # noqa: PLC0415 - of the extra

        pages = iter(obstore.list(self._store, under or None, offset=after, chunk_size=_PAGE_OBJECTS))
        while page := self._call(lambda: next(pages, []), longest_s=_REQUEST_S):
            yield from map(_info, page)

    def delete(self, names: Sequence[str]) -> None:
        """Remove the objects *names*, those that there are."""
        import obstore  # noqa: PLC0415 - of the extra

        def delete(some: Sequence[str]) -> bool:
            obstore.delete(self._store, list(some))
            return True

        # Where each is asked for by itself, as at Google, obstore stops at one that has gone before.
        if names and not self._call(lambda: delete(names)):
            for name in names:
                self._call(partial(delete, [name]))

    def move(self, name: str, target: str) -> None:
        """Let the object *name* be called *target*; a copy of both may be there for a moment."""
        import obstore  # noqa: PLC0415 - of the extra

        self._call(lambda: obstore.rename(self._patient_store, name, target))

    def sign(self, name: str, *, valid_s: float) -> str:
        """Return a URL from which anybody can get the object *name* for so long; it is a secret. Nothing is asked.

        `UpstreamRefused` where the credentials cannot sign.
        """
        import obstore  # noqa: PLC0415 - of the extra

        if self.entry is not None and self.entry.anonymous:
            raise UpstreamRefused("without credentials no URL can be signed", url=self.name)
        url: str | None = self._call(lambda: obstore.sign(self._store, "GET", name, timedelta(seconds=valid_s)))
        if url is None:
            raise UpstreamRefused("URLs cannot be signed", url=self.name)
        return url

    def open(self, name: str) -> BucketView | None:
        """Return the bytes of the object *name*, read as they are asked for; None if there is none."""
        first = self.read(name, 0, _BLOCK_BYTES)
        return None if first is None else BucketView(self, first[1], first[0])

    def _create(self, put: Callable[[], object]) -> bool:
        """Call *put*; return False if it says that there is such an object. That there is none is no answer to it."""
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415 - of the extra

        def create() -> bool:
            try:
                put()
            except AlreadyExistsError:
                return False
            return True

        created = self._call(create)
        if created is None:
            raise UpstreamRefused("404; is there such a bucket?", url=self.name)
        return created

    def _call(self, function: Callable[[], T], *, longest_s: float | None = None) -> T | None:
        """Return what *function* returns; None if it says that there is no such object.

        It is waited for *longest_s* seconds at most: of a list obstore asks for page after page as long as a server
        says that there are more, whether anything comes or not.
        """
        # While obstore waits no Ctrl-C reaches the main thread, so that another one waits for obstore.
        if longest_s is None and threading.current_thread() is not threading.main_thread():
            return self._ask(function)
        answers: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

        def call() -> None:
            try:
                answers.put((self._ask(function), None))
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                answers.put((None, error))

        threading.Thread(target=call, name="ask a bucket", daemon=True).start()
        try:
            answer, error = answers.get(timeout=longest_s)
        except Empty:
            raise UpstreamUnavailable("timed out", url=self.name, timed_out=True) from None
        if error is not None:
            raise error
        return answer

    def _ask(self, function: Callable[[], T]) -> T | None:
        from obstore import exceptions  # noqa: PLC0415 - of the extra

        try:
            return function()
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise UpstreamRefused("there is no such bucket", url=self.name) from None
            return None
        except ValueError:
            raise UpstreamRefused("a name that buckets do not take", url=self.name) from None
        except exceptions.BaseError as error:
            raised = self._as_ours(error, str(error), exceptions)
            if raised is None:
                return None
            raise raised from None  # whose text may hold what signs a request
        except BaseException as error:
            if type(error).__module__ != "pyo3_runtime":
                raise
            # A panic of Rust; nobody expects what is no `Exception`, and whoever waits for this call would wait on.
            raise UpstreamUnavailable("obstore broke down", url=self.name) from None

    def _as_ours(self, error: Exception, text: str, exceptions: Any) -> UpstreamError | None:
        if isinstance(error, exceptions.InvalidPathError):
            # obstore gives up the whole page for it, and says the name in quotes.
            return UpstreamRefused(f"cannot be listed: {text.splitlines()[0][:200]}; rename it", url=self.name)
        if _NO_BUCKET.search(text):
            return UpstreamRefused("there is no such bucket", url=self.name)
        if _NO_CREDENTIALS.search(text):
            return UpstreamRefused("no credentials were found in the environment or the usual files", url=self.name)
        found = _STATUS.search(text)
        status = int(found[1]) if found else None
        if isinstance(error, exceptions.PreconditionError):
            return UpstreamUnavailable(_REPLACED, url=self.name)
        if status == 403 or isinstance(error, exceptions.PermissionDeniedError) or _NOT_DELETED.search(text):
            advice = "403; without the right to list the bucket this is also the answer for what it does not have"
            return Forbidden(advice, url=self.name)
        if status == 401 or isinstance(error, exceptions.UnauthenticatedError):
            return UpstreamRefused("401; its credentials are missing or wrong", url=self.name)
        if status == 416 or _EMPTY.search(text):
            return None  # an empty object has no range
        if status is not None:
            kind = UpstreamUnavailable if status in {408, 429} or status >= 500 else UpstreamRefused
            return kind(str(status), url=self.name)
        if re.search(r"kind: Timeout|TimedOut", text):
            return UpstreamUnavailable("timed out", url=self.name, timed_out=True)
        if re.search(r"kind: Connect\b", text):
            return UpstreamUnavailable("no connection", url=self.name)
        if re.search(r"kind: (Interrupted|ConnectionReset|Body)\b", text):
            return UpstreamUnavailable("the connection broke", url=self.name)
        if "BareRedirect" in text:
            return UpstreamRefused("it is in another region; name that as its `region`", url=self.name)
        if "non-partial response" in text:
            return UpstreamRefused("it does not send parts of objects", url=self.name)
        if "BadScheme" in text:
            return UpstreamRefused("plain http is not allowed; name the server in `endpoint`", url=self.name)
        return UpstreamUnavailable("no answer that can be used", url=self.name)


_BLOCK_BYTES = 64 << 10
_MOST_BLOCKS = 64


class BucketView:
    """The bytes of one object, as a `symcache.formats.view.ByteView`; blocks of 64 KiB, of which the last are kept.

    An `UpstreamError` where they cannot be had.
    """

    def __init__(self, bucket: Bucket, info: ObjectInfo, first: bytes) -> None:
        self.info = info
        self._bucket = bucket
        self._blocks: OrderedDict[int, bytes] = OrderedDict({0: first})

    @property
    def size(self) -> int:
        return self.info.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes from *offset*; see `ByteView`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TruncatedInput("the object ends before that", offset=offset)
        if not length:
            return b""
        first, last = offset // _BLOCK_BYTES, (offset + length - 1) // _BLOCK_BYTES
        if last - first >= _MOST_BLOCKS:
            return self._fetch(offset, offset + length)
        self._load(first, last)
        data = b"".join(self._blocks[at] for at in range(first, last + 1))
        start = offset - first * _BLOCK_BYTES
        while len(self._blocks) > _MOST_BLOCKS:
            self._blocks.popitem(last=False)
        return data[start : start + length]

    def _load(self, first: int, last: int) -> None:
        """Bring the blocks from *first* to *last* that are not here, in one request."""
        lacking = [at for at in range(first, last + 1) if at not in self._blocks]
        if lacking:
            start = lacking[0] * _BLOCK_BYTES
            data = self._fetch(start, min((lacking[-1] + 1) * _BLOCK_BYTES, self.size))
            for at in range(lacking[0], lacking[-1] + 1):
                begin = at * _BLOCK_BYTES - start
                self._blocks[at] = data[begin : begin + _BLOCK_BYTES]
        for at in range(first, last + 1):
            self._blocks.move_to_end(at)

    def _fetch(self, start: int, stop: int) -> bytes:
        got = self._bucket.read(self.info.name, start, stop, of=self.info)
        if got is None:
            raise UpstreamUnavailable("the object was removed while it was read", url=self._bucket.name)
        return got[0]


def _mapped(file: BufferedReader, size_bytes: int) -> memoryview:
    """Return the bytes of *file* without a copy of them in memory.

    They are let go of when nothing refers to them any more: a request that was given up still does for a moment.
    """
    return memoryview(mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ) if size_bytes else b"")


def _info(meta: Mapping[str, Any], sha256: str | None = None) -> ObjectInfo:
    modified_s = meta["last_modified"].timestamp()
    return ObjectInfo(meta["path"], meta["size"], modified_s, meta["e_tag"], sha256, meta["version"])


def _are_same(info: ObjectInfo, before: ObjectInfo) -> bool:
    if info.tag is None or before.tag is None:
        return (info.size_bytes, info.modified_s) == (before.size_bytes, before.modified_s)
    return (info.size_bytes, info.tag) == (before.size_bytes, before.tag)


def _part_bytes(size_bytes: int) -> int:
    """Return the length of the parts of an object; S3 takes 10,000 of them."""
    return max(_PART_BYTES, -(-size_bytes // 9_000))


def _open(url: str, entry: BucketEntry | None, network: Network, *, silence_s: float) -> tuple[Any, str | None]:
    """Return obstore's store, and `Bucket.address`."""
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415 - of the extra
        from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415
    except ImportError:
        raise ConfigError(_MISSING_EXTRA, where=url) from None
    parts = urlsplit(url)
    endpoint = None if entry is None else entry.endpoint
    bucket, prefix = parts.netloc, parts.path.strip("/")
    is_anonymous = entry is not None and entry.anonymous
    settings: Any = {"skip_signature": True} if is_anonymous else {}
    how: dict[str, Any] = {}
    if parts.scheme == "az":
        settings |= {"account_name": entry.account} if entry is not None and entry.account else {}
        endpoint = endpoint or azure_endpoint()
    elif parts.scheme == "gs":
        endpoint = endpoint or google_endpoint()
    else:
        if parts.scheme != "s3":
            endpoint = f"{parts.scheme}://{parts.netloc}"
            bucket, _, prefix = prefix.partition("/")
        profile = aws_profile(None if entry is None else entry.profile, anonymous=is_anonymous)
        endpoint = endpoint or profile.endpoint
        region = (entry.region if entry is not None else None) or profile.region
        if profile.keys:  # settings would be mixed with a token that the environment has for other keys
            how["credential_provider"] = lambda: {**profile.keys, "expires_at": None}
        settings |= {"region": region} if region else {}
        settings |= {"checksum_algorithm": "SHA256"} if entry is None or entry.checksums else {}
    address: str | None = None
    if endpoint:
        settings |= {"base_url" if parts.scheme == "gs" else "endpoint": endpoint}
        address = "/".join(filter(None, (endpoint.rstrip("/"), bucket, prefix)))
    how |= {
        "prefix": prefix or None,
        "client_options": _client_options(network, silence_s, is_plain=(endpoint or "").startswith("http://")),
        "retry_config": {
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=_READ_S),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        },
    }
    kinds = {"gs": GCSStore, "az": AzureStore}
    try:
        store = kinds.get(parts.scheme, S3Store)(bucket, config=settings, **how)
    except (BaseError, ValueError, TypeError) as error:
        # Of what obstore says the first line tells what is wrong; the rest is its debug output. It quotes values.
        problem = re.sub('"[^"]*"?', '"…"', str(error).splitlines()[0][:200]) if str(error) else type(error).__name__
        raise ConfigError(f"the bucket cannot be opened: {redact_words(problem)}", where=url) from None
    return store, address


def _client_options(network: Network, silence_s: float, *, is_plain: bool) -> Any:
    options: dict[str, Any] = {
        "allow_http": is_plain,
        "connect_timeout": timedelta(seconds=min(network.connect_timeout_s, _CONNECT_S)),
        "read_timeout": timedelta(seconds=silence_s),
        "timeout": timedelta(seconds=max(silence_s, _REQUEST_S)),
        "user_agent": "symcache",
        **_proxy_options(network, is_plain=is_plain),
    }
    if network.ca_file is not None:
        try:
            options["root_certificate"] = network.ca_file.read_bytes()
        except OSError as error:
            raise ConfigError(f"{network.ca_file}: {error.strerror}", where="network.ca_file") from error
    return options


def _proxy_options(network: Network, *, is_plain: bool) -> dict[str, str]:
    """Return which proxy is taken, as for servers; of the system's own, and of scripts, obstore decides."""
    from urllib.request import getproxies_environment  # noqa: PLC0415 - slow to import

    environment = getproxies_environment()
    proxy = network.proxy
    if proxy is None:
        proxy = environment.get("http" if is_plain else "https") or environment.get("all")
    if proxy is None:
        return {}
    if not proxy:  # none at all; left to obstore, the environment's would count
        return {"proxy_url": "http://none.invalid", "proxy_excludes": "*,0.0.0.0/0,::/0"}
    excluded = (entry.strip() for entry in (*network.no_proxy, *environment.get("no", "").split(",")))
    return {
        "proxy_url": proxy if "://" in proxy else f"http://{proxy}",
        "proxy_excludes": ",".join(filter(None, excluded)),
    }
