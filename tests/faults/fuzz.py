"""Feeds every parser of what comes from outside with inputs that a fuzzer makes up, guided by the code that they reach.

    python tests/faults/fuzz.py                        every target for ten seconds, as a table in Markdown
    python tests/faults/fuzz.py log cabinet --seconds 300
    python tests/faults/fuzz.py pdb --replay FILE      one input again, with what it costs

Needs atheris (``--group fuzz`` of ``tests/run.py``). What was found stays in a folder that git ignores, so that the
next run goes on from there. A target that breaks, by an error that its parser does not document or by what an input
costs, is printed with the input's file and what to run to see it again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import mmap
import os
import re
import struct
import sys
import time
import traceback
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from support.fuzzing import Target

__all__ = ["Found", "fuzz", "load_targets", "main"]

_HANG_S = 120
_RSS_MIB = 2048
_STATS = re.compile(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+)", re.MULTILINE)
_EXECUTED = re.compile(r"^stat::number_of_executed_units: *(\d+)", re.MULTILINE)
_ARTIFACT = re.compile(r"Test unit written to (\S+)")
_SAID = re.compile(r"^.*(?:Uncaught Python exception|ERROR: libFuzzer|Traceback).*$", re.MULTILINE)
_SECONDS = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Found:
    """What one run of a target came to.

    Attributes:
        cpu_s: Processor time of the process.
        executions: Inputs that were tried.
        edges: Places of the code that inputs reached, as atheris counts them.
        features: The same, with how often.
        slowest_s: Processor time of the slowest input.
        artifact: The input that broke it; None if none did.
        said: What the fuzzer said of that.
    """

    cpu_s: float = 0.0
    executions: int = 0
    edges: int = 0
    features: int = 0
    slowest_s: float = 0.0
    artifact: Path | None = None
    said: str = ""

    @property
    def is_broken(self) -> bool:
        return bool(self.said)


def load_targets() -> Mapping[str, Target]:
    """Import the targets, and what they import of symcache, so that atheris sees where they go."""
    import atheris  # noqa: PLC0415 - an optional part

    with redirect_stderr(StringIO()), atheris.instrument_imports(include=["symcache"]):
        from support.fuzztargets import TARGETS  # noqa: PLC0415 - only here is it instrumented
    return TARGETS


def fuzz(target: Target, corpus: Path, *, seconds: int = 0, runs: int = 0, seed: int = 0) -> Found:
    """Run *target* in a process of its own for that many seconds, or runs; what was found is kept in *corpus*."""
    from support.fuzzing import scratch  # noqa: PLC0415 - after symcache was instrumented

    kept, seeds, broken = (corpus / name / target.name for name in ("kept", "seeds", "broken"))
    for folder in (kept, seeds, broken):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds):
        (seeds / f"{number:03}").write_bytes(data)
    longest = max([target.longest, *map(len, target.seeds)])
    options = [f"-max_len={longest}", f"-timeout={_HANG_S}", f"-rss_limit_mb={_RSS_MIB}", f"-artifact_prefix={broken}/"]
    options += ["-print_final_stats=1", "-reload=0"]
    if target.words:
        words = corpus / f"{target.name}.dict"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), "ascii")
        options.append(f"-dict={words}")
    options += (
        [f"-max_total_time={seconds}"] * bool(seconds) + [f"-runs={runs}"] * bool(runs) + [f"-seed={seed}"] * bool(seed)
    )
    log = corpus / f"{target.name}.log"
    slowest = mmap.mmap(-1, _SECONDS.size)
    scratch()  # of all processes, as none of them but this one clears up
    pid = os.fork()
    if not pid:
        _fuzz_here(
            ["fuzz", *options, str(kept), str(seeds)], log, _guarded(target, broken, slowest, is_timed=bool(seconds))
        )
    _, status, usage = os.wait4(pid, 0)
    said = log.read_text("utf-8", "replace")
    (slowest_s,) = _SECONDS.unpack(slowest[:])
    rows = _STATS.findall(said)
    executions, edges, features = map(int, rows[-1]) if rows else (0, 0, 0)
    executed = _EXECUTED.search(said)
    artifact = _ARTIFACT.search(said)
    return Found(
        cpu_s=usage.ru_utime + usage.ru_stime,
        executions=int(executed[1]) if executed else executions,
        edges=edges,
        features=features,
        slowest_s=slowest_s,
        artifact=Path(artifact[1]) if artifact else None,
        said=_excerpt(said) if status or artifact else "",
    )


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _excerpt(said: str) -> str:
    first = _SAID.search(said)
    return said[-3000:] if first is None else said[first.start() :][:3000]


def _fuzz_here(arguments: list[str], log: Path, run: Callable[[bytes], None]) -> None:
    """Fuzz in this process, which ends with it."""
    import atheris  # noqa: PLC0415 - an optional part

    code = 1
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        atheris.Setup(arguments, run)
        atheris.Fuzz()
    except SystemExit as ended:
        code = int(bool(ended.code))
    except BaseException:  # noqa: BLE001 - nothing of the parent's may go on here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _guarded(target: Target, broken: Path, slowest: mmap.mmap, *, is_timed: bool) -> Callable[[bytes], None]:
    """Return what runs *target* and holds one input to its bounds; one that breaks it is kept in *broken*.

    Those of time count if *is_timed*; *slowest* is told the most that an input took.
    """
    import resource  # noqa: PLC0415 - not on Windows

    from support.fuzzing import BoundBroken  # noqa: PLC0415 - after it was instrumented

    def peak_bytes() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    is_warm = False  # the first inputs import modules

    def run(data: bytes) -> None:
        try:
            run_within_bounds(data)
        except BaseException:
            path = broken / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            print(f"Test unit written to {path}", file=sys.stderr)
            raise

    def run_within_bounds(data: bytes) -> None:
        nonlocal is_warm
        if not is_warm:
            for each in target.seeds:
                target.run(each)
            is_warm = True
        began_s, before = time.thread_time(), peak_bytes()
        target.run(data)
        took_s, grown = time.thread_time() - began_s, peak_bytes() - before
        slowest[:] = _SECONDS.pack(max(took_s, *_SECONDS.unpack(slowest[:])))
        if is_timed and took_s > target.most_seconds(data):
            raise BoundBroken(f"{took_s:.2f} s for {len(data)} bytes")
        if grown > target.most_memory(data) + _SLACK_BYTES:
            raise BoundBroken(f"{grown >> 20} MiB more for {len(data)} bytes")

    return run


_SLACK_BYTES = 64 << 20  # what the fuzzer itself takes grows with its corpus


def _replay(target: Target, path: Path) -> int:
    data = path.read_bytes()
    began_s = time.process_time()
    try:
        cost = target.measure(data)
    except Exception:  # noqa: BLE001 - whatever it is, it is shown
        traceback.print_exc()
        return 1
    print(f"{target.name}: {cost.calls} calls, {cost.peak_bytes} bytes, {time.process_time() - began_s:.3f} s")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 1 if a target broke."""
    parser = argparse.ArgumentParser(description="Feed parsers with inputs that a fuzzer makes up.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="those to run; all by default")
    parser.add_argument("--seconds", type=int, default=10, help="for each target")
    parser.add_argument("--runs", type=int, default=0, help="for each target, in place of seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzzer's random numbers; another one each time")
    parser.add_argument("--corpus", type=Path, default=ROOT / ".fuzz", help="folder for what is found")
    parser.add_argument("--replay", type=Path, help="run one target with this file alone")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("fuzz.py: atheris is not installed; it is in the dependency group fuzz, for Linux", file=sys.stderr)
        return 2
    targets = load_targets()
    if unknown := sorted(set(options.targets) - set(targets)):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(targets)}")
    chosen = [targets[name] for name in options.targets or targets]
    if options.replay is not None:
        return _replay(chosen[0], options.replay)
    print("| target | of | processor time | executions | edges | features | slowest input |")
    print("|---|---|---|---|---|---|---|", flush=True)
    code = 0
    for target in chosen:
        seconds = 0 if options.runs else options.seconds
        found = fuzz(target, options.corpus, seconds=seconds, runs=options.runs, seed=options.seed)
        covers = ", ".join(f"`{each}`" for each in target.covers)
        cells = [
            f"{found.cpu_s:.0f} s",
            f"{found.executions:,}",
            str(found.edges),
            str(found.features),
            f"{found.slowest_s * 1000:.0f} ms",
        ]
        print(f"| {target.name} | {covers} | {' | '.join(cells)} |", flush=True)
        if found.is_broken:
            again = (
                f"{target.name} --replay {found.artifact}" if found.artifact else f"{target.name} (no input was kept)"
            )
            print(f"{target.name}: broken\n{found.said}", file=sys.stderr)
            print(f"to see it again: python tests/faults/fuzz.py {again}", file=sys.stderr, flush=True)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
