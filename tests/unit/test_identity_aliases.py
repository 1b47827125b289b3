from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import MalformedInput
from symcache.identity import DbgKey, ImageKey, published_keys, source_name

_OTHER_KERNELS = ["ntkrnlmp.exe", "ntkrnlpa.exe", "ntkrpamp.exe", "ntkrnlup.exe", "ntkrla57.exe"]
_OTHER_HALS = ["halacpi.dll", "halaacpi.dll", "halapic.dll", "halmps.dll"]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("ntoskrnl.exe", ["ntoskrnl.exe", *_OTHER_KERNELS]),
        (
            "NTKRNLPA.EXE",
            ["NTKRNLPA.EXE", "ntoskrnl.exe", "ntkrnlmp.exe", "ntkrpamp.exe", "ntkrnlup.exe", "ntkrla57.exe"],
        ),
        ("hal.dll", ["hal.dll", "halmacpi.dll", *_OTHER_HALS]),
        ("halmacpi.dll", ["halmacpi.dll", "hal.dll", *_OTHER_HALS]),
        ("tcpip.sys", ["tcpip.sys"]),
        ("dump_storport.sys", ["storport.sys", "dump_storport.sys"]),
        ("HIBER_storport.sys", ["storport.sys", "HIBER_storport.sys"]),
        ("dump_dumpfve.sys", ["dumpfve.sys", "dump_dumpfve.sys"]),
        ("dump_con.sys", ["dump_con.sys"]),
    ],
)
def test_an_image_may_be_published_under_names_that_no_dump_lists(name: str, published: list[str]) -> None:
    keys = published_keys(ImageKey(name, 0x4A5BBFF7, 0x412000))
    assert [key.name for key in keys] == published
    assert {key.id for key in keys} == {"4A5BBFF7412000"}


def test_a_separate_debug_file_has_one_name() -> None:
    key = DbgKey("hal.dll", 1, 0x1000)
    assert published_keys(key) == (key,)


@pytest.mark.parametrize("name", ["dump_.sys", "dump_storport.dll", "storport.sys", "crashdump.sys"])
def test_what_is_no_copy_keeps_its_name(name: str) -> None:
    assert source_name(name) == name


@given(st.text(min_size=1))
def test_any_name_that_can_be_asked_for_is_among_the_published_ones(name: str) -> None:
    try:
        key = ImageKey(name, 1, 0x1000)
    except MalformedInput:
        return
    assert key in published_keys(key)
    assert len(set(published_keys(key))) == len(published_keys(key))
