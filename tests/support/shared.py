"""The corpus of real files beside the checkout, where there is one; a user's clone has none."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

__all__ = ["corpus", "corpus_files", "needs_corpus", "truth"]

corpus = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_corpus = pytest.mark.skipif(not (corpus / "truth.json").is_file(), reason="the corpus of real files is not here")


@cache
def truth() -> dict[str, Any]:
    """Return what independent tools say of each file, by its path below the corpus; empty without a corpus."""
    path = corpus / "truth.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def corpus_files(folder: str) -> list[str]:
    """Return the names, relative to the corpus, of the files below *folder* that have a truth; sorted."""
    return sorted(name for name in truth() if name.startswith(folder + "/"))
