"""What a power cut at any instant of a command leaves of a store.

    python tests/faults/power.py                     every command, as a table in Markdown
    python tests/faults/power.py --states 500        more states of each
    python tests/faults/power.py --only add          the commands whose name holds this text

The system calls of the real command are recorded with strace, and states that a weak disk may be in afterwards are made
of them (`support.power`). In each the store is read, tidied up by the next writer, and the command is run again.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from support.jobs import JOBS, broken_files, broken_memories, broken_records, findings, leftovers, make_place
from support.power import Data, Names, Recording, record, tracing, write_tree
from support.serving import fetch, serving_process, wait_for
from support.stores import invoke
from support.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.jobs import Job, Place

__all__ = ["Played", "main", "play"]


@dataclass(slots=True)
class Played:
    """What came of one command.

    Attributes:
        cuts: Instants at which the power can go: around each change and flush.
        flushes: How many files and folders it flushed.
        states: How many different states were looked into.
        damaged: In how many of them a fetched file was damaged, where that is allowed.
        broken: What was wrong, and in which state.
    """

    cuts: int = 0
    flushes: int = 0
    states: int = 0
    damaged: int = 0
    broken: list[str] = field(default_factory=list)


def play(name: str, home: Path, *, states: int, seed: int, durable: bool = True) -> Played:
    """Record the job called *name*, and look into *states* states that a power cut may leave, in the folder *home*."""
    job = JOBS[name]
    with Upstream() as upstream:
        place = make_place(home / "first", upstream, packed=job.wants_packed)
        job.prepare(place)
        for path in place.disk.rglob("*"):
            os.utime(path, (0, 0))  # as in the states that are made
        words = job.arguments(place, durable=durable)
        if job.is_served:
            recording = _record_server(place, home, durable=durable)
        else:
            recording = record(place.disk, [sys.executable, "-m", "symcache", *words], home / "trace")
        played = Played(recording.cuts, recording.flushes)
        chance = random.Random(f"{name} {durable} {seed}")
        seen: set[int] = set()
        for number in range(states):
            cut, names, data = chance.randrange(recording.cuts), chance.choice([*Names]), chance.choice([*Data])
            if not number:  # what it says to have done is on the disk
                cut, names, data = recording.cuts - 1, Names.NONE, Data.NONE
            tree = recording.state(cut, names, data, chance)
            if (mark := hash(frozenset(tree.items()))) in seen:
                continue
            seen.add(mark)
            played.states += 1
            what = f"{name}, durable {durable}, cut {cut} of {recording.cuts}, names {names}, bytes {data}"
            state = replace(place, disk=home / f"state{number}")
            write_tree(tree, state.disk)
            broken = [*_judge(job, state, played, durable=durable, has_ended=cut == recording.cuts - 1)]
            played.broken += [f"{what}: {each}" for each in broken]
            shutil.rmtree(state.disk)
    return played


def _record_server(place: Place, home: Path, *, durable: bool) -> Recording:
    """Record a server of which a client asks for every file."""
    recording = Recording(place.disk)
    trace = home / "trace"
    settings = f"[store]\ndurable = {str(durable).lower()}\n"
    with serving_process(
        home / "server", place.url, config=settings, store=place.store, tracing=tracing(trace, "-D")
    ) as served:
        assert served.process is not None
        for each in place.fetched:
            answered = fetch(served.port, each.index)
            assert answered.body == each.content, answered
    # The tracer is a process beside, and may end later.
    ended = re.compile(rf"^{served.process.pid} +\+\+\+ exited with", re.MULTILINE)
    wait_for(lambda: ended.search(trace.read_text(encoding="ascii")))
    recording.play(trace.read_text(encoding="ascii"))
    return recording


def _judge(job: Job, place: Place, played: Played, *, durable: bool, has_ended: bool) -> Iterator[str]:
    may_be_damaged = job.fetches and not durable
    in_force = job.ended if has_ended and job.ended is not None else job.new
    roots = [place.store, *([place.disk / job.through] if job.through else [])]
    place.store.mkdir(exist_ok=True)
    for root in roots:
        if root.is_dir():
            kept = job.kept(place) if root == place.store else ()
            may_be = may_be_damaged or "--repair" in job.words
            yield from broken_files(place, root, kept, may_be_damaged=may_be)
    for bundle in place.disk.glob("*.zip"):
        with zipfile.ZipFile(bundle) as archive:
            if (bad := archive.testzip()) is not None:
                yield f"{bundle.name}: {bad} is damaged"
    if has_ended and not job.fetches:  # what was said to be done is
        yield from broken_files(place, place.store, job.left(place))
        if "export" in job.words and not (place.disk / "out.zip").exists():
            yield "out.zip: gone"
    if may_be_damaged:
        found = [*broken_files(place, place.store, ())]
        played.damaged += job.is_sound and bool(found)
        if found:
            mended = place.shell("verify", "--repair", "--restart")
            if mended.exit_code not in {0, 1}:
                yield f"verify --repair ended with {mended.exit_code}: {mended.output}"
    yield from broken_memories(place)
    if not (place.store / ".symcache" / "converting").exists():
        yield from broken_records(place, in_force)
        if job.is_sound:
            yield from findings(place.shell)
    again = invoke(job.arguments(place, durable=durable))
    if again.exit_code not in job.again:
        yield f"run again, it ended with {again.exit_code}: {again.output}"
        return
    for root in roots:
        yield from broken_files(
            place, root, job.left(place) if root == place.store else (), may_be_damaged=may_be_damaged
        )
    yield from broken_records(place, job.done)
    yield from findings(place.shell)
    yield from leftovers(place)


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 1 if something was wrong."""
    parser = argparse.ArgumentParser(description="Print what power cuts leave of a store.")
    parser.add_argument("--states", type=int, default=200, help="states that are made of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands whose name holds this text")
    options = parser.parse_args(arguments)
    print("| command | `durable` | instants | flushes | states | with damaged files | broken |")
    print("|---|---|---|---|---|---|---|", flush=True)
    code = 0
    with ExitStack() as stack:
        for name, job in JOBS.items():
            if options.only not in name:
                continue
            for durable in [True, False] if job.fetches else [True]:
                home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                played = play(name, home, states=options.states, seed=options.seed, durable=durable)
                said = "on" if durable else "off"
                cells = [played.cuts, played.flushes, played.states, played.damaged, len(played.broken)]
                print(f"| {name} | {said} | {' | '.join(map(str, cells))} |", flush=True)
                for each in played.broken[:10]:
                    print(each, file=sys.stderr)
                if played.broken:
                    again = f"python tests/faults/power.py --seed {options.seed} --states {options.states}"
                    print(f"again: {again} --only '{name}'", file=sys.stderr)
                    code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
