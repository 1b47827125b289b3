"""A look into one key's folder: is each file what it is filed as, and do the files agree with each other?"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError
from symcache.identity import OtherKey, compressed_name, fold, parse_id
from symcache.store.findings import Finding, Mend, Problem
from symcache.store.refs import POINTER, REFS, read_pointer, read_refs
from symcache.store.survey import MSFZ_FOLDER
from symcache.store.tree import Form, list_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.store.findings import Check

__all__ = ["inspect_folder"]

_MSFZ_MAGIC = b"Microsoft MSFZ Container"
_SCRATCH = re.compile(r".*(\.part|\.tmp|\.new|\.temp|\.download|\.crdownload|~)|download[0-9a-f]*\.?\w*")
_SETTLED_S = 3600.0
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


def inspect_folder(
    root: Path,
    folder: Path,
    name: str,
    check: Check,
    *,
    policy: Check | None = None,
    find_stale: Callable[[Collection[int]], Collection[int]] = lambda _: (),
    clock_s: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """Yield what is wrong in *folder*, which is filed as a key of the file *name*.

    Scratch files of other tools count only if they are older than an hour; younger ones may still be written.

    Args:
        root: The store's root.
        folder: A key's folder below it.
        name: The name of its parent.
        check: Looks into files.
        policy: Says why a file that is right should not be in this store; None where every kind may be.
        find_stale: Says which of some transactions are not in force.
        clock_s: Seconds since 1970.
    """
    where = folder.relative_to(root).as_posix()
    try:
        key = parse_id(name, folder.name)
    except InputError as error:
        yield Finding(where, Problem.BAD_NAME, str(error))
        return
    try:
        for path in sorted(folder.iterdir()):
            yield from _inspect_entry(root, path, key, check, policy, clock_s)
        yield from _inspect_refs(root, folder, key, find_stale)
    except FileNotFoundError:
        return  # pruned, or moved, since
    except StoreError as error:
        yield Finding(where, Problem.UNREADABLE, error.problem, index=key.index)
    except OSError as error:
        yield Finding(where, Problem.UNREADABLE, error.strerror or str(error), index=key.index)


def _inspect_entry(
    root: Path, path: Path, key: Key, check: Check, policy: Check | None, clock_s: Callable[[], float]
) -> Iterator[Finding]:
    folded = fold(path.name)
    if path.is_dir():
        if folded == MSFZ_FOLDER:
            for inner in sorted(path.iterdir()):
                yield from _inspect_file(root, inner, key, _check_msfz, policy)
        else:
            yield Finding(path.relative_to(root).as_posix(), Problem.STRAY, "a folder that nobody looks into")
    elif folded in {fold(key.name), fold(compressed_name(key.name))}:
        yield from _inspect_file(root, path, key, check, policy)
    elif folded == POINTER:
        if not path.stat().st_size:
            yield _finding(root, path, Problem.EMPTY, "no target", Mend.POINTER)
    elif folded != REFS:
        is_scratch = _SCRATCH.fullmatch(folded) is not None
        if not is_scratch or clock_s() - path.stat().st_mtime > _SETTLED_S:
            mend = Mend.QUARANTINE if is_scratch else Mend.NONE
            yield _finding(root, path, Problem.STRAY, "a file that nobody looks for", mend)


def _inspect_file(root: Path, path: Path, key: Key, check: Check, policy: Check | None) -> Iterator[Finding]:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        yield _finding(root, path, Problem.EMPTY, "no bytes", Mend.QUARANTINE, key)
    elif not isinstance(key, OtherKey) and head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        yield _finding(root, path, Problem.HTML, "a web page", Mend.QUARANTINE, key)
    elif (reason := check(path, key)) is not None:
        problem = Problem.MISFILED if reason.startswith("another") else Problem.DAMAGED
        yield _finding(root, path, problem, reason, Mend.QUARANTINE, key)
    elif policy is not None and (reason := policy(path, key)) is not None:
        yield _finding(root, path, Problem.UNWANTED, reason, Mend.NONE, key)


def _inspect_refs(
    root: Path, folder: Path, key: Key, find_stale: Callable[[Collection[int]], Collection[int]]
) -> Iterator[Finding]:
    refs = read_refs(folder)
    if not refs.exists:
        return
    path = folder / REFS
    if refs.unreadable or not refs.refs:
        yield _finding(root, path, Problem.REFERENCES, f"{len(refs.unreadable)} lines cannot be read", Mend.NONE)
        return
    if stale := sorted(find_stale({ref.id for ref in refs.refs})):
        verb = "is" if len(stale) == 1 else "are"
        detail = f"names {', '.join(map(str, stale[:8]))}, which {verb} not in force"
        yield _finding(root, path, Problem.REFERENCES, detail, Mend.REFERENCES)
        if len(stale) == len({ref.id for ref in refs.refs}):
            return
    forms = {stored.form for stored in list_stored(folder, key.name)}
    found, wanted = read_pointer(folder), refs.pointer
    if found != wanted:
        if found is None:
            detail = f"refs.ptr ends in a pointer to {wanted}, and there is none"
        elif wanted is None:
            detail = f"leads to {found}, and refs.ptr ends in a file"
        else:
            detail = f"leads to {found}, and refs.ptr has {wanted}"
        yield Finding((folder / POINTER).relative_to(root).as_posix(), Problem.POINTER, detail, Mend.POINTER)
    if refs.forms and not forms & {Form.PLAIN, Form.COMPRESSED}:
        ids = ", ".join(str(ref.id) for ref in refs.refs[:8])
        where = (folder / key.name).relative_to(root).as_posix()
        yield Finding(where, Problem.ABSENT, f"named in refs.ptr by {ids}", Mend.FETCH, key.index)


def _check_msfz(path: Path, key: Key) -> str | None:
    del key  # its own reader is the debugger's; the name of the folder is all that can be held against it
    with path.open("rb") as file:
        return None if file.read(len(_MSFZ_MAGIC)) == _MSFZ_MAGIC else "not an MSFZ container"


def _finding(root: Path, path: Path, problem: Problem, detail: str, mend: Mend, key: Key | None = None) -> Finding:
    status = path.stat()
    where = path.relative_to(root).as_posix()
    index = None if key is None else key.index
    return Finding(where, problem, detail, mend, index, None, status.st_size, status.st_mtime_ns)
