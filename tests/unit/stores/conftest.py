from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import pytest
from support.sources import Rig

from symcache.stores.http import certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
