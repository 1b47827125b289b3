"""Commands that are killed by the clock while others use the store: nothing wrong shows, and a rerun completes."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.crashes import play


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc to see when a process is at work")
@pytest.mark.parametrize("name", ["warm", "add", "convert", "serve"])
def test_a_kill_while_others_use_the_store_is_mended_by_a_rerun(name: str, tmp_path: Path) -> None:
    killed = play(name, tmp_path, kills=1, seed=0, files=18)
    assert killed.broken == []
    assert killed.kills
