"""How fast traces are read, as a ratio to ``grep -c`` of one GUID over the same file in the same run.

    python tests/bench/bench_traces.py [--mib 1024] [--packed-mib 64] [--rounds 3] [--folder DIR]

Logs are made up of buffers such as a profiler writes: samples, stacks, context switches, and now and then images, which
merging named. The ratio is ours to grep's time: below 4 is the goal for what is not compressed. A compressed log is
told in bytes of the file, and what they expand to. Where dissect.etl is installed (dependency group ``traces``), its
walk over the events of a smaller log stands beside ours. grep has to be GNU grep.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.synth.etl import (
    TracedImage,
    buffer,
    build_etl,
    image_load,
    kernel_event,
    managed_payload,
    merged_events,
    process_event,
    sample,
    stack,
)
from support.synth.nettrace import Kind, NettraceWriter, TracedEvent

from symcache.formats.trace.scan import usable_cores
from symcache.inputs.detect import InputOptions, read_input
from symcache.inputs.records import Module, ProcessSelection

if TYPE_CHECKING:
    from collections.abc import Callable

_GUID = "b3e675d7-2554-4f18-830b-2762732560de"
_BUFFER_BYTES = 1 << 16
_KINDS = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=1024, help="length of the logs that are not compressed")
    parser.add_argument("--packed-mib", type=int, default=64, help="length of the compressed log")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made; they are removed")
    options = parser.parse_args()
    if shutil.which("grep") is None:
        print("grep is not installed")
        return 1
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, size, write in (
            ("ETL", options.mib << 20, write_plain),
            ("ETL, compressed", options.packed_mib << 20, write_packed),
            ("nettrace", options.mib << 20, write_nettrace),
        ):
            path = Path(folder, "trace")
            expanded = write(path, size)
            report(name, path, expanded, options.rounds)
            if name == "ETL":
                compare(path, options.rounds)
            path.unlink()
    return 0


def report(name: str, path: Path, expanded: int, rounds: int) -> None:
    greps: list[float] = []
    ours: list[float] = []
    several: list[float] = []
    cores = usable_cores()
    size = path.stat().st_size
    count = 0
    for _ in range(rounds):  # in turns, so that what disturbs does not favour one
        greps.append(seconds(lambda: grep(path)))
        ours.append(seconds(lambda: read(path, 1)))
        count = count or read(path, 1)
        if cores > 1 and expanded != size:
            several.append(seconds(lambda: read(path, cores)))
    line = f"{name:16} {size / 2**20:7.0f} MiB, {count} modules: grep {min(greps):.2f} s, symcache {min(ours):.2f} s"
    line += f" (ratio {min(ours) / min(greps):.1f})"
    if expanded != size:
        line += f", {expanded / min(ours) / 1e6:.0f} MB/s expanded"
    if several:
        line += f"; with {cores} processes {min(several):.2f} s ({min(several) / min(greps):.1f})"
    print(line, flush=True)


def compare(path: Path, rounds: int) -> None:
    """Let another reader go over the events of a part of *path*, beside symcache."""
    if importlib.util.find_spec("dissect") is None or importlib.util.find_spec("dissect.etl") is None:
        print("dissect.etl is not installed: no other reader")
        return
    from dissect.etl.etl import ETL  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    part = path.with_name("part")
    with path.open("rb") as whole, part.open("wb") as file:
        data = bytearray(whole.read(16 << 20))
        struct.pack_into("<I", data, 72 + 32 + 36, len(data) // _BUFFER_BYTES)  # buffers written: it goes by that
        file.write(data)

    def walk() -> None:
        with part.open("rb") as file:
            for _ in ETL(file):
                pass

    theirs = min(seconds(walk) for _ in range(rounds))
    ours = min(seconds(lambda: read(part, 1)) for _ in range(rounds))
    hot = min(seconds(lambda: read(part, 1, hot=10)) for _ in range(rounds))
    print(f"{'16 MiB of it':16} dissect.etl {theirs:.2f} s, symcache {ours:.3f} s, with --hot {hot:.2f} s", flush=True)
    part.unlink()


def grep(path: Path) -> None:
    pattern = "".join(f"\\x{byte:02x}" for byte in UUID(_GUID).bytes_le)
    subprocess.run(["grep", "-c", "-a", "-P", pattern, path], check=False, capture_output=True, env={"LC_ALL": "C"})


def read(path: Path, cores: int, hot: int | None = None) -> int:
    options = InputOptions(ProcessSelection(hot=hot), cores=cores)
    return sum(isinstance(record, Module) for record in read_input(path, options))


def seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def profile_buffer(rng: random.Random) -> list[bytes]:
    """Return the events of one buffer of a profiler: samples with stacks, and context switches between."""
    events: list[bytes] = []
    room = _BUFFER_BYTES - 72
    while True:
        addresses = [rng.choice((0xFFFFF80000000000, 0x7FFE00000000)) + rng.randrange(1 << 24) for _ in range(24)]
        group = [
            sample(rng.randrange(4, 5000), addresses[0]),
            stack(rng.randrange(4, 5000), rng.randrange(5000), addresses[: rng.randrange(4, 24)]),
            kernel_event(0x05, 36, rng.randbytes(8) + bytes(16)),
            kernel_event(0x05, 50, struct.pack("<II", rng.randrange(5000), 1) + bytes(8)),
        ]
        room -= sum(len(event) + -len(event) % 8 for event in group)
        if room < 0:
            return events
        events += group


def image_buffer() -> list[bytes]:
    events = [process_event(4000 + number, f"app{number}.exe") for number in range(20)]
    for number in range(100):
        image = TracedImage(4000, 0x7FFE00000000 + (number << 20), 0x80000, 7, f"m{number}.dll", f"m{number}.pdb")
        events += merged_events(TracedImage(**{**image.__dict__, "guid": UUID(int=number + 1)}))
        events.append(image_load(4000, image.base, image.size, rf"\Windows\{image.name}"))
    return events


def write_etl(path: Path, size: int, *, packed: bool) -> int:
    """Write a log of *size* bytes; return how long it is expanded."""
    rng = random.Random(1)
    kinds = [buffer(profile_buffer(rng), size=_BUFFER_BYTES, packed=packed) for _ in range(_KINDS)]
    images = buffer(image_buffer(), size=_BUFFER_BYTES, packed=packed)
    head = build_etl([], size=_BUFFER_BYTES, packed=packed)
    head = head[: int.from_bytes(head[:4], "little")]
    expanded = len(head)
    with path.open("wb") as file:
        file.write(head)
        number = 0
        while file.tell() < size:
            # A hundredth of the buffers holds images, as in real ones.
            data = images if number % 100 == 99 else kinds[number % _KINDS]
            file.write(data)
            expanded += int.from_bytes(data[48:52], "little") if packed else len(data)
            number += 1
    return expanded if packed else path.stat().st_size


def write_plain(path: Path, size: int) -> int:
    return write_etl(path, size, packed=False)


def write_packed(path: Path, size: int) -> int:
    return write_etl(path, size, packed=True)


def write_nettrace(path: Path, size: int) -> int:
    """Write a trace of many events of other kinds, at whose end the rundown names modules."""
    rng = random.Random(1)
    writer = NettraceWriter(5)
    writer.metadata(
        [Kind(1, "Microsoft-DotNETCore-SampleProfiler", 0), Kind(2, "Microsoft-Windows-DotNETRuntime", 190)]
    )
    head = bytes(writer.out)
    events = [TracedEvent(rng.randrange(1, 3), rng.randbytes(rng.randrange(4, 90))) for _ in range(1500)]
    block = b""
    for more in range(4):  # objects are aligned, and the same one has to fit everywhere
        writer.out[:] = head
        writer.events([*events, TracedEvent(1, bytes(more))])
        block = bytes(writer.out[len(head) :])
        if not len(block) % 4:
            break
    writer.out[:] = head
    writer.metadata([Kind(3, "Microsoft-Windows-DotNETRuntimeRundown", 154)])
    rundown = [
        managed_payload(number, f"C:\\app\\M{number}.dll", "", (UUID(int=number + 1), 1, f"M{number}.pdb"))
        for number in range(300)
    ]
    writer.events([TracedEvent(3, payload) for payload in rundown])
    with path.open("wb") as file:
        file.write(head)
        while file.tell() < size:
            file.write(block)
        file.write(bytes(writer.out[len(head) :]) + b"\1")
    return path.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
