"""Time and memory to list the kernel's modules of raw memory images, beside volatility3's ``windows.modules``.

    python tests/bench/bench_memory.py [--dense 4] [--sparse 64] [--drivers 200] [--rounds 3] [--folder DIR]

Each run is a whole command, `symcache scan` and volatility's, and its peak memory its own. Both list the same modules;
volatility has the kernel's symbols, converted, in its cache, and symcache finds the list without them. The images:

- dense: every page that the machine does not use holds noise, as pages in use do;
- sparse: a file of holes round the machine's pages;
- zeros: a file without a hole in which there is nothing but zeros, and
- noise: one in which there is nothing but noise behind the first page: how long it takes to say so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.kernels import expected, kernel_pdb, kernel_plan
from support.synth.kernelmemory import build_machine
from support.synth.memoryimages import write_raw

if TYPE_CHECKING:
    from support.synth.kernelmemory import MachineMemory

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
VOLATILITY = """
import sys
from volatility3.framework import constants
constants.SYMBOL_SERVER_URL = sys.argv.pop(1)
from volatility3.cli import main
sys.argv[0] = "vol"
main()
"""


# What a process has at its highest counts what the process that started it had, so that a small one starts it.
STARTER = """
import os, sys, time
started = time.perf_counter()
silence = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silence)
usage = os.wait4(process, 0)[2]
print(f"\\0[{time.perf_counter() - started}, {usage.ru_maxrss}]")
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing of it."""

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=int, default=4, help="GiB of the images without holes")
    parser.add_argument("--sparse", type=int, default=64, help="GiB of the image of holes")
    parser.add_argument("--drivers", type=int, default=200, help="modules in the list beside the usual ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the images are written; the system's by default")
    options = parser.parse_args()
    source = build_machine(replace(kernel_plan(extra=options.drivers), searchable=True, first_pfn=0x1A0))
    high = build_machine(
        replace(kernel_plan(extra=options.drivers), searchable=True, first_pfn=options.dense * GIB // 0x1000 - 0x8000)
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        server = serve(folder / "server", source)
        print(f"{'image':24} {'tool':12} {'modules':>7} {'seconds':>9} {'peak MiB':>9}")
        image = folder / "memory.raw"
        for title, make in {
            f"{options.sparse} GiB sparse": partial(write_sparse, source, options.sparse * GIB),
            f"{options.dense} GiB dense": partial(write_dense, source, options.dense * GIB),
            f"{options.dense} GiB dense, high": partial(write_dense, high, options.dense * GIB),
            f"{options.dense} GiB zeros": partial(write_zeros, options.dense * GIB),
            f"{options.dense} GiB noise": partial(write_dense, None, options.dense * GIB),
        }.items():
            make(image)
            for tool in ("symcache", "volatility3"):
                report(title, tool, image, server, folder, options.rounds)
            image.unlink()


def serve(folder: Path, source: MachineMemory) -> str:
    """Serve the kernel's PDB on loopback; return where."""
    path = folder / expected(source.plan.drivers[0])[2][0]
    path.parent.mkdir(parents=True)
    path.write_bytes(kernel_pdb(source))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def write_sparse(source: MachineMemory, size: int, path: Path) -> None:
    with path.open("wb") as file:
        write_raw(file, source, size=size)


def write_dense(source: MachineMemory | None, size: int, path: Path) -> None:
    noise = random.Random(1).randbytes(16 << 20)
    with path.open("wb") as file:
        file.write(bytes(0x1000))
        while file.tell() < size:
            shift = file.tell() >> 12 & 0xFFF
            file.write((noise[shift:] + noise[:shift])[: size - file.tell()])
    if source is not None:
        with path.open("r+b") as file:
            write_raw(file, source, size=size)


def write_zeros(size: int, path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(0, size, 16 << 20):
            file.write(bytes(16 << 20))


def report(title: str, tool: str, image: Path, server: str, folder: Path, rounds: int) -> None:
    if tool == "volatility3":
        if importlib.util.find_spec("volatility3") is None:
            print(f"{title:24} {tool:12} is not installed")
            return
        for each in ("cache", "symbols"):
            (folder / each).mkdir(exist_ok=True)
        options = ["-q", "--cache-path", str(folder / "cache"), "-s", str(folder / "symbols"), "-r", "json"]
        command = [sys.executable, "-c", VOLATILITY, server, *options, "-f", str(image), "windows.modules"]
    else:
        command = [sys.executable, "-m", "symcache", "scan", "--json", "--no-user", str(image)]
    results = [measure(command) for _ in range(rounds)]
    seconds = median(each[0] for each in results)
    peak = max(each[1] for each in results) / (1 << 20)
    print(f"{title:24} {tool:12} {results[-1][2]:>7} {seconds:9.2f} {peak:9.1f}", flush=True)


def measure(command: list[str]) -> tuple[float, int, int | str]:
    """Return seconds, bytes of memory at the highest, and how many modules were listed."""
    done = subprocess.run([sys.executable, "-c", STARTER, *command], cwd=ROOT, capture_output=True, check=True)
    output, _, numbers = done.stdout.rpartition(b"\0")
    seconds, peak = json.loads(numbers)
    peak *= 1 if sys.platform == "darwin" else 1024
    try:
        document = json.loads(output)
    except ValueError:
        return seconds, peak, "none"
    modules = document if isinstance(document, list) else [each for each in document["modules"] if not each["unloaded"]]
    return seconds, peak, len(modules)


if __name__ == "__main__":
    main()
