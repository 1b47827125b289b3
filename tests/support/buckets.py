"""Object stores on loopback, each in a process of its own.

    with Moto(home) as server:
        bucket = server.new_bucket()
        store = bucket.open()              # by obstore, as a test looks into it
        run(..., env=bucket.variables())   # as a command is told of it, with `bucket.url`

None of the keys here is anybody's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from email.utils import formatdate
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from support.parts import need, skip_without

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self

    from obstore.store import AzureStore, GCSStore, S3Store

__all__ = ["NO_RETRIES", "SECRETS", "Azurite", "Bucket", "BucketServer", "Moto", "S3rver"]

NO_RETRIES: dict[str, Any] = {"max_retries": 0}
"""A `retry_config` for `Bucket.open`: obstore's own tries ten times within three minutes."""

_PATIENCE_S = 60.0
_LISTENS = re.compile(
    r"listen\w* on http://127\.0\.0\.1:(\d+)|listening on 127\.0\.0\.1:(\d+)|Running on http://[^:]+:(\d+)"
)
_FROM_OUTSIDE = ("AWS_", "AZURE_", "AZURITE_", "MOTO_", "S3RVER_", "NODE_OPTIONS")
_AZURE_KEY = base64.b64encode(b"no key of any account in the world").decode("ascii")

SECRETS = ("symcache-secret-of-s3", "S3RVER", _AZURE_KEY, "no-token-of-anybody-at-google")
"""What no output may show; that of s3rver is fixed in it, and is its user's name as well."""


class BucketServer:
    """A server of buckets, with all that it keeps below *home*; use it as a context manager.

    Args:
        home: A folder, made if it is not there.

    Attributes:
        scheme: Of the URLs of its buckets.
        keeps: Whether its files survive `stop`.
        keeps_if_killed: Whether they survive `kill`, be they ever so new.
        creates_once: Whether a put that is to create fails where there is a file.
    """

    part: ClassVar[str]
    scheme: ClassVar[str]
    keeps: ClassVar[bool]
    keeps_if_killed: ClassVar[bool]
    creates_once: ClassVar[bool]

    def __init__(self, home: Path) -> None:
        skip_without(self.part, sys.platform != "win32", f"{self.part} is started by a script, which Windows has not")
        need("obstore")
        self._program = need(self.part)
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        self._made: list[str] = []
        self.port = 0

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash; on the same port after each start."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What it said since it was started."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Run it, on the port that it had, with the buckets that it had; files are there again if it `keeps` them."""
        assert self._process is None, "it runs"
        command = [self._program, *self._arguments(self.port)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(_FROM_OUTSIDE)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**env, **self._variables()},
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.port = self._await_port()
        for name in self._made:
            self._make_bucket(name)

    def stop(self) -> None:
        """Ask it to end, and wait until it has; connections are refused from then on."""
        self._end(kill=False)

    def kill(self) -> None:
        """End it at once."""
        self._end(kill=True)

    def new_bucket(self) -> Bucket:
        """Make an empty bucket."""
        name = f"symbols-{next(self._names)}"
        self._make_bucket(name)
        self._made.append(name)
        return Bucket(self, name)

    def variables(self, at: str) -> dict[str, str]:
        """Return the variables that tell obstore, and the tools of the store's maker, of this server behind *at*."""
        raise NotImplementedError

    def open(self, bucket: str, at: str, **options: Any) -> S3Store | AzureStore | GCSStore:
        """Open a bucket by obstore; *options* are those of the store's class."""
        raise NotImplementedError

    def _arguments(self, port: int) -> Sequence[str | Path]:
        raise NotImplementedError

    def _variables(self) -> dict[str, str]:
        return {}

    def _make_bucket(self, name: str) -> None:
        raise NotImplementedError

    def _put(self, path: str, headers: dict[str, str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_S)
        try:
            connection.request("PUT", path, headers=headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status in {200, 201, 409}, text  # 409: it is there
        finally:
            connection.close()

    @property
    def _log(self) -> Path:
        return self._home / "output"

    def _await_port(self) -> int:
        assert self._process is not None
        end_s = time.monotonic() + _PATIENCE_S
        while self._process.poll() is None and time.monotonic() < end_s:
            found = _LISTENS.search(self.output)
            if found is not None:
                return int(next(filter(None, found.groups())))
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"{self.part} does not start: {self.output[-2000:]}")

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if not kill:
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket of a running server.

    Attributes:
        server: Where it is.
        name: A container's name, as Azure calls it.
    """

    server: BucketServer
    name: str

    @property
    def url(self) -> str:
        """As a symbol path and `[store]` name it."""
        return f"{self.server.scheme}://{self.name}"

    def variables(self, at: str | None = None) -> dict[str, str]:
        """Return what a process needs in its environment; *at* is the URL of a relay in front of the server."""
        return self.server.variables(at or self.server.url)

    def open(self, at: str | None = None, **options: Any) -> S3Store | AzureStore | GCSStore:
        """Open it by obstore, with *options* of the store's class; *at* is the URL of a relay in front of the server.

        Without `retry_config` nothing is tried twice.
        """
        return self.server.open(self.name, at or self.server.url, **{"retry_config": NO_RETRIES, **options})


class _S3(BucketServer):
    scheme = "s3"
    key_id: ClassVar[str]
    secret: ClassVar[str]

    def variables(self, at: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": at,
            "AWS_ALLOW_HTTP": "true",
        }

    def open(self, bucket: str, at: str, **options: Any) -> S3Store:
        from obstore.store import S3Store  # noqa: PLC0415 - an extra

        config: Any = {
            "access_key_id": self.key_id,
            "secret_access_key": self.secret,
            "region": "us-east-1",
            "endpoint": at,
            **options.pop("config", {}),
        }
        client: Any = {"allow_http": True, **options.pop("client_options", {})}
        return S3Store(bucket, config=config, client_options=client, **options)


class Moto(_S3):
    """S3, in memory; whoever asks is let in."""

    part = "moto"
    keeps = keeps_if_killed = False
    creates_once = True
    key_id = "symcache-tests"
    secret = SECRETS[0]

    def _arguments(self, port: int) -> Sequence[str]:
        return ["-H", "127.0.0.1", "-p", str(port)]

    def _make_bucket(self, name: str) -> None:
        self._put(f"/{name}", {})


class S3rver(_S3):
    """S3 from before puts with a condition: one that is to create replaces the file. It knows its user by name alone.

    A name must fit into a file's, of 255 bytes: it dies of a longer one.
    """

    part = "s3rver"
    keeps = keeps_if_killed = True
    creates_once = False
    key_id = secret = SECRETS[1]

    def _arguments(self, port: int) -> Sequence[str | Path]:
        return ["-d", self._home / "buckets", "-a", "127.0.0.1", "-p", str(port)]

    def _variables(self) -> dict[str, str]:
        # It encrypts what it gives for a next page of a list by what OpenSSL 3 has put aside.
        return {"NODE_OPTIONS": "--openssl-legacy-provider"}

    def _make_bucket(self, name: str) -> None:
        (self._home / "buckets" / name).mkdir(exist_ok=True)


class Azurite(BucketServer):
    """Azure's blobs. It checks signatures. After a `kill` it has forgotten what was made within some seconds before."""

    part = "azurite"
    scheme = "az"
    keeps = True
    keeps_if_killed = False
    creates_once = True
    account = "symcachetests"
    key = SECRETS[2]

    def variables(self, at: str) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_STORAGE_ENDPOINT": f"{at}/{self.account}",
            "AZURE_ALLOW_HTTP": "true",
        }

    def open(self, bucket: str, at: str, **options: Any) -> AzureStore:
        from obstore.store import AzureStore  # noqa: PLC0415 - an extra

        config: Any = {
            "account_name": self.account,
            "account_key": self.key,
            "endpoint": f"{at}/{self.account}",
            **options.pop("config", {}),
        }
        client: Any = {"allow_http": True, **options.pop("client_options", {})}
        return AzureStore(bucket, config=config, client_options=client, **options)

    def _arguments(self, port: int) -> Sequence[str | Path]:
        fixed = ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
        return ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", self._home / "blobs", *fixed]

    def _variables(self) -> dict[str, str]:
        return {"AZURITE_ACCOUNTS": f"{self.account}:{self.key}"}

    def _make_bucket(self, name: str) -> None:
        # Shared Key: learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        own = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
        resource = f"/{self.account}/{self.account}/{name}\nrestype:container"
        signed = "\n".join(["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in own.items()), resource])
        digest = hmac.digest(base64.b64decode(self.key), signed.encode(), hashlib.sha256)
        signature = base64.b64encode(digest).decode("ascii")
        own["Authorization"] = f"SharedKey {self.account}:{signature}"
        self._put(f"/{self.account}/{name}?restype=container", own)
