from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.dbgeng import Engine, build_engine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Microsoft's debugger engine."""
    yield from build_engine()
