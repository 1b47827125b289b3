from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from support.sources import Rig

from symcache.config import BucketEntry, Network
from symcache.stores.http import certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.buckets import Bucket

    from symcache.stores.bucket import objects

_make = certificates.Trust._make
_usual = cache(lambda: _make(certificates.Trust()))


@pytest.fixture(autouse=True)
def _read_the_systems_certificates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare each source the reading, which takes longer than most tests."""
    monkeypatch.setattr(
        certificates.Trust, "_make", lambda self: _make(self) if self._ca_file or self._entries else _usual()
    )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture(params=["auto", "httpx"])
def rig_on_each_transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A rig for tests of what both transports have to mean; other libraries log no more than under the command."""
    loggers = [logging.getLogger(name) for name in ("httpx", "httpcore")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    yield Rig(tmp_path, transport=request.param)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Let this process's environment say of a bucket what a user's would; *at* is the URL of a relay before it."""

    def put_down(bucket: Bucket, at: str | None = None) -> str:
        for name, value in bucket.variables(at).items():
            monkeypatch.setenv(name, value)
        return bucket.url

    return put_down


@pytest.fixture
def opened(enter: Callable[..., str]) -> Callable[..., objects.Bucket]:
    """Open a bucket as symcache does; *prefix* begins with a slash, more options are keys of ``[[bucket]]``."""

    def open_it(bucket: Bucket, at: str | None = None, *, prefix: str = "", **entry: Any) -> objects.Bucket:
        from symcache.stores.bucket import objects  # noqa: PLC0415 - not where there is no extra

        url = enter(bucket, at) + prefix
        return objects.Bucket(url, BucketEntry(url=url, **entry) if entry else None, Network(proxy=""))

    return open_it


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bucket that fails say so at once; that it is asked again is obstore's, and seen in one test."""
    from symcache.stores.bucket import objects  # noqa: PLC0415

    monkeypatch.setattr(objects, "_RETRIES", 0)
