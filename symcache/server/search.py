"""Finding a file in the store by part of its name or id."""

from __future__ import annotations

import re
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from symcache.identity import fold
from symcache.store.survey import list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from symcache.store.tree import Store

__all__ = ["search"]

_MOST = 100
_MOST_LOOKED_FOR = 1000
_LONGEST_S = 5.0
_GUID = re.compile(r"\{?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?")


def search(
    store: Store | None,
    text: str,
    missed: Sequence[dict[str, Any]],
    is_missing: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> dict[str, Any]:
    """Return ``files`` of *store* and rows of *missed* whose index has every word of *text*, and ``is_complete``.

    *is_missing* tells of a row that fits whether no store has the file meanwhile. A GUID may be written with braces and
    hyphens. The search ends after a hundred files, or a few seconds.

    Raises:
        StoreError: The store cannot be read.
    """
    words = [
        word for part in fold(text).replace("\\", "/").split() for word in _without_hyphens(part).split("/") if word
    ]
    if not words:
        return {"files": [], "missing": [], "is_complete": True}
    end_s = time.monotonic() + _LONGEST_S
    files: list[dict[str, Any]] = []
    is_complete = True
    for name, id_, folder in store.key_folders() if store is not None else ():
        index = f"{name}/{id_}/{name}"
        if _has(index, words):
            size_bytes = max((size for _, size, _ in list_files(folder, name)), default=None)
            if size_bytes is not None:
                files.append({"index": index, "bytes": size_bytes})
        if len(files) >= _MOST or time.monotonic() > end_s:
            is_complete = False
            break
    fitting = islice((row for row in missed if _has(row["index"], words)), _MOST_LOOKED_FOR)
    return {
        "files": files,
        "missing": list(islice(filter(is_missing, fitting), _MOST)),
        "is_complete": is_complete,
    }


def _without_hyphens(word: str) -> str:
    return word.strip("{}").replace("-", "") if _GUID.fullmatch(word) else word


def _has(index: str, words: Sequence[str]) -> bool:
    folded = fold(index)
    return all(word in folded for word in words)
