from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.serving import Published, publish
from support.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def small() -> Published:
    return publish("small.pdb", 1)


@pytest.fixture(scope="session")
def large() -> Published:
    """Long enough to be passed on while it arrives."""
    return publish("large.pdb", 2, payload_bytes=6 << 20)


@pytest.fixture(scope="session")
def old() -> Published:
    """Of an age whose hex digits could be taken for decimal ones."""
    return publish("old.pdb", 3, age=26)
