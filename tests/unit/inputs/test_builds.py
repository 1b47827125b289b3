from __future__ import annotations

import json
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synth.winbindex import ARM64, I386, Entry, base, delta_fields, document, full_fields, insider, update

from symcache.config import BuildSettings
from symcache.errors import InputError, UsageError
from symcache.formats.view import BytesView
from symcache.formats.winbindex import INSIDER, read_index
from symcache.identity import ImageKey
from symcache.inputs.builds.choose import Architecture, Choice, modules_of
from symcache.inputs.builds.source import BuildSource, shard_of
from symcache.inputs.builds.words import Build, ByRelease, ByUpdate, known_updates, parse_words, resolve
from symcache.inputs.detect import InputOptions, open_inputs
from symcache.inputs.records import DocumentsWanted, Input, InputKind, Module, Remark, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from symcache.inputs.builds.words import KnownUpdate, Target
    from symcache.inputs.records import Record

WORDS = [
    ("22621.1483", Build(22621, 1483)),
    ("10.0.22621.1483", Build(22621, 1483)),
    (" 22621 ", Build(22621)),
    ("10.0.19045", Build(19045)),
    ("KB5023706", ByUpdate("KB5023706")),
    ("kb5023706", ByUpdate("KB5023706")),
    ("5023706", ByUpdate("KB5023706")),
    ("11 22H2", ByRelease("22H2", 11)),
    ("11-22h2", ByRelease("22H2", 11)),
    ("Windows 11 22H2", ByRelease("22H2", 11)),
    ("Windows 10 version 1903", ByRelease("1903", 10)),
    ("Microsoft Windows 11, version 24H2", ByRelease("24H2", 11)),
    ("22H2", ByRelease("22H2")),
    ("1903", ByRelease("1903")),
    ("version 20H2", ByRelease("20H2")),
]


@pytest.mark.parametrize(("text", "meant"), WORDS)
def test_words_mean_a_build_an_update_or_a_release(text: str, meant: object) -> None:
    assert parse_words(text) == meant


@pytest.mark.parametrize(
    "text", ["", "x", "6.1.7601", "22621.", "22621.1.2", "KB12", "11", "12 22H2", "22H3", "a" * 99]
)
def test_other_words_are_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(InputError, match=r"write it as 22621\.1483"):
        parse_words(text)


@given(st.text())
def test_any_words_mean_something_or_are_refused(text: str) -> None:
    with suppress(InputError):
        parse_words(text)


KERNELS = [
    Entry(full_fields(1, 0x1000), [base("22H2"), base("11-22H2"), base("11-23H2"), base("2004")]),
    Entry(full_fields(2, 0x2000), [update("11-22H2", "KB5023706", "22621.1413")]),
    Entry(full_fields(3, 0x3000), [update("11-22H2", "KB5023778", "22621.1485", date="2023-03-28")]),
    Entry(full_fields(4, 0x4000), [update("11-22H2", "KB5033375", "22621.2861", others=["11-23H2"])]),
    Entry(full_fields(5, 0x5000), [update("2004", "KB5033372", "19041.3803", others=["20H2", "22H2"])]),
    Entry(full_fields(6, 0x6000), [update("1903", "KB4512508", "18362.295")]),
    Entry(full_fields(6, 0x6000, ARM64), [update("11-22H2", "KB5033375", "22621.2861", machine=ARM64)]),
]


def known(entries: Iterable[Entry] = KERNELS) -> list[KnownUpdate]:
    read = read_index(BytesView(document(entries)))
    return known_updates(each for entry in read for each in entry.occurrences)


def target(text: str, entries: Iterable[Entry] = KERNELS) -> Target:
    return resolve(parse_words(text), known(entries))


@pytest.mark.parametrize(
    ("text", "release", "update_name", "build"),
    [
        ("22621.1485", "11-22H2", "KB5023778", "22621.1485"),
        ("22621", "11-22H2", "KB5033375", "22621.2861"),
        ("11 22H2", "11-22H2", "KB5033375", "22621.2861"),
        ("22631", "11-23H2", "KB5033375", "22631.2861"),
        ("22631.2861", "11-23H2", "KB5033375", "22631.2861"),
        ("11 23H2", "11-23H2", "KB5033375", "22631.2861"),
        ("23H2", "11-23H2", "KB5033375", "22631.2861"),
        ("KB5023706", "11-22H2", "KB5023706", "22621.1413"),
        ("10 22H2", "22H2", "KB5033372", "19045.3803"),
        ("19042", "20H2", "KB5033372", "19042.3803"),
        ("20H2", "20H2", "KB5033372", "19042.3803"),
        ("1903", "1903", "KB4512508", "18362.295"),
        ("22621.1", "11-22H2", "BASE", "22621"),
    ],
)
def test_words_lead_to_one_build_of_the_index(text: str, release: str, update_name: str, build: str) -> None:
    found = target(text)
    assert (found.update.release, found.update.update, str(found.build)) == (release, update_name, build)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "22621.1450",
            (
                "22621.1450 is not in the index; the nearest are 22621.1413 (KB5023706, 2023-03-14), 22621.1485"
                " (KB5023778, 2023-03-28)"
            ),
        ),
        ("22621.9999", "the nearest are 22621.2861 (KB5033375, 2023-03-14)"),
        ("22000.1", "22000.1 is not in the index; the nearest are"),
        ("30000", "30000 is not in the index; the nearest are 22631.2861"),
        ("KB5023707", "KB5023707 is not in the index; the nearest are 22621.1413 (KB5023706"),
        ("KB5033375", "KB5033375 is an update of several releases: write 22621.2861 or 22631.2861"),
        ("22H2", "22H2 is a release of Windows 10 and of Windows 11: write 10 22H2 or 11 22H2"),
        ("1507", "1507 is not in the index, which has 1903, 2004, 20H2, 22H2, 11-22H2, 11-23H2"),
        ("10 23H2", "10 23H2 is not in the index, which has"),
    ],
)
def test_words_that_lead_nowhere_or_to_several_builds_name_those_that_there_are(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        target(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_index_without_updates_knows_no_build() -> None:
    with pytest.raises(InputError, match=r"22621 is not in the index$"):
        target("22621", [])
    with pytest.raises(InputError, match="which has no release"):
        target("1903", [])


def test_a_build_for_insiders_is_one_for_all_architectures() -> None:
    both = [
        Entry(full_fields(1, 1), [insider("26120.461")]),
        Entry(full_fields(2, 2, ARM64), [insider("26120.461", ARM64)]),
    ]
    found = target("26120.461", both)
    assert (found.update.release, str(found.build)) == (INSIDER, "26120.461")
    assert chosen(both, "26120.461", "arm64") == [2]


def chosen(entries: list[Entry], text: str, architecture: str = "x64") -> list[int | None]:
    """Return the timestamps of the files that are chosen, the latest first."""
    choice = Choice(target(text, entries + KERNELS), Architecture(architecture))
    for entry in read_index(BytesView(document(entries))):
        choice.add(entry)
    return [each.entry.timestamp for each in choice.files]


def test_a_file_is_that_of_the_last_update_that_changed_it() -> None:
    assert [chosen(KERNELS, text) for text in ("22621.1", "22621.1413", "22621.1485", "22621")] == [[1], [2], [3], [4]]
    assert chosen(KERNELS, "11 22H2", "arm64") == [6]


def test_a_file_that_no_update_changed_is_that_of_the_release() -> None:
    assert chosen([Entry(full_fields(9, 9), [base("11-22H2")])], "22621.1485") == [9]


def test_a_file_that_later_updates_bring_unchanged_counts_as_before() -> None:
    both = [update("11-22H2", "KB5023706", "22621.1413"), update("11-22H2", "KB5023778", "22621.1485")]
    assert chosen([Entry(full_fields(9, 9), both), Entry(full_fields(8, 8), [base("11-22H2")])], "22621.1485") == [9]


def test_what_came_later_or_for_another_release_is_no_part_of_a_build() -> None:
    later = Entry(full_fields(9, 9), [update("11-22H2", "KB5033375", "22621.2861", others=["11-23H2"])])
    other = Entry(full_fields(8, 8), [update("1903", "KB4512508", "18362.295")])
    assert chosen([later, other], "22621.1485") == []


def test_releases_that_share_updates_have_bases_of_their_own() -> None:
    own = [Entry(full_fields(1, 1), [base("11-22H2")]), Entry(full_fields(2, 2), [base("11-23H2")])]
    assert chosen(own, "22631") == [2]
    assert chosen(own[:1], "22631") == [1]
    assert chosen(own, "22621") == [1]
    assert chosen(own[1:], "22621") == []


def test_each_part_of_windows_that_brings_a_file_of_the_name_has_its_own() -> None:
    old, new = (base("11-22H2", component="common-controls-5"), update("11-22H2", "KB5023706", "22621.1413"))
    assert chosen([Entry(full_fields(5, 5), [old]), Entry(full_fields(6, 6), [new])], "22621.1485") == [6, 5]


@pytest.mark.parametrize("component", ["one-part", None])
def test_several_files_of_one_part_and_one_update_are_all_taken(component: str | None) -> None:
    both = [Entry(full_fields(n, n), [base("11-22H2", component=component)]) for n in (5, 6)]
    assert sorted(map(int, filter(None, chosen(both, "22621")))) == [5, 6]
    later = Entry(full_fields(7, 7), [update("11-22H2", "KB5023706", "22621.1413", component="one-part")])
    assert chosen([*both, later], "22621") == [7]
    assert sorted(map(int, filter(None, chosen([later, *both], "22621.1")))) == [5, 6]


def test_where_the_index_tells_the_part_of_some_the_others_do_not_count() -> None:
    nameless = Entry(full_fields(5, 5), [base("11-22H2", component=None)])
    assert chosen([nameless], "22621") == [5]
    named = Entry(full_fields(6, 6), [update("11-22H2", "KB5023706", "22621.1413")])
    assert chosen([nameless, named], "22621") == [6]


def test_files_are_of_the_architecture_asked_for() -> None:
    entries = [
        Entry(full_fields(1, 1), [base("11-22H2")]),
        Entry(full_fields(2, 2, I386), [base("11-22H2", machine=I386)]),
        Entry({"size": 3, "md5": ""}, [base("11-22H2")]),
        Entry(None, [base("11-22H2", machine=I386, component="other")]),
    ]
    assert chosen(entries, "22621") == [1]
    assert chosen(entries, "22621", "x86") == [2, None]


def test_no_more_files_of_one_name_are_taken_than_there_can_be() -> None:
    many = [Entry(full_fields(n, n + 1), [base("11-22H2", component=f"part-{n}")]) for n in range(1, 50)]
    assert len(chosen(many, "22621")) == 16


@pytest.mark.parametrize(
    ("info", "index"),
    [
        (full_fields(0x6F001122, 0x1046000), "nt.exe/6F0011221046000/nt.exe"),
        (full_fields(1, 0x9000), "nt.exe/000000019000/nt.exe"),
        (delta_fields(1, 0x9000) | {"virtualSize": 0x9000}, "nt.exe/000000019000/nt.exe"),
    ],
)
def test_a_file_is_a_module_with_the_key_of_its_image(info: dict[str, Any], index: str) -> None:
    choice = Choice(target("22621"), Architecture.X64)
    for entry in read_index(BytesView(document([Entry(info, [base("11-22H2")])]))):
        choice.add(entry)
    (module,) = modules_of("nt.exe", choice.files)
    assert module.image is not None
    assert module.image.index == index


def put(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    put(folder, "ntoskrnl.exe.json.gz", document(KERNELS))
    put(folder, "hal.dll.json", document([Entry(delta_fields(7, 0x9000), [base("11-22H2")])], compressed=False))
    put(folder, "ci.dll.json.gz", document([Entry({"size": 1, "md5": ""}, [base("11-22H2")])]))
    put(folder, "clfs.sys.json.gz", document([Entry(None, [base("11-22H2")])]))
    put(folder, "win32knew.sys.json.gz", document([Entry(full_fields(9, 0x9000), [base("11-22H2")])]))
    put(folder, "filenames.json", b'["win32knew.sys", "Win32k.sys.mui", "other.sys", "../../win32k.sys"]')
    return folder


def records(source: BuildSource, *sets: str, own: Mapping[str, tuple[str, ...]] | None = None) -> list[Record]:
    return list(open_inputs([source], InputOptions(only=sets, own_sets=own or {})))


def test_a_build_is_read_from_a_folder(index: Path) -> None:
    found = records(BuildSource("22621.1485", index=index))
    assert found[0] == Input(
        "22621.1485 x64",
        InputKind.BUILD,
        {
            "build": "22621.1485",
            "release": "11-22H2",
            "update": "KB5023778",
            "date": "2023-03-28",
            "architecture": "x64",
        },
    )
    modules = {each.name: each for each in found if isinstance(each, Module)}
    assert set(modules) == {"ntoskrnl.exe", "hal.dll", "clfs.sys", "win32knew.sys"}
    assert modules["ntoskrnl.exe"].image == ImageKey("ntoskrnl.exe", 3, 0x3000)
    hal = modules["hal.dll"]
    assert hal.image is None
    assert ImageKey("hal.dll", 7, 0x9000) in hal.candidates[:3]
    assert hal.problem == f"the index does not tell the size of the image, which is one of {len(hal.candidates)}"
    assert modules["clfs.sys"].problem == "the index knows the file and not its identity"
    (remark,) = (each.text for each in found if isinstance(each, Remark))
    assert remark.startswith("22621.1485 x64: the index has 4 of the ")


def test_the_sets_of_a_build_are_those_asked_for(index: Path) -> None:
    found = records(BuildSource("22621", index=index), "mine", own={"mine": ("HAL.dll", "other*.sys", "readme.txt")})
    assert [each.name for each in found if isinstance(each, Module)] == ["hal.dll"]
    assert [each.text for each in found if isinstance(each, Remark)] == [
        "22621.2861 x64: the index has 1 of the 2 names of mine"
    ]


def test_patterns_are_passed_over_where_the_index_has_no_list_of_names(index: Path) -> None:
    (index / "filenames.json").unlink()
    found = records(BuildSource("22621", index=index), "mine", own={"mine": ("hal.dll", "x*.sys")})
    texts = [each.text for each in found if isinstance(each, Remark)]
    assert texts[0] == "22621 x64: the patterns of mine were passed over, the index has no list of names"
    (bad,) = (each for each in records(BuildSource("22621", index=index), "drivers") if isinstance(each, Unreadable))
    assert bad.problem == (
        "drivers has patterns and no names, and what fits them cannot be told: the index has no list of names"
    )


def test_that_insider_builds_could_not_be_asked_for_is_said_of_what_is_not_in_the_index(tmp_path: Path) -> None:
    put(tmp_path, "nt", document(KERNELS))
    found: list[Record] = []
    for record in open_inputs([BuildSource("26120.461")]):
        if isinstance(record, DocumentsWanted):
            (asked,) = record.documents
            is_insider = "insider" in asked.url
            asked.path, asked.problem = (None, "no network") if is_insider else (tmp_path / "nt", None)
        else:
            found.append(record)
    (bad,) = found
    assert isinstance(bad, Unreadable)
    assert bad.problem.startswith("26120.461 is not in the index; the nearest are ")
    assert bad.problem.endswith("in the index of Insider builds: no network")


def test_a_set_with_more_names_than_any_build_needs_is_refused(index: Path) -> None:
    put(index, "filenames.json", json.dumps([f"{n}.sys" for n in range(6000)]).encode())
    (problem,) = (
        each.problem for each in records(BuildSource("22621", index=index), "drivers") if isinstance(each, Unreadable)
    )
    assert "drivers has more than 5000 names in the index" in problem


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (BuildSource("nothing"), "'nothing' is no build"),
        (BuildSource("22621", "mips"), "'mips' is no architecture; there are x64, x86, arm64"),
        (BuildSource("22621.3"), "22621.3 is not in the index; the nearest are"),
        (
            BuildSource("22621", "arm64"),
            "which builds there are says ntoskrnl.exe in the index of builds: there is no folder",
        ),
    ],
)
def test_a_build_that_cannot_be_read_is_said_in_one_line(index: Path, source: BuildSource, said: str) -> None:
    (found,) = records(BuildSource(source.build, source.architecture, index))
    assert isinstance(found, Unreadable)
    assert found.path == source.path
    assert said in found.problem


def test_a_damaged_document_is_one_record_and_the_rest_is_had(index: Path) -> None:
    put(index, "hal.dll.json", b'{"a": {"fileInfo"')
    put(index, "filenames.json", b"<html>")
    found = records(BuildSource("22621", index=index))
    bad = [(each.path, each.problem) for each in found if isinstance(each, Unreadable)]
    assert [path for path, _ in bad] == ["filenames.json of the index of builds", "hal.dll in the index of builds"]
    assert "ntoskrnl.exe" in [each.name for each in found if isinstance(each, Module)]
    put(index, "ntoskrnl.exe.json.gz", b"<html>")
    (only,) = records(BuildSource("22621", index=index))
    assert isinstance(only, Unreadable)
    assert "ntoskrnl.exe in the index of builds: it is no JSON object" in only.problem


def test_arm64_and_insider_builds_lie_in_folders_of_their_own(index: Path) -> None:
    kernels = [Entry(full_fields(8, 0x8000, ARM64), [update("11-22H2", "KB5033375", "22621.2861", machine=ARM64)])]
    put(index / "arm64", "ntoskrnl.exe.json.gz", document(kernels))
    insiders = document([Entry(full_fields(9, 0x9000), [insider("26120.461")])])
    put(index / "insider" / shard_of("ntoskrnl.exe"), "ntoskrnl.exe.json.gz", insiders)
    own = {"nt": ("ntoskrnl.exe",)}
    for source, stamp in ((BuildSource("22621", "arm64", index), 8), (BuildSource("26120.461", "x64", index), 9)):
        found = records(source, "nt", own=own)
        assert [each.image.timestamp for each in found if isinstance(each, Module) and each.image] == [stamp]
    shutil.rmtree(index / "insider")
    put(index / "insider", "ntoskrnl.exe.json.gz", insiders)
    assert [
        each.details
        for each in records(BuildSource("26120.461", "x64", index), "nt", own=own)
        if isinstance(each, Input)
    ] == [{"build": "26120.461", "release": "Insider", "architecture": "x64"}]


def test_documents_are_asked_for_by_url(tmp_path: Path) -> None:
    put(tmp_path, "nt", document(KERNELS))
    settings = BuildSettings(url="https://index.test/by_filename_compressed/NAME.json.gz?NAME")
    options = InputOptions(only=("mine",), own_sets={"mine": ("a b#.dll", "x*.sys")}, builds=settings)
    asked = []
    found: list[Record] = []
    for record in open_inputs([BuildSource("22621")], options):
        if isinstance(record, DocumentsWanted):
            asked += [each.url for each in record.documents]
            for each in record.documents:
                each.path = tmp_path / "nt" if each.name == "ntoskrnl.exe" else None
                each.is_missing = each.path is None
        else:
            found.append(record)
    assert asked == [
        "https://index.test/by_filename_compressed/ntoskrnl.exe.json.gz?ntoskrnl.exe",
        "https://index.test/filenames.json",
        "https://index.test/by_filename_compressed/a%20b%23.dll.json.gz?a%20b%23.dll",
    ]
    assert found[-1] == Unreadable("22621 x64", "the index has none of the 1 names of mine for it")


def test_documents_that_nobody_answers_are_said_together(tmp_path: Path) -> None:
    put(tmp_path, "nt", document(KERNELS))
    found: list[Record] = []
    for record in open_inputs([BuildSource("22621")], InputOptions(only=("user-core",))):
        if isinstance(record, DocumentsWanted):
            for each in record.documents:
                each.path = tmp_path / "nt" if each.name == "ntoskrnl.exe" else None
                each.problem = None if each.path is not None else "no network"
        else:
            found.append(record)
    (bad,) = (each for each in found if isinstance(each, Unreadable))
    assert "documents of the index are not here (ntdll.dll, kernel32.dll, " in bad.problem
    assert bad.problem.endswith("more): no network")


@pytest.mark.parametrize(("name", "shard"), [("ntoskrnl.exe", "f0"), ("appid.sys", "00"), ("drmk.sys", "00")])
def test_a_shard_is_where_the_index_has_it(name: str, shard: str) -> None:
    assert shard_of(name) == shard


def test_an_unknown_set_ends_a_run(index: Path) -> None:
    with pytest.raises(UsageError, match="no set 'nothing'"):
        records(BuildSource("22621", index=index), "nothing")
