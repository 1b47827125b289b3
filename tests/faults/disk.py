"""Take the disk away from a run of ``warm``: full, limited, read-only, denied, broken; then give it back.

    python tests/faults/disk.py            what this user may do; as root all of it
    python tests/faults/disk.py --runs 5   each with so many seeds

Whatever happens to the disk, no file under a debugger's name is wrong, the command says what it was and ends with 1,
and the run after that completes everything.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from faults.upstream import Run, Scene, check, scene, warm, watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["SCENES", "NotHereError", "main", "play"]

_NOBODY = 65534
_EXT4_SHUTDOWN = 0x8004587D  # linux/fs.h, _IOR('X', 125, __u32); xfs and f2fs have it, too
_PATIENCE_S = 20.0


class NotHereError(Exception):
    """This machine or user cannot do it; the text says why."""


@dataclass(slots=True)
class Disk:
    """The disk of a store and what happens to it.

    Attributes:
        store: The store's folder.
        fail: Called while the command runs; None where it fails from the start.
        mend: Makes all well again.
        process: How the command is started meanwhile.
    """

    store: Path
    fail: Callable[[], None] | None = None
    mend: Callable[[], None] = lambda: None
    process: dict[str, Any] | None = None


def _mount(stack: ExitStack, *arguments: str | Path, at: Path) -> None:
    at.mkdir()
    done = subprocess.run(["mount", *arguments, at], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHereError(f"mount: {done.stderr.strip() or done.stdout.strip()}")
    stack.callback(lambda: subprocess.run(["umount", "-l", at], check=False))


def _remount(at: Path, options: str) -> None:
    """Mount anew with *options*, as soon as nothing is open that is in their way."""
    end_s = time.monotonic() + _PATIENCE_S
    while subprocess.run(["mount", "-o", f"remount,{options}", at], capture_output=True, check=False).returncode:
        if time.monotonic() > end_s:
            raise AssertionError(f"no remount with {options}")
        time.sleep(0.002)


def _full(stage: Scene, stack: ExitStack) -> Disk:
    at = stage.home / "disk"
    _mount(stack, "-t", "tmpfs", "-o", "size=2m", "none", at=at)
    return Disk(at / "store", mend=lambda: _remount(at, "size=256m"))


def _full_of_names(stage: Scene, stack: ExitStack) -> Disk:
    at = stage.home / "disk"
    _mount(stack, "-t", "tmpfs", "-o", "size=256m,nr_inodes=150", "none", at=at)
    return Disk(at / "store", mend=lambda: _remount(at, "size=256m,nr_inodes=100000"))


def _full_for_all(stage: Scene, stack: ExitStack) -> Disk:
    disk = _full(stage, stack)
    stage.misses = disk.store.parent / "misses"
    return disk


def _limited(stage: Scene, stack: ExitStack) -> Disk:
    del stack
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))}
    return Disk(stage.home / "store", process=limit)


def _as_nobody() -> dict[str, Any]:
    if os.geteuid():
        return {}
    command = [sys.executable, "-c", "import symcache"]
    try:
        subprocess.run(command, user=_NOBODY, group=_NOBODY, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotHereError("other users cannot run this Python") from error
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}


def _denied(stage: Scene, stack: ExitStack) -> Disk:
    del stack
    store = stage.home / "store"
    process = _as_nobody()
    store.mkdir()
    (stage.home / "misses").mkdir()
    if process:
        for each in (store, stage.home / "misses"):
            os.chown(each, _NOBODY, _NOBODY)
        stage.home.chmod(0o755)

    def deny() -> None:
        for folder in [store, *(each for each in store.rglob("*") if each.is_dir())]:
            folder.chmod(0o555)

    def allow() -> None:
        for folder in [store, *(each for each in store.rglob("*") if each.is_dir())]:
            folder.chmod(0o755)

    return Disk(store, fail=deny, mend=allow, process=process)


def _ext4(stage: Scene, stack: ExitStack, options: str) -> tuple[Path, Callable[[], None]]:
    """Mount a file system of its own with *options*; return where, and what mounts it anew and sound."""
    image, at = stage.home / "image", stage.home / "disk"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", image], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotHereError("no mkfs.ext4") from error
    _mount(stack, "-o", options, image, at=at)

    def mount_again() -> None:
        subprocess.run(["umount", at], check=True)
        subprocess.run(["e2fsck", "-fy", image], capture_output=True, check=False)  # ends with 1 where it mended
        subprocess.run(["mount", "-o", options, image, at], check=True)

    return at, mount_again


def _read_only(stage: Scene, stack: ExitStack) -> Disk:
    at, mount_again = _ext4(stage, stack, "loop,errors=remount-ro")

    def find_error() -> None:
        mounts = (line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines())
        device = next(Path(each[0]).name for each in mounts if each[1] == str(at))
        try:
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("tried\n", encoding="ascii")
        except OSError as error:
            raise NotHereError(f"ext4 finds no error: {error}") from error

    return Disk(at / "store", fail=find_error, mend=mount_again)


def _broken(stage: Scene, stack: ExitStack) -> Disk:
    at, mount_again = _ext4(stage, stack, "loop")

    def shut_down() -> None:
        fd = os.open(at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_SHUTDOWN, struct.pack("I", 0))
        except OSError as error:
            raise NotHereError(f"ext4 does not shut down: {error}") from error
        finally:
            os.close(fd)

    return Disk(at / "store", fail=shut_down, mend=mount_again)


def _needs_root(make: Callable[[Scene, ExitStack], Disk]) -> Callable[[Scene, ExitStack], Disk]:
    def wrapped(stage: Scene, stack: ExitStack) -> Disk:
        if os.geteuid():
            raise NotHereError("only root can mount")
        return make(stage, stack)

    return wrapped


SCENES: dict[str, Callable[[Scene, ExitStack], Disk]] = {
    "full (tmpfs of 2 MiB)": _needs_root(_full),
    "full, with the memory of misses on it": _needs_root(_full_for_all),
    "no more files (tmpfs of 150 inodes)": _needs_root(_full_of_names),
    "files of 200 KB at most (RLIMIT_FSIZE)": _limited,
    "read-only in the middle (ext4 that finds an error)": _needs_root(_read_only),
    "denied in the middle (permissions)": _denied,
    "broken in the middle (EIO; ext4 shut down)": _needs_root(_broken),
}


@contextmanager
def _failing(stage: Scene, disk: Disk, run: Run) -> Iterator[None]:
    """Let the disk fail once a part of the files was asked for."""

    def wait() -> None:
        stage.upstream.await_requests(len(stage.symbols) // 4)
        assert disk.fail is not None
        try:
            disk.fail()
        except (NotHereError, AssertionError, OSError) as error:
            run.broken.append(str(error))

    thread = threading.Thread(target=wait)
    if disk.fail is not None:
        thread.start()
    yield
    if disk.fail is not None:
        thread.join()


def play(name: str, count: int, seed: int) -> Run:
    """Let *name* happen to the disk of a run of so many symbols, then mend it.

    Raises:
        NotHereError: It cannot be made to happen here.
    """
    run = Run("warm", seed)
    with ExitStack() as stack:
        stage = stack.enter_context(scene(count, seed))
        stage.upstream.is_hostile = False
        mounts = stack.enter_context(ExitStack())
        disk = SCENES[name](stage, mounts)
        stage.be_patient()
        with watching(disk.store, stage.published, run):
            with _failing(stage, disk, run):
                ended = warm(stage, disk.store, run, **(disk.process or {}))
            run.notes["seconds"] = ended.seconds
            run.notes["peak_bytes"] = ended.peak_bytes
            failed = [each for each in ended.document["symbols"] if each["state"] == "failed"]
            run.notes["failed"] = len(failed)
            if not failed or any(each["cause"] != "disk" for each in failed):
                run.broken.append(f"the disk was not seen as the cause: {failed[:2]}")
            disk.mend()
            run.hostile_end_s = time.time()
            normal = {key: value for key, value in (disk.process or {}).items() if key != "preexec_fn"}
            again = warm(stage, disk.store, run, **normal)
            run.notes["recovery_s"] = again.seconds
        stage.judge_store(disk.store, run, complete=True)
        if again.code != 3:
            run.broken.append(f"exit {again.code} on a disk that is well: {again.said[-500:]}")
    return run


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 1 if anything broke."""
    parser = argparse.ArgumentParser(description="Take the disk away from a run.")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds")
    parser.add_argument("--symbols", type=int, default=200, help="of each run")
    parser.add_argument("--only", default="", help="what holds this text")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing stays mounted
    code = 0
    print("| the disk is | runs | wrong bytes | files lost | failed meanwhile | ended after | completed in |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in SCENES:
        if options.only not in name:
            continue
        runs: list[Run] = []
        try:
            for seed in range(options.seed, options.seed + options.runs):
                runs.append(run := play(name, options.symbols, seed))
                for problem in check(run):
                    code = 1
                    again = f"--seed {seed} --symbols {options.symbols} --only '{name[:12]}'"
                    print(f"BROKEN {problem}\nagain: python tests/faults/disk.py {again}", file=sys.stderr, flush=True)
        except NotHereError as error:
            print(f"| {name} | not here: {error} | | | | | |", flush=True)
            continue
        wrong, lost = sum(len(run.wrong) for run in runs), sum(len(run.lost) for run in runs)
        failed = sum(int(run.notes["failed"]) for run in runs)
        longest = [max(run.notes[each] for run in runs) for each in ("seconds", "recovery_s")]
        times = " | ".join(f"{seconds:.1f} s" for seconds in longest)
        print(f"| {name} | {len(runs)} | {wrong} | {lost} | {failed} | {times} |", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
