from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synth.optical import iso9660_disc, udf_disc

from symcache.errors import InputError
from symcache.formats.disk.kinds import DiskFormat, find_disk_format
from symcache.formats.disk.optical import open_disc
from symcache.formats.disk.tree import find
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {"install.wim": random.Random(1).randbytes(9000), "empty.txt": b"", "boot.wim": b"short"}
LONG = FILES | {"a driver with a long name.sys": b"longer"}
DISCS: dict[str, Callable[[], bytes]] = {
    "udf": lambda: udf_disc("sources", FILES),
    "udf-wide": lambda: udf_disc("sources", FILES, wide_names=True),
    "udf-inline": lambda: udf_disc("sources", {"boot.wim": b"short"}, inline=True),
    "iso": lambda: iso9660_disc("sources", FILES),
    "iso-in-two": lambda: iso9660_disc("sources", FILES, in_two=True),
    "joliet": lambda: iso9660_disc("sources", LONG, joliet=True),
    "rock-ridge": lambda: iso9660_disc("sources", LONG, rock_ridge=True),
}


@pytest.mark.parametrize("name", DISCS)
def test_the_files_of_a_disc_read_as_they_were_written(name: str) -> None:
    view = BytesView(DISCS[name]())
    assert find_disk_format(view) is DiskFormat.ISO
    disc = open_disc(view)
    folder = find(disc, "Sources")
    assert folder is not None
    found = {}
    for entry in list(disc.entries(folder)):
        content = disc.open(entry)
        found[entry.name.lower()] = content.read(0, content.size)
    expected = {"udf-inline": {"boot.wim": b"short"}, "joliet": LONG, "rock-ridge": LONG}
    assert found == expected.get(name, FILES)


def test_pieces_of_a_file_in_extents_can_be_read() -> None:
    disc = open_disc(BytesView(udf_disc("sources", FILES)))
    entry = find(disc, "sources", "install.wim")
    assert entry is not None
    view = disc.open(entry)
    assert view.read(2000, 100) == FILES["install.wim"][2000:2100]
    assert view.read(5000, 10) == FILES["install.wim"][5000:5010]
    with pytest.raises(InputError):
        view.read(8999, 2)


def test_what_is_no_disc_is_refused() -> None:
    with pytest.raises(InputError):
        open_disc(BytesView(bytes(600_000)))


@given(st.data())
def test_damage_raises_nothing_but_input_errors(data: st.DataObject) -> None:
    sound = data.draw(st.sampled_from(_SOUND))
    places = [at for at in range(0, len(sound), 64) if any(sound[at : at + 64])]
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.sampled_from(places)) + data.draw(st.integers(0, 63))
        value = data.draw(st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x01", b"\x40"]))
        damaged[at : at + len(value)] = value
    try:
        disc = open_disc(BytesView(bytes(damaged)))
        folder = find(disc, "sources")
        for entry in disc.entries(folder) if folder else ():
            view = disc.open(entry)
            view.read(0, min(view.size, 100))
    except InputError:
        pass


_SOUND = [make() for make in DISCS.values()]
