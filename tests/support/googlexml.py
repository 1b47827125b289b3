"""A stand-in for Google Cloud Storage on loopback: its XML API as it is documented, as far as obstore asks.

It is nobody's emulator: those that were found (gcp-storage-emulator, fake-gcs-server) speak Google's JSON API, and
obstore the XML one. So it shows that requests and answers are as documented, and not that Google takes them.

Source: Google's XML API reference, "Object" and "Bucket" methods, "Multipart uploads", "HTTP status and error codes";
"V4 signing process with your own program".
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from support.buckets import SECRETS, BucketServer
from support.parts import need
from support.wire import Listener, Request, read_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any, Self

    from obstore.store import GCSStore

__all__ = ["GoogleStandIn"]

_TOKEN = SECRETS[3]
_PAGE_OBJECTS = 1000
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_GENERATIONS = count(1_700_000_000_000_001)


@dataclass(frozen=True)
class _Object:
    content: bytes
    fields: Mapping[str, str]  # what is stored with it: type and own metadata
    generation: int = field(default_factory=lambda: next(_GENERATIONS))
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


@dataclass(frozen=True, slots=True)
class _Upload:
    name: str
    fields: Mapping[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)


def _xml(status: int, text: str) -> _Answer:
    return _Answer(
        status, f"<?xml version='1.0' encoding='UTF-8'?>{text}".encode(), {"Content-Type": "application/xml"}
    )


def _error(status: int, code: str) -> _Answer:
    return _xml(status, f"<Error><Code>{code}</Code><Message>As documented.</Message></Error>")


class GoogleStandIn(BucketServer):
    """Google's buckets as `support.googlexml` has them; who asks needs a token, and all is gone when it ends."""

    scheme = "gs"
    keeps = keeps_if_killed = False
    creates_once = True

    def __init__(self, _home: Path | None = None) -> None:
        need("obstore")
        need("cryptography")
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415 - not where nothing needs it

        self._buckets: dict[str, dict[str, _Object]] = {}
        self._uploads: dict[str, _Upload] = {}
        self._turn = threading.Lock()
        self._key = rsa.generate_private_key(65537, 2048)
        self._names = count(1)
        self._made: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Listen."""
        self._listener = Listener(self._serve)
        self.port = self._listener.port

    def kill(self) -> None:
        """End every connection, and refuse new ones."""
        self._listener.close()

    stop = kill

    def variables(self, at: str) -> dict[str, str]:
        return {
            "GOOGLE_BASE_URL": at,
            "GOOGLE_BEARER_TOKEN": _TOKEN,
            "GOOGLE_SERVICE_ACCOUNT_KEY": self._account,  # by which URLs are signed
        }

    def open(self, bucket: str, at: str, **options: Any) -> GCSStore:
        from obstore.store import GCSStore  # noqa: PLC0415 - an extra

        own = {"base_url": at, "bearer_token": _TOKEN, "service_account_key": self._account}
        config: Any = {**own, **options.pop("config", {})}
        client: Any = {"allow_http": True, **options.pop("client_options", {})}
        return GCSStore(bucket, config=config, client_options=client, **options)

    def _make_bucket(self, name: str) -> None:
        self._buckets[name] = {}

    @property
    def _account(self) -> str:
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return json.dumps({"client_email": "nobody@tests.example", "private_key": key, "private_key_id": "1"})

    def _is_let_in(self, request: Request) -> bool:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

        query, _, signature = request.query.partition("&X-Goog-Signature=")
        if not signature:
            return request.headers.get("authorization") == f"Bearer {_TOKEN}"
        said = {name: values[0] for name, values in parse_qs(query).items()}
        host = "host:storage.googleapis.com\n"  # whatever server obstore is told of in its place
        canonical = [request.method, request.target.partition("?")[0], query, host, "host", "UNSIGNED-PAYLOAD"]
        digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
        scope = said["X-Goog-Credential"].partition("/")[2]
        signed = "\n".join(["GOOG4-RSA-SHA256", said["X-Goog-Date"], scope, digest])
        try:
            self._key.public_key().verify(bytes.fromhex(signature), signed.encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while (request := read_head(stream, skip_body=False)) is not None:
                body = stream.read(int(request.headers.get("content-length", "0")))
                with self._turn:
                    answer = self._answer(request, body)
                fields = {"Content-Length": str(len(answer.body)), **answer.fields}
                lines = [f"HTTP/1.1 {answer.status} X", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
                sent = b"" if request.method == "HEAD" else answer.body
                connection.sendall("\r\n".join(lines).encode("latin-1") + sent)

    def _answer(self, request: Request, body: bytes) -> _Answer:
        if not self._is_let_in(request):
            return _error(403, "AccessDenied")
        bucket, _, name = request.path[1:].partition("/")
        query = {key: values[0] for key, values in parse_qs(request.query, keep_blank_values=True).items()}
        objects = self._buckets.get(bucket)
        if objects is None:
            return _error(404, "NoSuchBucket")
        if not name:
            return _list(objects, query)
        if "uploads" in query or "uploadId" in query:
            return self._take_part(request, name, query, objects, body)
        if request.method == "PUT":
            return self._write(request, name, objects, body)
        found = objects.get(name)
        if found is None:
            return _error(404, "NoSuchKey")
        if request.method == "DELETE":
            del objects[name]
            return _Answer(204)
        return _read(request, found)

    def _write(self, request: Request, name: str, objects: dict[str, _Object], body: bytes) -> _Answer:
        wanted = request.headers.get("x-goog-if-generation-match")
        # 0 stands for none at all.
        if wanted is not None and int(wanted) != (objects[name].generation if name in objects else 0):
            return _error(412, "PreconditionFailed")
        source = request.headers.get("x-goog-copy-source")
        if source is None:
            objects[name] = _Object(body, _stored_fields(request))
            return _Answer(200, fields=_fields_of(objects[name]))
        from_bucket, _, from_name = unquote(source).lstrip("/").partition("/")
        original = self._buckets.get(from_bucket, {}).get(from_name)
        if original is None:
            return _error(404, "NoSuchKey")
        objects[name] = _Object(original.content, original.fields)
        return _xml(200, f"<CopyObjectResult><ETag>{objects[name].tag}</ETag></CopyObjectResult>")

    def _take_part(
        self, request: Request, name: str, query: Mapping[str, str], objects: dict[str, _Object], body: bytes
    ) -> _Answer:
        if "uploads" in query:
            upload_id = f"upload-{len(self._uploads)}"
            self._uploads[upload_id] = _Upload(name, _stored_fields(request))
            text = f"<UploadId>{upload_id}</UploadId>"
            return _xml(200, f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>")
        upload = self._uploads.get(query["uploadId"])
        if upload is None or upload.name != name:
            return _error(404, "NoSuchUpload")
        if request.method == "PUT":
            upload.parts[int(query["partNumber"])] = body
            return _Answer(200, fields={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        del self._uploads[query["uploadId"]]
        if request.method == "DELETE":
            return _Answer(204)
        numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
        objects[name] = _Object(b"".join(upload.parts[number] for number in numbers), upload.fields)
        return _xml(
            200, f"<CompleteMultipartUploadResult><ETag>{objects[name].tag}</ETag></CompleteMultipartUploadResult>"
        )


def _stored_fields(request: Request) -> Mapping[str, str]:
    kept = request.headers.items()
    return {name: value for name, value in kept if name == "content-type" or name.startswith("x-goog-meta-")}


def _fields_of(stored: _Object) -> Mapping[str, str]:
    modified = format_datetime(stored.modified, usegmt=True)
    return {"ETag": stored.tag, "Last-Modified": modified, "x-goog-generation": str(stored.generation)}


def _read(request: Request, found: _Object) -> _Answer:
    if request.headers.get("if-match", found.tag) != found.tag:
        return _error(412, "PreconditionFailed")
    fields = {**found.fields, **_fields_of(found), "Content-Length": str(len(found.content))}
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None:
        return _Answer(200, found.content, fields)
    start, size = int(match[1]), len(found.content)
    if start >= size:
        return _error(416, "InvalidRange")
    part = found.content[start : int(match[2]) + 1 if match[2] else size]
    stated = f"bytes {start}-{start + len(part) - 1}/{size}"
    return _Answer(206, part, {**fields, "Content-Length": str(len(part)), "Content-Range": stated})


def _list(objects: Mapping[str, _Object], query: Mapping[str, str]) -> _Answer:
    if query.get("list-type") != "2":
        return _error(400, "InvalidArgument")
    after = query.get("continuation-token") or query.get("start-after", "")
    names = [
        name
        for name in sorted(objects, key=str.encode)
        if name.startswith(query.get("prefix", "")) and name.encode() > after.encode()
    ]
    page = names[:_PAGE_OBJECTS]
    is_cut = len(page) < len(names)
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_cut else ""
    contents = "".join(
        f"<Contents><Key>{escape(name)}</Key><Generation>{objects[name].generation}</Generation>"
        f"<LastModified>{objects[name].modified.isoformat(timespec='milliseconds')[:-6]}Z</LastModified>"
        f"<ETag>{escape(objects[name].tag)}</ETag><Size>{len(objects[name].content)}</Size></Contents>"
        for name in page
    )
    text = f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}{contents}"
    return _xml(200, f"<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>{text}</ListBucketResult>")
