from __future__ import annotations

import random
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from support.parts import need
from support.synth.cab import CabinetDamage, Lzx, Mszip, Stored, SynthFolder, build_cabinet
from support.synth.lzx import _code_lengths

if TYPE_CHECKING:
    from pathlib import Path

_RANDOM = random.Random(5)
CALLS = b"".join(
    b"\x55\x8b\xec\xe8" + _RANDOM.choice((0, 1000, 70_000, 2**32 - 500)).to_bytes(4, "little") + b"\xc3\xe8"
    for _ in range(4000)
)
CONTENT = CALLS + _RANDOM.randbytes(9000) + bytes(20_000) + b"".join(b"record %d\0" % n for n in range(3000)) + CALLS

COMPRESSIONS: list[Stored | Mszip | Lzx] = [
    Stored(),
    Mszip(),
    *(Lzx(window_bits) for window_bits in range(15, 22)),
    Lzx(15, ("aligned",)),
    Lzx(18, ("stored",), 20_001),
    Lzx(18, ("aligned", "verbatim"), 30_000, e8_size=len(CONTENT)),
    Lzx(21, ("verbatim", "aligned", "stored"), 10_001, e8_size=12_345_678),
]
READERS = {"cabextract": ["-p"], "7z": ["x", "-so"]}


def read_with(tool: str, data: bytes, tmp_path: Path) -> bytes:
    path = tmp_path / "some.cab"
    path.write_bytes(data)
    return subprocess.run([need(tool), *READERS[tool], path], capture_output=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=repr)
@pytest.mark.parametrize("tool", READERS)
def test_other_programs_read_every_compression(tool: str, compression: Stored | Mszip | Lzx, tmp_path: Path) -> None:
    assert read_with(tool, build_cabinet([SynthFolder([("a.pdb", CONTENT)], compression)]), tmp_path) == CONTENT


@pytest.mark.parametrize("tool", READERS)
def test_other_programs_read_reserves_and_several_folders(tool: str, tmp_path: Path) -> None:
    folders = [SynthFolder([("a", b"first"), ("b", CONTENT)]), SynthFolder([("c", b"third")], Lzx())]
    data = build_cabinet(folders, reserve=(bytes(20), b"ff", bytes(3)))
    assert read_with(tool, data, tmp_path) == b"first" + CONTENT + b"third"


@pytest.mark.parametrize("tool", READERS)
def test_other_programs_refuse_a_wrong_checksum(tool: str, tmp_path: Path) -> None:
    data = build_cabinet([SynthFolder([("a", CONTENT)])], damage=CabinetDamage(checksum_xor=1 << 9))
    with pytest.raises(subprocess.CalledProcessError):
        read_with(tool, data, tmp_path)


def test_codes_stay_short_however_uneven_their_use_is() -> None:
    uses = Counter({0: 1, 1: 1})
    for symbol in range(2, 30):
        uses[symbol] = uses[symbol - 1] + uses[symbol - 2]  # the worst case: each code one bit longer than the last
    lengths = _code_lengths(uses, 30, 16)
    assert max(lengths) <= 16
    assert sum(2**-length for length in lengths) == 1


def test_sizes_in_the_header_are_those_of_the_cabinet() -> None:
    data = build_cabinet([SynthFolder([("a", b"x")], Stored())], trailing=b"signature")
    assert int.from_bytes(data[8:12], "little") == len(data) - len(b"signature")
    assert data.endswith(b"\1\0\1\0xsignature")
