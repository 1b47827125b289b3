"""Every parser of what comes from outside, with what a fuzzer would give it: the table of targets in a few seconds.

`tests/faults/fuzz.py` runs the same targets for as long as one likes, guided by the code that inputs reach.
"""

from __future__ import annotations

from itertools import chain, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.fuzzing import BoundBroken, Patches, Target
from support.fuzztargets import TARGETS
from support.mutation import mutants
from support.parts import wine_lacks
from support.shared import corpus, needs_corpus

import symcache
from symcache.errors import MalformedInput
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

_PACKAGE = Path(symcache.__file__).parent
_INPUTS = 40
_LONGEST_REAL_BYTES = 200_000
# What other modules are made of, and what reads nothing by itself.
_NO_PARSERS = {
    "formats/filetime",
    "formats/view",
    "formats/pdb/deep",
    "inputs/folder",
    "inputs/livewindows",
    "inputs/mounted",
    "inputs/records",
    "inputs/runtimes",
    "inputs/scratch",
    "inputs/versions",
    "inputs/wimlib",
}


def damaged(target: Target, count: int) -> Iterator[bytes]:
    """Yield the seeds of *target*, and *count* damaged copies of them in turn."""
    yield from target.seeds
    copies = [mutants(seed, count, rng_seed=number, hot=512) for number, seed in enumerate(target.seeds)]
    yield from islice(map(next, cycle(copies)), count)


_TARGETS = [pytest.param(name, marks=wine_lacks("ntlm")) if name == "challenge" else name for name in TARGETS]


@pytest.mark.parametrize("name", _TARGETS)
def test_no_input_costs_more_than_its_length_allows_or_ends_in_another_error(name: str) -> None:
    target = TARGETS[name]
    target.run(target.seeds[0])  # which imports what is imported when it is needed
    for data in chain([b""], damaged(target, _INPUTS)):
        target.measure(data)


@pytest.mark.parametrize("name", _TARGETS)
def test_a_target_has_a_seed_that_its_parser_takes(name: str) -> None:
    target = TARGETS[name]
    refused = 0
    for seed in target.seeds:
        try:
            target.parse(seed)
        except target.errors:
            refused += 1
    assert refused < len(target.seeds)


def test_what_a_target_covers_is_there() -> None:
    for target in TARGETS.values():
        for covered in target.covers:
            assert (_PACKAGE / covered).is_dir() or (_PACKAGE / f"{covered}.py").is_file(), covered


def test_every_module_that_reads_a_format_or_an_input_has_a_target() -> None:
    covered = {each for target in TARGETS.values() for each in target.covers}
    for package in ("formats", "inputs"):
        for path in (_PACKAGE / package).rglob("*.py"):
            module = path.relative_to(_PACKAGE).with_suffix("").as_posix()
            parents = {module, *(parent.as_posix() for parent in Path(module).parents)}
            assert path.name == "__init__.py" or module in _NO_PARSERS or covered & parents, module


_REAL = {
    "cab": "cabinet",
    "cab-bad": "cabinet",
    "pdb": "pdb",
    "pdb-bad": "pdb",
    "pdb-portable": "pdb",
    "pe": "pe-file",
    "pe-bad": "pe-file",
    "user-minidump": "minidump",
    "user-minidump-bad": "minidump",
    "logs": "any-input",
    "kernel-triage": "any-input",
    "kernel-triage-bad": "any-input",
}


@needs_corpus
@pytest.mark.parametrize("folder", _REAL)
def test_damaged_real_files_are_read_or_refused(folder: str) -> None:
    target = TARGETS[_REAL[folder]]
    files = [path for path in sorted((corpus / folder).rglob("*")) if path.is_file()]
    small = [path for path in files if path.stat().st_size <= _LONGEST_REAL_BYTES]
    for number, path in enumerate(small[:20]):
        for data in mutants(path.read_bytes(), 3, rng_seed=number):
            target.measure(data)


def test_what_costs_too_much_is_found() -> None:
    def loop(data: bytes) -> None:
        for _ in range(len(data) * 1000):
            len(data)

    def keep(data: bytes) -> None:
        data * 1000

    for parse, said in ((loop, "calls"), (keep, "bytes of memory")):
        target = Target("x", parse, lambda: [b"x"], (), most_calls=(1000, 1000), most_bytes=(20_000, 1000))
        target.measure(b"")
        with pytest.raises(BoundBroken, match=said):
            target.measure(bytes(1024))


def test_only_documented_errors_are_answers() -> None:
    def refuse(data: bytes) -> None:
        raise MalformedInput("no") if data else KeyError

    target = Target("x", refuse, lambda: [b"x"], ())
    target.run(b"x")
    with pytest.raises(KeyError):
        target.run(b"")


def test_patches_fall_where_a_base_is_read() -> None:
    def read(view: ByteView) -> None:
        assert view.read(100, 4) == bytes(4)

    patches = Patches(lambda: [bytes(1000)], read)
    assert patches.apply(b"\0") == bytes(1000)
    patched = patches.apply(b"\0" + b"\7\0\2\x39\5")
    assert patched == bytes(100) + b"\x39\5\0\0" + bytes(896)
    with pytest.raises(AssertionError):
        read(BytesView(patched))
