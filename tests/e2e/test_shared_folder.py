"""One store, several users of a group, each with a umask of their own; and file systems that refuse what others do."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import run
from support.parts import need
from support.sources import KEY
from support.synth.pdb import NativePdbSpec, make_pdb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.upstream import Upstream

TEAM, ALICE, BOB = 42000, 42001, 42002
READS_ALL = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def can_be_two_users() -> bool:
    """Return whether tests may run programs as other users, who can read Python wherever it lies."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    tried = ["setpriv", f"--reuid={ALICE}", f"--regid={TEAM}", "--clear-groups", *READS_ALL, sys.executable, "-c", ""]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


AS_ROOT = pytest.mark.skipif(not can_be_two_users(), reason="only root can be two users in turn, with setpriv")


def as_user(uid: int, umask: int, home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``symcache`` as a user of the team; they may read everything, as Python may lie in another one's home."""
    own = home / str(uid)
    own.mkdir(exist_ok=True)
    os.chown(own, uid, TEAM)
    who = [f"--reuid={uid}", f"--regid={TEAM}", "--clear-groups", *READS_ALL]
    return subprocess.run(
        ["setpriv", *who, sys.executable, "-m", "symcache", *map(str, arguments)],
        env={**os.environ, "HOME": str(own), "XDG_CACHE_HOME": str(own / "cache"), "no_proxy": "*"},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own is for who runs it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of the team."""
    folder = tmp_path / "sym"
    folder.mkdir()
    os.chown(folder, 0, TEAM)
    folder.chmod(0o2775)
    return folder


def fill(upstream: Upstream, count: int) -> list[str]:
    indexes = []
    for number in range(count):
        key = replace(KEY, name=f"shared{number}.pdb", age=number + 1)
        upstream.files[key.index] = make_pdb(NativePdbSpec(key.guid, age=key.age, payload_bytes=2000))
        indexes.append(key.index)
    return indexes


@AS_ROOT
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], ids=oct)
@pytest.mark.parametrize("mode", [0o2775, 0o3775, 0o775], ids=oct)
def test_what_one_user_makes_another_can_use(
    mode: int, umask: int, shared: Path, upstream: Upstream, tmp_path: Path
) -> None:
    shared.chmod(mode)
    first, second = fill(upstream, 2)
    path = f"srv*{shared}*{upstream.url}"
    for uid, index in ((ALICE, first), (BOB, second)):
        done = as_user(uid, umask, tmp_path, "fetch", index, "-y", path)
        assert done.returncode == 0, done.stderr
    assert_shared(shared)
    done = as_user(BOB, umask, tmp_path, "store", "verify", "--store", shared)
    assert done.returncode == 0, done.stdout + done.stderr
    for uid in (BOB, ALICE):
        pdb = tmp_path / f"own{uid}.pdb"
        pdb.write_bytes(make_pdb(NativePdbSpec(KEY.guid, age=99)))
        pdb.chmod(0o644)
        done = as_user(uid, umask, tmp_path, "store", "add", pdb, "--product", "p", "--store", shared)
        assert done.returncode == 0, done.stdout + done.stderr
    if not mode & stat.S_ISVTX:  # which keeps what is another's from being removed
        done = as_user(BOB, umask, tmp_path, "store", "prune", "--max-size", "1KB", "--store", shared)
        assert done.returncode == 3, "what is in transactions stays"
        assert not (shared / first).exists()
    assert_shared(shared)


def assert_shared(root: Path) -> None:
    """Make sure that all that debuggers and other users need has the rights and the group of the store's folder."""
    mode = stat.S_IMODE(root.stat().st_mode)
    for path in root.rglob("*"):
        if ".part" in path.name:
            continue
        status = path.stat()
        wanted = mode & (0o3777 if path.is_dir() else 0o666)
        if {".symcache", "000Admin"} & set(path.parts):  # kept together by all
            wanted &= ~stat.S_ISVTX
        assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (TEAM, wanted), path


@AS_ROOT
def test_many_processes_of_two_users_fill_one_store(shared: Path, upstream: Upstream, tmp_path: Path) -> None:
    indexes = fill(upstream, 12)
    path = f"srv*{shared}*{upstream.url}"
    users = [(ALICE, 0o22), (BOB, 0o77)] * 3
    with ThreadPoolExecutor(len(users)) as pool:
        runs = [pool.submit(as_user, *user, tmp_path, "fetch", *indexes, "-y", path) for user in users]
    for each in runs:
        assert each.result().returncode == 0, each.result().stderr
    assert run("store", "verify", "--store", shared).returncode == 0
    assert_shared(shared)
    asked = [request.path for request in upstream.requests]
    assert len(asked) == len(set(asked)), "one file is downloaded once"


@AS_ROOT
def test_a_default_acl_is_kept(shared: Path, upstream: Upstream, tmp_path: Path) -> None:
    need("setfacl")
    subprocess.run(["setfacl", "-d", "-m", f"u:{BOB}:rwx,g::rwx,m::rwx", shared], check=True)
    first, second = fill(upstream, 2)
    path = f"srv*{shared}*{upstream.url}"
    assert as_user(ALICE, 0o077, tmp_path, "fetch", first, "-y", path).returncode == 0
    assert as_user(BOB, 0o077, tmp_path, "fetch", second, "-y", path).returncode == 0
    shown = subprocess.run(["getfacl", "-n", shared / first], check=True, capture_output=True, text=True).stdout
    assert f"user:{BOB}:rw" in shown


@AS_ROOT
def test_store_init_shared_makes_and_mends(shared: Path, upstream: Upstream, tmp_path: Path) -> None:
    shared.chmod(0o755)
    (index,) = fill(upstream, 1)
    assert run("fetch", index, "-y", f"srv*{shared}*{upstream.url}").returncode == 0
    os.chown(shared, 0, 0)
    done = run("store", "init", "--shared", str(TEAM), shared)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(shared.stat().st_mode) == 0o2775
    assert_shared(shared)
    new = tmp_path / "new"
    assert run("store", "init", "--shared", str(TEAM), new).returncode == 0
    assert_shared(new)


def test_a_group_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = run("store", "init", "--shared", "no-such-group", tmp_path / "sym")
    assert done.returncode == 2
    assert "no-such-group" in done.stderr


REFUSED_CALLS = {
    "no flush": ["trace=fsync,fdatasync", "inject=fsync,fdatasync:error=EINVAL"],
    "busy": ["trace=unlink,unlinkat", "inject=unlink,unlinkat:error=EBUSY"],
}


@pytest.mark.skipif(sys.platform != "linux", reason="strace is a program of Linux")
@pytest.mark.parametrize("refusal", REFUSED_CALLS)
def test_what_a_file_system_refuses_is_lived_with(refusal: str, upstream: Upstream, tmp_path: Path) -> None:
    rules = [part for rule in REFUSED_CALLS[refusal] for part in ("-e", rule)]
    tracing = [need("strace"), "-f", "-o", os.devnull, *rules, sys.executable, "-m", "symcache"]
    done = fetch_by(tracing, upstream, tmp_path / "sym")
    assert len(notes_in(done, tmp_path / "sym")) == (0 if refusal == "busy" else 1), done.stderr


# As the kernel would answer; strace cannot tell this call of fcntl from the others that Python makes.
LOCKLESS = """
import errno, fcntl, os
def refuse(*_):
    raise OSError(errno.{error}, os.strerror(errno.{error}))
fcntl.lockf = refuse
from symcache.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other locks")
@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_where_there_are_no_locks_leases_take_their_place(error: str, upstream: Upstream, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCKLESS.format(error=error)]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(fetch_by, command, upstream, tmp_path / "sym") for _ in range(4)]
    notes = [note for each in runs for note in notes_in(each.result(), tmp_path / "sym")]
    assert notes, "who waited for nothing has nothing to note"
    assert all("lease" in note for note in notes)
    asked = [request.path for request in upstream.requests]
    assert len(asked) == len(set(asked)), "one file is downloaded once"
    assert list((tmp_path / "sym").rglob("*.lease")) == []


def fetch_by(command: list[str], upstream: Upstream, store: Path) -> subprocess.CompletedProcess[str]:
    """Fetch three files into *store*, with *command* in place of ``symcache``."""
    indexes = fill(upstream, 3)
    done = subprocess.run(
        [*command, "fetch", *indexes, "-y", f"srv*{store}*{upstream.url}"],
        env={**os.environ, "no_proxy": "*"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [index for index in indexes if not (store / index).is_file()] == []
    return done


def notes_in(done: subprocess.CompletedProcess[str], store: Path) -> list[str]:
    return [line for line in done.stderr.splitlines() if str(store) in line]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with names and links for everybody are of POSIX")
def test_nothing_special_is_opened_and_no_link_followed_out(tmp_path: Path, upstream: Upstream) -> None:
    store, elsewhere = tmp_path / "sym", tmp_path / "elsewhere"
    first, second = fill(upstream, 2)
    elsewhere.mkdir()
    (store / first).parent.mkdir(parents=True)
    os.mkfifo(store / first)
    (store / second.partition("/")[0]).symlink_to(elsewhere)
    done = run("store", "verify", "--store", store)
    assert done.returncode == 4
    assert "not a regular file" in done.stdout
    done = run("fetch", second, "-y", f"srv*{store}*{upstream.url}")
    assert done.returncode == 1
    assert "leads out of the store" in done.stderr
    assert list(elsewhere.rglob("*")) == []


@AS_ROOT
def test_a_store_that_is_only_read_can_be_verified_and_checked(tmp_path: Path, upstream: Upstream) -> None:
    store, read_only = tmp_path / "sym", tmp_path / "cd"
    (index,) = fill(upstream, 1)
    assert run("fetch", index, "-y", f"srv*{store}*{upstream.url}").returncode == 0
    read_only.mkdir()
    mounted = subprocess.run(["mount", "--bind", store, read_only], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", read_only], check=True)
        done = run("store", "verify", "--store", read_only)
        assert (done.returncode, "nothing is wrong" in done.stdout) == (0, True), done.stderr
        assert run("fetch", index, "-y", f"srv*{read_only}").returncode == 0
        assert run("store", "stats", "--store", read_only).returncode == 0
    finally:
        subprocess.run(["umount", read_only], check=True)
