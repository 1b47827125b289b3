"""How fast a packed dump and a large profile are read, beside programs that expand or parse the same bytes.

    python tests/bench/bench_inputs.py [MIB]

MIB is the length of each, expanded; 256 without it. Ratios are of one run, ours to theirs in time: below 1 is faster.
The dump's rows have ``gzip -dc``, ``xz -dc`` and ``zstd -dc`` into nowhere beside them, those of the profile
``json.load`` of Python, which takes all of it into memory, and ``jq`` where it is installed.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump
from support.synth.reports import ReportedModule, firefox_profile

from symcache.inputs.detect import read_input
from symcache.inputs.records import Module

if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1 << 20
_PACKERS = (("gz", ("gzip", "-1c")), ("xz", ("xz", "-0c")), ("zst", ("zstd", "-qc")))


def main() -> int:
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder, "MEMORY.DMP")
        write_dump(dump, mib)
        for suffix, packer in _PACKERS:
            if shutil.which(packer[0]) is None:
                print(f"{packer[0]} is not installed")
                continue
            packed = dump.with_name(f"MEMORY.DMP.{suffix}")
            with packed.open("wb") as file:
                subprocess.run([*packer, dump], stdout=file, check=True)
            theirs = timed(lambda: subprocess.run([packer[0], "-dc", packed], stdout=subprocess.DEVNULL, check=True))  # noqa: B023
            tell(f"dump.{suffix}", mib, timed(lambda: read(packed)), f"{packer[0]} -dc", theirs)  # noqa: B023
        profile = Path(folder, "profile.json")
        write_profile(profile, mib)
        ours = timed(lambda: read(profile))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"memory of this process at its peak until here: {grown} MiB")
        if jq := shutil.which("jq"):
            command = [jq, "-c", ".libs[]", str(profile)]
            tell(
                "profile",
                mib,
                ours,
                "jq",
                timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)),
            )
        tell("profile", mib, ours, "json.load", timed(lambda: json.loads(profile.read_bytes())))
    return 0


def write_dump(path: Path, mib: int) -> None:
    """Write a minidump followed by memory: half of its pages are zero, a quarter text, a quarter noise."""
    noise = random.Random(1)
    with path.open("wb") as file:
        file.write(build_minidump(MinidumpPlan([MinidumpModule(r"C:\m.dll", 0x10000, 0x8000, 0x5F000000)])))
        for _ in range(mib):
            file.write(bytes(_MIB // 2) + b"what memory is full of, " * (_MIB // 96) + noise.randbytes(_MIB // 4))


def write_profile(path: Path, mib: int) -> None:
    """Write a profile with samples behind its list of libraries."""
    libs = [ReportedModule(f"m{n}.dll", f"m{n}.pdb", UUID(int=n + 1), 1, n + 1, 0x1000) for n in range(300)]
    text = json.dumps(firefox_profile(libs, samples=1000), separators=(",", ":"))
    begin, end = text.split('"data":[', 1)
    rows = ",".join(f"[{n},{n * 0.37:.4f},null,{n % 977}]" for n in range(40_000))
    with path.open("w", encoding="utf-8") as file:
        file.write(begin + '"data":[')
        while file.tell() < mib * _MIB:
            file.write(rows + ",")
        file.write(end)


def read(path: Path) -> None:
    assert any(isinstance(record, Module) for record in read_input(path))


def timed(work: Callable[[], object]) -> float:
    """Return the least of three times, in seconds."""
    times = []
    for _ in range(3):
        began_s = time.monotonic()
        work()
        times.append(time.monotonic() - began_s)
    return min(times)


def tell(name: str, mib: int, ours_s: float, program: str, theirs_s: float) -> None:
    print(f"{name:10} {mib / ours_s:7.0f} MiB/s, {program} {mib / theirs_s:7.0f} MiB/s, ratio {ours_s / theirs_s:.2f}")


if __name__ == "__main__":
    sys.exit(main())
