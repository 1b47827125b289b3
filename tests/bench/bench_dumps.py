"""Time and memory to list the modules of kernel dumps, against kdmp-parser with a walk of the list in Python.

    python tests/bench/bench_dumps.py [--sizes 1,8,64] [--drivers 200] [--rounds 3]

Each run is a process of its own, so that its peak memory is its own; both read the same sparse dumps and must find the
same modules. kdmp-parser (PyPI) keeps every page in a map, so that its numbers grow with the size of the dump.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from math import nan
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.kernels import kernel_plan
from support.synth.kerneldump import DumpKind, DumpPlan, write_dump
from support.synth.kernelmemory import build_machine

from symcache.formats.view import FileView
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.records import Module

PAGES_PER_GIB = 1 << 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,8,64", help="GiB of memory, separated by commas")
    parser.add_argument("--drivers", type=int, default=200, help="modules in the list")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("TOOL", "DUMP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(*options.child)
        return
    print(f"{'dump':28} {'tool':12} {'modules':>7} {'seconds':>9} {'peak MiB':>9}")
    seconds: dict[tuple[str, DumpKind, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size_gib in (int(size) for size in options.sizes.split(",")):
            for kind in (DumpKind.FULL, DumpKind.BITMAP_FULL, DumpKind.RANGES_COMPLETE):
                path = Path(folder) / "MEMORY.DMP"
                write(path, size_gib, kind, options.drivers)
                for tool in ("symcache", "kdmp-parser"):
                    name = f"{size_gib} GiB {kind.name.lower()}"
                    seconds[tool, kind, size_gib] = report(name, tool, path, options.rounds)
    for tool, kind in dict.fromkeys((tool, kind) for tool, kind, _ in seconds):
        taken = [value for (*key, _), value in seconds.items() if key == [tool, kind]]
        print(f"{kind.name.lower():16} {tool:12} largest to smallest: {taken[-1] / taken[0]:.1f} times the time")


def write(path: Path, size_gib: int, kind: DumpKind, drivers: int) -> None:
    top = size_gib * PAGES_PER_GIB
    plan = kernel_plan(extra=drivers)
    machine = build_machine(replace(plan, first_pfn=top // 2))
    memory = ((1, 0x9E), (0x100, top // 2 - 0x100), (top // 2, top // 2))
    with path.open("wb") as file:
        write_dump(file, machine, DumpPlan(kind, memory, bitmap_bits=top + 64))


def report(name: str, tool: str, path: Path, rounds: int) -> float:
    results = []
    for _ in range(rounds):
        answer = subprocess.run(
            [sys.executable, __file__, "--child", tool, str(path)], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            print(f"{name:28} {tool:12} failed: {answer.stderr.strip().splitlines()[-1:]}")
            return nan
        # The parser writes notes to stdout, too.
        results.append(json.loads(answer.stdout.splitlines()[-1]))
    seconds: float = median(result["seconds"] for result in results)
    peak = max(result["peak_bytes"] for result in results) / (1 << 20)
    print(f"{name:28} {tool:12} {results[0]['modules']:7} {seconds:9.3f} {peak:9.1f}")
    return seconds


def run_child(tool: str, path: str) -> None:
    started = time.perf_counter()
    modules = list_with_symcache(path) if tool == "symcache" else list_with_kdmp_parser(path)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"modules": modules, "seconds": seconds, "peak_bytes": peak}))


def list_with_symcache(path: str) -> int:
    with FileView(path) as view:
        return sum(
            isinstance(record, Module) and not record.unloaded and record.image is not None
            for record in read_kernel_dump(view, path)
        )


def list_with_kdmp_parser(path: str) -> int:
    """Walk the list and read each image's header, the least that names an image."""
    kdmp_parser = importlib.import_module("kdmp_parser")
    dump = kdmp_parser.KernelDumpParser(path)

    def read(address: int, length: int) -> bytes | None:
        data = b""
        while len(data) < length:
            page = dump.read_virtual_page(address + len(data) & -0x1000)
            if page is None:
                return None
            within = address + len(data) & 0xFFF
            data += bytes(page[within : within + length - len(data)])
        return data

    head = dump.header.PsLoadedModuleList
    count = 0
    link = read(head, 8)
    while link is not None and (at := int.from_bytes(link, "little")) != head:
        entry = read(at, 0x68)
        if entry is None:
            break
        base, _, _ = struct.unpack_from("<QQI", entry, 0x30)
        header = read(base, 0x200)
        count += header is not None or base >= 0xFFFFF96000000000
        link = entry[:8]
    return count


if __name__ == "__main__":
    main()
