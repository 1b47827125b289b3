"""`fetch` and `missing`, on a scripted upstream; `check` beside them, as it must not ask one."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from click.testing import CliRunner
from support import sources
from support.answers import status
from support.sources import IMAGE, IMAGE_KEY, PDB
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.synth.version import VersionPlan, version_bytes
from support.upstream import Upstream

from symcache.cli.app import root
from symcache.cli.options import Settings
from symcache.cli.warm import run_warm
from symcache.identity import ImageKey, PdbKey
from symcache.stores.links import Link, StoreLinks
from symcache.warm.plan import Plan, WantedPdbOfImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
KEY = PdbKey("crash.pdb", GUID, 2)
SECDRV = PdbKey("secdrv.pdb", GUID, 3)
OTHER = PdbKey("other.pdb", GUID, 4)


class Shell:
    """Runs commands on one upstream, store and configuration."""

    def __init__(self, upstream: Upstream, folder: Path) -> None:
        self.upstream = upstream
        self.store = folder / "sym"
        self.config = folder / "symcache.toml"
        self.config.write_text("network.retries = 0\n")
        upstream.files = {KEY.index: make_pdb(NativePdbSpec(KEY.guid, KEY.age))}

    @property
    def path(self) -> str:
        return f"srv*{self.store}*{self.upstream.url}"

    def __call__(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(root, [command, "--config", str(self.config), "-y", self.path, *arguments])


@pytest.fixture
def shell(upstream: Upstream, tmp_path: Path) -> Shell:
    return Shell(upstream, tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        [KEY.index],
        [f"{KEY.name}/{KEY.id}"],
        [KEY.name, KEY.id],
        [f"{KEY.name} {KEY.id}"],
        [KEY.index.replace("/", "\\")],
        [KEY.index.lower()],
        [f"https://user:hush@srv.example/a/b/{KEY.index}?sig=hush"],
        [f"HTTPS://srv.example/{KEY.name}/{KEY.id}/crash.pd_"],
        [f"https://srv.example/{KEY.name}/{KEY.id}/file.ptr"],
        [f"https://srv.example/{KEY.name}/{KEY.id}"],
        [f"https://srv.example/s/cr%61sh.pdb/{KEY.id}/{KEY.name}"],
        [f"/{KEY.index}"],
        [f"/srv/sym/cr/{KEY.index}"],
        [f"C:\\sym\\{KEY.name}\\{KEY.id}\\{KEY.name}"],
        [f"C:\\sym\\{KEY.name}\\{KEY.id}"],
        [f"{KEY.name}/{{{GUID}}}2"],
        [KEY.name, f"{GUID}2"],
    ],
)
def test_a_file_is_fetched_however_it_is_named(shell: Shell, arguments: list[str]) -> None:
    done = shell("fetch", *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    (path,) = done.stdout.splitlines()
    assert path.lower() == str(shell.store / KEY.index).lower()


def test_what_is_there_is_not_asked_for(shell: Shell) -> None:
    first = shell("fetch", KEY.index)
    asked = len(shell.upstream.requests)
    assert shell("fetch", KEY.index).stdout == first.stdout
    assert len(shell.upstream.requests) == asked


def test_paths_come_in_the_order_asked(shell: Shell) -> None:
    keys = [PdbKey(f"{number}.pdb", GUID, number) for number in range(1, 9)]
    shell.upstream.files = {key.index: make_pdb(NativePdbSpec(key.guid, key.age)) for key in keys}
    done = shell("fetch", *(key.index for key in keys))
    assert done.stdout.splitlines() == [str(shell.store / key.index) for key in keys]


def test_what_is_missing_is_told_and_the_rest_is_fetched(shell: Shell) -> None:
    done = shell("fetch", SECDRV.index, KEY.index)
    assert done.exit_code == 3
    assert done.stdout == f"{shell.store / KEY.index}\n"
    assert done.stderr == f"symcache: {SECDRV.index}: missing, not-published: {shell.upstream.url}: 404\n"


def test_an_id_without_an_age_is_answered_with_what_it_lacks(shell: Shell) -> None:
    done = shell("fetch", f"{KEY.name}/{GUID.hex}")
    assert done.exit_code == 3
    assert done.stderr.endswith(
        f": 404; this id has no age, and hardly any PDB has none: the first is {KEY.name}/{GUID.hex.upper()}1\n"
    )


def test_a_url_of_a_server_that_is_not_asked_is_called_so(shell: Shell) -> None:
    done = shell("fetch", f"https://me:hush@srv.example:81/s/{SECDRV.index}")
    assert done.stderr.endswith("404; srv.example:81 is not in the symbol path, so it was not asked\n")
    assert "hush" not in done.stderr
    assert "is not in the symbol path" not in shell("fetch", f"{shell.upstream.url}/{OTHER.index}").stderr


@pytest.mark.parametrize("text", ["https://me:hush@srv.example/s/", "https://me:hush@srv.example/s/t"])
def test_a_url_that_names_no_file_shows_no_secret(shell: Shell, text: str) -> None:
    done = shell("fetch", text)
    assert type(done.exception).__name__ == "UsageError"
    assert "hush" not in str(done.exception)


def test_a_server_that_is_down_ends_with_one(shell: Shell) -> None:
    shell.upstream.always("*", status(503))
    done = shell("fetch", KEY.index)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "failed, unavailable" in done.stderr
    assert "503" in done.stderr


def test_an_excluded_file_that_is_asked_for_is_wanting(shell: Shell) -> None:
    shell.config.write_text("exclusions.names = ['crash.*']")
    done = shell("fetch", KEY.index)
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == f"symcache: {KEY.index}: missing, excluded\n"
    assert shell.upstream.requests == []


def test_fetch_writes_the_report_as_a_document(shell: Shell) -> None:
    done = shell("fetch", "--json", KEY.index, SECDRV.index)
    document = json.loads(done.stdout)
    assert done.exit_code == 3
    assert document["schema"] == "symcache.report/1"
    assert [symbol["state"] for symbol in document["symbols"]] == ["fetched", "missing"]


@pytest.mark.parametrize(("content", "problem"), [(None, "No such file"), ("no certificate", "not a PEM file")])
@pytest.mark.parametrize("command", [["fetch", KEY.index], ["missing", "--retry"], ["servers", "--probe"]])
def test_an_unusable_file_of_authorities_is_named_with_its_line(
    shell: Shell, tmp_path: Path, content: str | None, problem: str, command: list[str]
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    shell.config.write_text(f"[network]\nca_file = '{tmp_path / 'ca.pem'}'\n")
    error = str(shell(*command).exception)
    assert error.startswith(f"{shell.config}: network.ca_file: {tmp_path / 'ca.pem'} holds no certificates: {problem}")
    assert error.endswith("(at line 2)")


@pytest.mark.parametrize("text", ["u:hush@host/s", "http://u:hu/sh@host/s", "https//u:hush@host/s", "https://h:x"])
def test_a_server_that_is_none_is_named_without_its_secret(shell: Shell, text: str) -> None:
    done = shell("servers", "--probe", text)
    assert str(done.exception).endswith("is no server that is known; give a name of `symcache servers`, or a URL")
    assert "hush" not in str(done.exception).replace("/", "")


def test_a_wrong_index_is_wrong_usage(shell: Shell) -> None:
    for wrong in (["../x/y"], ["crash.pdb"], ["a.pdb/00/b.pdb"], ["a\x1b.pdb/00"]):
        done = shell("fetch", *wrong)
        assert type(done.exception).__name__ == "UsageError"
    assert shell.upstream.requests == []


def miss(shell: Shell, *keys: PdbKey) -> None:
    shell("fetch", *(key.index for key in keys))


def listed(shell: Shell, *patterns: str) -> list[str]:
    document = json.loads(shell("missing", "--json", *patterns).stdout)
    assert document["schema"] == "symcache.missing/1"
    return [row["index"] for row in document["missing"]]


def test_misses_are_listed_with_who_said_so_and_when(shell: Shell) -> None:
    miss(shell, SECDRV, OTHER)
    done = shell("missing")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [lines[0], lines[2]] == [OTHER.index, SECDRV.index]
    assert lines[1].split()[:3] == [shell.upstream.url, "404", "first"]
    assert lines[1].endswith("1 time")
    assert lines[4].startswith("  Macrovision, by its name: a driver of SafeDisc copy protection")
    assert len(lines) == 5
    assert done.stderr == "2 files; --retry asks again, --forget forgets\n"
    assert shell("missing", "-q").stderr == ""


def test_the_document_of_misses_has_every_field(shell: Shell) -> None:
    miss(shell, SECDRV)
    (row,) = json.loads(shell("missing", "--json").stdout)["missing"]
    (said,) = row.pop("upstreams")
    assert row.pop("since") == said["first_asked"]
    assert row.pop("advice").startswith("a driver of SafeDisc copy protection")
    assert row == {
        "index": SECDRV.index,
        "maker": {"name": "Macrovision", "presumed": True, "server": None},
        "cause": "not-published",
        "hint": "never-published",
        "inputs": {"count": 0, "last": []},
    }
    assert said.pop("first_asked") == said.pop("last_asked")
    assert said == {"upstream": shell.upstream.url, "answer": "404", "times": 1, "is_believed": True}


@pytest.fixture
def listing(tmp_path: Path) -> Callable[..., Path]:
    """Writes a list of indexes of that name."""

    def write(name: str, *keys: PdbKey) -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{key.index}\n" for key in keys))
        return path

    return write


def test_the_inputs_that_wanted_a_file_are_told_with_it(shell: Shell, listing: Callable[..., Path]) -> None:
    first, second = listing("first.txt", SECDRV, OTHER), listing("second.txt", OTHER)
    for _ in range(2):  # the same input again is none more
        assert shell("warm", str(first)).exit_code == 3
    assert shell("warm", str(second), str(first)).exit_code == 3
    rows = {row["index"]: row["inputs"] for row in json.loads(shell("missing", "--json").stdout)["missing"]}
    assert rows[SECDRV.index] == {"count": 1, "last": ["first.txt"]}
    assert rows[OTHER.index]["count"] == 2
    assert sorted(rows[OTHER.index]["last"]) == ["first.txt", "second.txt"]
    assert "  wanted by first.txt\n" in shell("missing", "secdrv*").stdout


def test_the_maker_that_a_run_read_in_an_image_is_told_afterwards(shell: Shell, tmp_path: Path) -> None:
    version = version_bytes(VersionPlan({"040904b0": {"CompanyName": "Contoso Ltd."}}))
    image = replace(plan_image(ImageKey("other.sys", 0x5F001122, 0x9000), OTHER), versions=((1, 0x409, version),))
    (tmp_path / "other.sys").write_bytes(disk_bytes(image))
    assert shell("warm", str(tmp_path / "other.sys")).exit_code == 3
    (tmp_path / "other.sys").unlink()
    (row,) = json.loads(shell("missing", "--json").stdout)["missing"]
    assert (row["maker"]["name"], row["maker"]["presumed"], row["hint"]) == ("Contoso Ltd.", False, "third-party")
    assert row["inputs"]["last"] == ["other.sys"]


def test_an_image_in_the_store_that_names_a_file_tells_its_maker(shell: Shell) -> None:
    miss(shell, OTHER)
    version = version_bytes(VersionPlan({"040904b0": {"CompanyName": "Contoso Ltd."}}))
    key = ImageKey("tool.sys", 0x5F001122, 0x9000)
    path = shell.store / key.index
    path.parent.mkdir(parents=True)
    path.write_bytes(disk_bytes(replace(plan_image(key, OTHER), versions=((1, 0x409, version),))))
    StoreLinks(shell.store).remember(key, [Link(OTHER)])
    assert "  Contoso Ltd. 1.2.3.4: not Microsoft's; its maker" in shell("missing").stdout


def test_only_the_last_inputs_are_named_and_all_are_counted(shell: Shell, listing: Callable[..., Path]) -> None:
    for number in range(12):
        assert shell("warm", str(listing(f"{number}.txt", OTHER))).exit_code == 3
    (row,) = json.loads(shell("missing", "--json").stdout)["missing"]
    assert row["inputs"] == {"count": 12, "last": [f"{number}.txt" for number in range(11, 3, -1)]}
    assert shell("missing").stdout.splitlines()[2].endswith("4.txt and 4 inputs before")
    assert shell("missing", "--retry").exit_code == 3  # which asks for no input's sake
    (row,) = json.loads(shell("missing", "--json").stdout)["missing"]
    assert row["inputs"]["count"] == 12


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_an_inputs_hostile_name_does_no_harm(shell: Shell, listing: Callable[..., Path]) -> None:
    name = "\x1b[2J\n" + "x" * 200
    assert shell("warm", str(listing(name, OTHER))).exit_code == 3
    (row,) = json.loads(shell("missing", "--json").stdout)["missing"]
    assert row["inputs"]["last"] == ["?[2J?" + "x" * 115]
    assert "\x1b" not in shell("missing").stdout


def test_a_miss_that_is_too_old_is_listed_as_such(shell: Shell) -> None:
    miss(shell, SECDRV)
    shell.config.write_text("misses.ttl_s = 0")
    assert shell("missing").stdout.splitlines()[1].endswith("1 time, will be asked again")


@pytest.mark.parametrize(
    "pattern", ["secdrv.pdb", "SECDRV*", "*drv.p?b", SECDRV.index, SECDRV.index.replace("/", "\\")]
)
def test_a_pattern_narrows_the_list(shell: Shell, pattern: str) -> None:
    miss(shell, SECDRV, OTHER)
    assert listed(shell, pattern) == [SECDRV.index]
    assert listed(shell, pattern, "oth*") == [OTHER.index, SECDRV.index]
    assert listed(shell, "nothing*") == []


def test_what_is_forgotten_is_asked_for_again_when_it_is_wanted(shell: Shell) -> None:
    miss(shell, SECDRV, OTHER)
    assert shell("missing", "--forget", "sec*").stdout == "forgot 1 answer\n"
    assert listed(shell) == [OTHER.index]
    asked = len(shell.upstream.requests)
    miss(shell, SECDRV, OTHER)
    names = {request.path.split("/")[1] for request in shell.upstream.requests[asked:]}
    assert names - {"index2.txt"} == {"secdrv.pdb"}


def test_a_retry_fetches_what_has_appeared_and_remembers_the_rest(shell: Shell) -> None:
    miss(shell, SECDRV, OTHER)
    shell.upstream.files[OTHER.index] = make_pdb(NativePdbSpec(OTHER.guid, OTHER.age))
    done = shell("missing", "--retry", "--json")
    assert done.exit_code == 3
    states = {symbol["index"]: symbol["state"] for symbol in json.loads(done.stdout)["symbols"]}
    assert states == {OTHER.index: "fetched", SECDRV.index: "missing"}
    assert listed(shell) == [SECDRV.index]


def test_a_retry_keeps_when_a_miss_was_first_asked_for(shell: Shell) -> None:
    miss(shell, SECDRV)
    (before,) = said_of_misses(shell)
    assert shell("missing", "--retry").exit_code == 3
    (after,) = said_of_misses(shell)
    assert (after["first_asked"], after["times"], after["is_believed"]) == (before["first_asked"], 2, True)


def test_a_retry_that_reaches_nobody_forgets_nothing(shell: Shell) -> None:
    miss(shell, SECDRV)
    before = said_of_misses(shell)
    shell.upstream.always("*", status(503))
    assert shell("missing", "--retry").exit_code == 1
    assert said_of_misses(shell) == before


def said_of_misses(shell: Shell) -> list[dict[str, object]]:
    return [said for row in json.loads(shell("missing", "--json").stdout)["missing"] for said in row["upstreams"]]


def test_an_empty_list_is_no_error(shell: Shell) -> None:
    done = shell("missing")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no miss is remembered\n")
    assert shell("missing", "--retry").exit_code == 0


def test_a_check_makes_no_connection_at_all(shell: Shell, tmp_path: Path) -> None:
    wanted = tmp_path / "list.txt"
    wanted.write_text(f"{KEY.index}\n{ImageKey('drv.sys', 0x5F000000, 0x9000).index}\n")
    calls: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in {"socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg"}:
            calls.append(f"{event} {arguments[1:]}")

    watching = True
    sys.addaudithook(watch)
    try:
        done = shell("check", str(wanted), "--images", "--all-pdbs")
    finally:
        watching = False
    assert done.exit_code == 3
    assert calls == []
    assert shell.upstream.connections == 0
    assert not shell.store.exists()


def test_missing_can_be_allowed(shell: Shell, tmp_path: Path) -> None:
    wanted = tmp_path / "list.txt"
    wanted.write_text(SECDRV.index)
    assert shell("warm", str(wanted)).exit_code == 3
    assert shell("warm", str(wanted), "--allow-missing").exit_code == 0
    assert shell("check", str(wanted), "--allow-missing").exit_code == 0


class TwoServers(Shell):
    """Runs commands on two upstreams, one element of the symbol path for each."""

    def __init__(self, first: Upstream, second: Upstream, folder: Path) -> None:
        super().__init__(first, folder)
        self.second = second
        first.files = {}

    @property
    def path(self) -> str:
        return f"{super().path};srv*{self.store}*{self.second.url}"


@pytest.fixture
def two(upstream: Upstream, tmp_path: Path) -> Iterator[TwoServers]:
    with Upstream() as second:
        yield TwoServers(upstream, second, tmp_path)


def test_what_a_later_server_delivers_is_not_missing(two: TwoServers) -> None:
    two.second.files = {KEY.index: make_pdb(NativePdbSpec(KEY.guid, KEY.age))}
    miss(two, KEY, SECDRV)
    assert listed(two) == [SECDRV.index]
    assert len(said_of_misses(two)) == 2
    asked = len(two.upstream.requests)
    assert two("missing", "--retry").exit_code == 3
    assert {request.path.split("/")[1] for request in two.upstream.requests[asked:]} == {"secdrv.pdb", "index2.txt"}


def test_what_one_server_could_not_be_asked_for_is_not_missing(two: TwoServers) -> None:
    two.second.always("*", status(503))
    miss(two, SECDRV)
    assert listed(two) == []
    two.second.always("*", status(404))
    miss(two, SECDRV)
    assert listed(two) == [SECDRV.index]


def test_forgetting_covers_every_answer_of_every_server(two: TwoServers) -> None:
    two.second.files = {KEY.index: make_pdb(NativePdbSpec(KEY.guid, KEY.age))}
    miss(two, KEY, SECDRV)
    assert two("missing", "--forget").stdout == "forgot 3 answers\n"


def test_what_lies_in_a_store_meanwhile_is_not_missing(shell: Shell, tmp_path: Path) -> None:
    miss(shell, SECDRV, OTHER)
    folder = shell.store / OTHER.name / OTHER.id
    folder.mkdir(parents=True)
    (folder / OTHER.name).write_bytes(b"brought by hand")
    assert listed(shell) == [SECDRV.index]
    plain = tmp_path / "build"
    plain.mkdir()
    (plain / SECDRV.name).write_bytes(make_pdb(NativePdbSpec(SECDRV.guid, SECDRV.age)))
    path = f"{plain};srv*{shell.store}*{shell.upstream.url}"
    done = CliRunner().invoke(root, ["missing", "--config", str(shell.config), "-y", path])
    assert (done.stdout, done.stderr) == ("", "no miss is remembered\n")


def test_a_path_without_a_server_misses_nothing(shell: Shell) -> None:
    miss(shell, SECDRV)
    done = CliRunner().invoke(root, ["missing", "--config", str(shell.config), "-y", f"srv*{shell.store}"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "the symbol path has no server, so no server was asked\n"


def test_an_image_whose_headers_were_read_in_passing_is_not_missing(two: TwoServers) -> None:
    two.second.files = {IMAGE_KEY.index: IMAGE, sources.KEY.index: PDB}
    assert hop(two) == {sources.KEY.index: "fetched"}
    assert listed(two) == []


def test_a_retry_makes_the_hop_again_and_fetches_the_pdb_alone(two: TwoServers) -> None:
    assert hop(two) == {IMAGE_KEY.index: "missing"}
    assert two("missing").stdout.splitlines()[0] == f"{IMAGE_KEY.index}: the PDB that it names"
    two.second.files = {IMAGE_KEY.index: IMAGE, sources.KEY.index: PDB}
    done = two("missing", "--retry", "--json")
    states = {symbol["index"]: symbol["state"] for symbol in json.loads(done.stdout)["symbols"]}
    assert (done.exit_code, states) == (0, {sources.KEY.index: "fetched"})
    assert not (two.store / IMAGE_KEY.name).exists()
    assert listed(two) == []


def test_an_image_that_is_wanted_later_is_fetched_by_a_retry(shell: Shell) -> None:
    hop(shell)
    assert shell("fetch", IMAGE_KEY.index).exit_code == 3
    shell.upstream.files = {IMAGE_KEY.index: IMAGE}
    assert shell("missing", "--retry").exit_code == 0
    assert (shell.store / IMAGE_KEY.index).exists()


def hop(shell: Shell) -> dict[str, str]:
    """Ask for the PDB of an image that is known by its own key alone; return how it ended."""
    plan = Plan()
    plan.add([WantedPdbOfImage(IMAGE_KEY.name, IMAGE_KEY)])
    report = run_warm(Settings(shell.config, shell.path, quiet=True), plan)
    return {symbol.index or "": symbol.state.value for symbol in report.symbols}
