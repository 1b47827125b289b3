"""Faults of networks and proxies: each command ends soon and says what it was, and `serve` delivers again at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults.network import FAULTS, QUICK, Fault, Scene, scene, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("trustme", reason="trustme is not installed")
SOON_S = 30.0  # on a machine that is busy; without, it is less than eight


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            patch.delenv(name, raising=False)
            patch.delenv(name.lower(), raising=False)
        with scene(tmp_path_factory.mktemp("network"), QUICK) as ready:
            yield ready


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named_soon_and_gone_when_it_is_mended(fault: Fault, stage: Scene) -> None:
    outcomes, recovery_s = stage.play(fault, timeout_s=2)
    assert wrong(fault, outcomes) == {}
    assert all(outcome.seconds < SOON_S for outcome in outcomes.values()), outcomes
    assert outcomes["serve"].code in ({502, 503, 504} if fault.said else {200})
    assert recovery_s < 5
