"""Fill stores from an upstream that does everything wrong, watch every byte that a debugger could see, and recover.

    python tests/faults/upstream.py                    one run each through ``warm`` and ``serve``
    python tests/faults/upstream.py --runs 20          of ``warm``, each with another seed
    python tests/faults/upstream.py --serve --seed 7   the run of this seed through ``symcache serve``

In each run an upstream on loopback answers the questions for 1,000 symbols with what `faults.catalogue` holds: the
first question for a file meets a fault that the seed has dealt to it, and later ones may meet further ones. Meanwhile a
process reads the store as a debugger would. Then the faults are off, and one more run has to complete everything.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from faults.catalogue import (
    CUT,
    ENDLESS,
    FAMILIES,
    FAULTS,
    POINTER_FAULTS,
    RANGE_FAULTS,
    SIGNATURE,
    Scenery,
    is_applicable,
)
from support.answers import file, page, status
from support.serving import fetch, serving_process
from support.sources import cabinet
from support.synth.cab import CabinetDamage, SynthFolder, build_cabinet
from support.synth.pdb import NativePdbSpec, make_pdb, make_portable_pdb
from support.synth.pe import disk_bytes, plan_image
from support.upstream import Upstream

from symcache.identity import ImageKey, PdbKey, PortablePdbKey
from symcache.stores.negative import Misses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from faults.catalogue import Fault
    from support.answers import Answer
    from support.serving import Served
    from support.upstream import Exchange
    from support.wire import Request

    from symcache.identity import Key

__all__ = ["Run", "Scene", "check", "main", "scene", "serve_run", "warm", "warm_run", "watching"]

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 300.0
_LATER = 0.12  # chance that a question that was dealt no fault meets one all the same
_ANY_FAULT: dict[str, Fault] = {**FAULTS, **RANGE_FAULTS, **POINTER_FAULTS}

SETTINGS = """
[network]
proxy = 'none'
ca_file = '{home}/ca.pem'
connect_timeout_s = {patience_s}
read_timeout_s = {answer_s}
slowest_bytes_per_s = 4096
slowest_time_s = 1
retries = 3
backoff_s = 0.02
longest_backoff_s = 1.5
breaker = {{ cool_down_s = 0.2 }}
parallel_ranges = {{ from_bytes = 16777216, parts = 3 }}
[pointers]
allow = ['{home}/drop']
"""
"""Times so short that a run takes seconds; what they bound is bounded the same way with those of a user."""

_SERVER = """
[[server]]
url = '{url}'
pointers = true
"""


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol that is wanted.

    Attributes:
        key: Its key.
        content: The one right file; None if it is not published.
        name: What its file is called at the upstream: its own name, that of a cabinet, or ``file.ptr``.
        aged: The same with another age or stamp.
        is_named: Only an image names it.
    """

    key: Key
    content: bytes | None
    name: str
    aged: bytes = b""
    is_named: bool = False

    @property
    def index(self) -> str:
        return self.key.index

    @property
    def path(self) -> str:
        """Where it lies at the upstream."""
        return f"{self.index.rpartition('/')[0]}/{self.name}"


def make_symbols(count: int, seed: int) -> list[Symbol]:
    """Return that many symbols of every kind and form; one in twenty is not published."""
    chance = random.Random(f"symbols {seed}")
    symbols: list[Symbol] = []
    for number in range(count):
        guid, drawn = UUID(int=chance.getrandbits(128)), chance.random()
        payload_bytes = chance.randrange(40_000)
        if number == count // 2:
            payload_bytes = 17 << 20  # comes in parts
        elif drawn < 0.02:
            payload_bytes = chance.randrange(1 << 20, 3 << 20)  # is written as it comes
        if 0.05 < drawn < 0.15:
            image = ImageKey(f"image{number:04}.dll", guid.int & 0x7FFFFFFF, 0x20000)
            key = PdbKey(f"image{number:04}.pdb", guid, 1)
            made, aged = (
                disk_bytes(replace(plan_image(replace(image, timestamp=stamp), key), payload_bytes=payload_bytes))
                for stamp in (image.timestamp, image.timestamp ^ 1)
            )
            symbols.append(Symbol(image, made, image.name, aged))
            made, aged = (make_pdb(NativePdbSpec(guid, age)) for age in (1, 2))
            symbols.append(Symbol(key, made, key.name, aged, is_named=True))
        elif 0.15 < drawn < 0.2:
            portable = PortablePdbKey(f"net{number:04}.pdb", guid)
            made, _ = make_portable_pdb(guid, 1, payload_bytes=payload_bytes)
            symbols.append(Symbol(portable, made, portable.name, make_portable_pdb(UUID(int=guid.int ^ 1), 1)[0]))
        else:
            key = PdbKey(f"file{number:04}.pdb", guid, 1 + number % 3)
            made, aged = (
                make_pdb(NativePdbSpec(guid, age, payload_bytes=payload_bytes)) for age in (key.age, key.age + 1)
            )
            name = key.name
            if number != count // 2:
                name = f"{name[:-1]}_" if 0.2 < drawn < 0.3 else "file.ptr" if 0.3 < drawn < 0.34 else name
            symbols.append(Symbol(key, None if drawn > 0.95 and number != count // 2 else made, name, aged))
    return symbols


def _make_others(drop: Path) -> dict[str, bytes]:
    """Return files that nobody asked for, and write those that pointers lead to."""
    pdb = make_pdb(NativePdbSpec(UUID(int=7), payload_bytes=20_000))
    zeros = bytes(32 << 20)
    drop.mkdir()
    (drop / "other.pdb").write_bytes(pdb)
    return {
        "pdb": pdb,
        "image": disk_bytes(plan_image(ImageKey("x.dll", 7, 0x20000))),
        "portable": make_portable_pdb(UUID(int=7), 7)[0],
        "noise": random.Random(7).randbytes(30_000),
        "cabinet": cabinet(pdb),
        "bomb": cabinet(zeros),
        "grown bomb": cabinet(pdb + zeros),
        "lying cabinet": build_cabinet([SynthFolder([("x.pdb", pdb)])], damage=CabinetDamage(file_bytes=2**31 - 1)),
        "hollow cabinet": b"MSCF" + bytes(200),
        "drop": str(drop).encode(),
    }


@dataclass(slots=True)
class Meeting:
    """One question that met a fault.

    Attributes:
        fault: Its name.
        path: What was asked for.
        at_s: When, by the clock of files.
        held_s: How long the client bore it.
        sent_bytes: What was sent until it had enough, what was on its way included.
    """

    fault: str
    path: str
    at_s: float
    held_s: float = 0.0
    sent_bytes: int = 0


class HostileUpstream(Upstream):
    """Serves symbols, and does everything wrong while `is_hostile`.

    Attributes:
        meetings: What has met a fault.
    """

    def __init__(self, symbols: Sequence[Symbol], seed: int) -> None:
        super().__init__()
        self._seed = seed
        self.is_hostile = True
        self.meetings: list[Meeting] = []
        self.scenery: Scenery | None = None
        self._asked: Counter[str] = Counter()
        self._dealing = threading.Lock()
        self._dealt = _deal(symbols, random.Random(f"deal {seed}"))

    @property
    def undealt(self) -> set[str]:
        """The faults that nothing has met so far."""
        return set(_ANY_FAULT) - {meeting.fault for meeting in self.meetings}

    def _choose(self, request: Request) -> Answer:
        path = request.path.removeprefix("/")
        if not self.is_hostile:
            return file()
        with self._dealing:
            number = self._asked[path]
            self._asked[path] += 1
        chance = random.Random(f"{self._seed} {path} {number}")
        dealt = self._dealt.get(path, ())
        if number < len(dealt):
            name = dealt[number]
        elif chance.random() < _LATER:
            name = chance.choice([*(RANGE_FAULTS if "range" in request.headers else FAULTS)])
        else:
            name = ""
        if name in RANGE_FAULTS and "range" not in request.headers:
            name = ""
        return lambda exchange: self._answer(name, exchange)

    def _answer(self, name: str, exchange: Exchange) -> None:
        assert self.scenery is not None
        fault = _ANY_FAULT.get(name)
        if fault is None or not is_applicable(fault, exchange):
            if exchange.content is None:
                # A definite no has many faces.
                chance = random.Random(exchange.request.path)
                chance.choice([status(404), status(410), page(404), status(404, b"no such file" * 99)])(exchange)
            else:
                file()(exchange)
            return
        meeting = Meeting(name, exchange.request.path.removeprefix("/"), time.time())
        self.meetings.append(meeting)
        began_s = time.monotonic()
        try:
            fault.play(exchange, self.scenery)
        finally:
            meeting.held_s = time.monotonic() - began_s
            meeting.sent_bytes = exchange.request.sent_bytes


def _deal(symbols: Sequence[Symbol], chance: random.Random) -> dict[str, list[str]]:
    """Return what the first questions for each file meet: every fault is dealt to somebody."""
    dealt: dict[str, list[str]] = defaultdict(list)
    files = [each for each in symbols if each.content is not None and each.name != "file.ptr"]
    plain = [each for each in files if each.name == each.key.name]
    pointed = [each for each in symbols if each.content is not None and each.name == "file.ptr"]
    for faults, symbols_ in ((FAULTS, files), (POINTER_FAULTS, pointed)):
        names, takers = [*faults], [*symbols_]
        chance.shuffle(names)
        chance.shuffle(takers)
        if not takers:
            continue
        # Half of the files meet something at once, and all of them where there are fewer than faults.
        for number in range(max(len(names), len(takers) // 2)):
            dealt[takers[number % len(takers)].path].append(names[number % len(names)])
    chance.shuffle(plain)
    for number, name in enumerate(chance.sample([*RANGE_FAULTS], len(RANGE_FAULTS)) * 2):
        dealt[plain[number % len(plain)].path][:0] = [CUT, name]
    return dealt


@dataclass(slots=True)
class Run:
    """What one run showed.

    Attributes:
        way: ``warm`` or ``serve``.
        meetings: What met a fault.
        arrived_s: When each index was there, by the clock of files.
        hostile_end_s: When the faults were off.
        broken: What is not as it has to be, in words.
        wrong: Indexes of which wrong bytes were seen.
        lost: Published indexes that were not there in the end.
        notes: Figures for the log.
    """

    way: str
    seed: int
    meetings: list[Meeting] = field(default_factory=list)
    arrived_s: dict[str, float] = field(default_factory=dict)
    hostile_end_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    notes: dict[str, float] = field(default_factory=dict)


class Scene:
    """A hostile upstream with everything that belongs to it."""

    def __init__(self, stack: ExitStack, home: Path, count: int, seed: int) -> None:
        self.home = home
        self.symbols = make_symbols(count, seed)
        self.published = {each.index: each.content for each in self.symbols if each.content is not None}
        others = _make_others(home / "drop")
        by_path = {each.path: each for each in self.symbols}
        self.upstream = stack.enter_context(HostileUpstream(self.symbols, seed))
        for each in self.symbols:
            if each.content is None:
                continue
            if each.name == "file.ptr":
                target = home / "drop" / each.key.name
                target.write_bytes(each.content)
                self.upstream.files[each.path] = f"PATH:{target}".encode()
            else:
                packed = each.name != each.key.name
                self.upstream.files[each.path] = cabinet(each.content) if packed else each.content

        def aged(path: str) -> bytes:
            return by_path[path.removeprefix("/")].aged

        self.upstream.scenery = Scenery(stack, self.upstream, others, aged, home / "ca.pem")
        self.config = home / "symcache.toml"
        self.misses = home / "misses"
        self.be_patient(False)
        self.manifest = home / "wanted.txt"
        self.manifest.write_text("\n".join(each.index for each in self.symbols if not each.is_named), encoding="utf-8")

    def settings(self, *, patient: bool = False) -> str:
        """Return a config file's text: short times, or such that a busy machine has no faults of its own."""
        times = {"patience_s": 20, "answer_s": 20} if patient else {"patience_s": 1, "answer_s": 0.4}
        return SETTINGS.format(home=self.home, **times) + _SERVER.format(url=self.upstream.url)

    def be_patient(self, patient: bool = True) -> None:
        """Write the config file of `warm`."""
        text = f"[misses]\nfolder = '{self.misses}'\n{self.settings(patient=patient)}"
        self.config.write_text(text, encoding="utf-8")

    def false_misses(self, folder: Path) -> list[str]:
        """Return the published indexes that are remembered as missing."""
        with Misses(folder, ttl_s=3600) as misses:
            return [miss.index for miss in misses.list() if miss.index in self.published]

    def judge_store(self, store: Path, run: Run, *, complete: bool) -> None:
        """Look at the whole store at rest."""
        for index, content in self.published.items():
            path = store / index
            if not path.is_file():
                if complete:
                    run.lost.add(index)
            elif path.read_bytes() != content:
                run.wrong.add(index)
            else:
                run.arrived_s.setdefault(index, path.stat().st_ctime)
        if not complete:
            return
        own = store / ".symcache"
        left = [each for folder in ("staging", "growing") for each in (own / folder).rglob("*") if each.is_file()]
        if left:
            run.broken.append(f"scratch is left: {left[:3]}")


@contextmanager
def scene(count: int, seed: int) -> Iterator[Scene]:
    """Lend a scene in a folder of its own."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        yield Scene(stack, home, count, seed)


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    document: dict[str, Any]
    said: str
    seconds: float
    peak_bytes: int


def warm(stage: Scene, store: Path, run: Run, **process_options: Any) -> Ended:
    """Run ``warm`` once, in a process with these options, and hold what is true of every run."""
    options = ["--json", "--images", "all", "--config", str(stage.config), "-y", f"srv*{store}*{stage.upstream.url}"]
    began_s = time.monotonic()
    with open(stage.home / "out", "wb+") as out, open(stage.home / "err", "wb+") as err:  # noqa: PTH123
        process = subprocess.Popen(
            [sys.executable, "-m", "symcache", "warm", str(stage.manifest), *options],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            **process_options,
        )
        killer = threading.Timer(_PATIENCE_S, process.kill)
        killer.start()
        peak_bytes = 0
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
            time.sleep(0.05)
        killer.cancel()
        out.seek(0)
        err.seek(0)
        text, said = out.read().decode(), err.read().decode()
    seconds = time.monotonic() - began_s
    try:
        document = json.loads(text)
    except ValueError:
        document = {"summary": {}, "symbols": []}
        run.broken.append(f"no report, exit {process.returncode}: {said[-500:]}")
    _judge_words(text + said, run)
    states = Counter(each["state"] for each in document["symbols"])
    counts = {name: document["summary"].get(name) for name in ("present", "fetched", "missing", "failed")}
    listed = Counter(each["index"] for each in document["symbols"])
    # Where an image could not be had, its line speaks for the PDB that it names, too.
    is_complete = all(listed[each.index] == 1 or (each.is_named and not listed[each.index]) for each in stage.symbols)
    if {name: states.get(name, 0) for name in counts} != counts or not is_complete or len(listed) > len(stage.symbols):
        run.broken.append(f"the counts do not add up: {counts}, {states}")
    missing = {each["index"] for each in document["symbols"] if each["state"] == "missing"}
    if false := sorted(missing & set(stage.published)):
        first = next(each for each in document["symbols"] if each["index"] == false[0])
        run.broken.append(f"said to be missing, and published: {false[:3]}; {first}")
    expected = 1 if counts["failed"] else 3 if counts["missing"] else 0
    if process.returncode != expected:
        run.broken.append(f"exit {process.returncode} instead of {expected}")
    return Ended(process.returncode, document, said, seconds, peak_bytes)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept = {name: value for name, value in kept.items() if not name.startswith(("_NT_", "SYMCACHE_"))}
    return {**kept, "PYTHONPATH": str(_ROOT)}


def _judge_words(said: str, run: Run) -> None:
    if "Traceback" in said:
        run.broken.append(f"a traceback: {said[said.index('Traceback') :][:3000]}")
    if SIGNATURE in said:
        run.broken.append("a secret was shown")


def warm_run(count: int, seed: int, *, rounds: int = 1) -> Run:
    """Warm that many symbols from a hostile upstream, *rounds* times or until each fault was met, then recover."""
    run = Run("warm", seed)
    with scene(count, seed) as stage:
        store = stage.home / "store"
        with watching(store, stage.published, run):
            for _ in range(rounds):
                ended = warm(stage, store, run)
                run.notes["seconds"] = max(ended.seconds, run.notes.get("seconds", 0.0))
                run.notes["peak_bytes"] = max(ended.peak_bytes, run.notes.get("peak_bytes", 0.0))
                if not stage.upstream.undealt:
                    break
            stage.judge_store(store, run, complete=False)
            if false := stage.false_misses(stage.misses):
                run.broken.append(f"remembered as missing, and published: {false[:3]}")
            run.notes["left"] = sum(1 for index in stage.published if index not in run.arrived_s)
            stage.upstream.is_hostile = False
            stage.be_patient()
            run.hostile_end_s = time.time()
            ended = warm(stage, store, run)
            run.notes["recovery_s"] = ended.seconds
        stage.judge_store(store, run, complete=True)
        failed = [each for each in ended.document["symbols"] if each["state"] == "failed"]
        if failed:
            run.broken.append(f"still failed without faults: {failed[:2]}")
        run.meetings = [*stage.upstream.meetings]
        run.notes["unmet"] = len(stage.upstream.undealt)
    return run


def serve_run(count: int, seed: int, *, clients: int = 6) -> Run:
    """Let clients ask a running ``symcache serve`` for that many symbols of a hostile upstream, then recover."""
    run = Run("serve", seed)
    settings = "[serve]\npatience_s = 3\nstream_from_bytes = 65536\n"
    with scene(count, seed) as stage, ExitStack() as stack:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            del os.environ[name]
        home = stage.home / "served"
        served = stack.enter_context(
            serving_process(
                home, stage.upstream.url, "--config", str(home / "symcache.toml"), config=stage.settings() + settings
            )
        )
        stack.enter_context(watching(served.store, stage.published, run))
        began_s = time.monotonic()
        _let_clients_read(stage, served, run, clients, turns=3)
        run.notes["seconds"] = time.monotonic() - began_s
        run.notes["left"] = sum(1 for index in stage.published if index not in run.arrived_s)
        if false := stage.false_misses(home / "misses"):
            run.broken.append(f"remembered as missing, and published: {false[:3]}")
        stage.upstream.is_hostile = False
        run.hostile_end_s = time.time()
        mended_s = time.monotonic()
        while left := [index for index in stage.published if index not in run.arrived_s]:
            if time.monotonic() > mended_s + _PATIENCE_S / 2:
                run.lost.update(left)
                break
            _let_clients_read(stage, served, run, clients, turns=1)
        run.notes["recovery_s"] = time.monotonic() - mended_s
        for each in stage.symbols:
            if each.content is None and (code := fetch(served.port, each.index).status) != 404:
                run.broken.append(f"{each.index} is not published, and answered with {code}")
        assert served.process is not None
        run.notes["peak_bytes"] = _peak_bytes(served.process.pid)
        stage.judge_store(served.store, run, complete=False)
        _judge_words("".join(served.said), run)
        run.meetings = [*stage.upstream.meetings]
        run.notes["unmet"] = len(stage.upstream.undealt)
    return run


def _peak_bytes(pid: int) -> int:
    path = Path(f"/proc/{pid}/status")
    try:
        lines = path.read_text().splitlines()
    except OSError:  # no Linux, or it has ended
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)


def _let_clients_read(stage: Scene, served: Served, run: Run, clients: int, *, turns: int) -> None:
    """Ask for everything that was not there yet, as debuggers do, several at once; compare what comes."""
    order = [each for each in stage.symbols if each.index not in run.arrived_s]
    random.Random(f"order {run.seed}").shuffle(order)

    def read(symbol: Symbol) -> None:
        chance = random.Random(f"client {run.seed} {symbol.index}")
        for _ in range(turns):
            fields = {"Range": "bytes=100-1999"} if chance.random() < 0.1 else {}
            try:
                answered = fetch(served.port, symbol.index, fields)
            except (OSError, KeyError, ValueError, IndexError):
                run.broken.append(f"{symbol.index}: the server did not answer")
                return
            _judge_answer(symbol, answered.status, answered.body, answered.is_whole, run)
            if answered.status in {200, 206, 404} and answered.is_whole:
                return

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(read, order))


def _judge_answer(symbol: Symbol, code: int, body: bytes, is_whole: bool, run: Run) -> None:
    content = symbol.content
    if code == 404:
        if content is not None:
            run.broken.append(f"{symbol.index} is published, and was answered with 404")
    elif code in {200, 206}:
        expected = (content or b"")[100:2000] if code == 206 else content or b""
        if (body == expected) if is_whole else expected.startswith(body):
            if is_whole:
                run.arrived_s.setdefault(symbol.index, time.time())
        elif is_whole:
            run.wrong.add(symbol.index)
        # What is cut short was passed on as it came, and a debugger throws it away.
    elif code not in {502, 503, 504, 508}:
        run.broken.append(f"{symbol.index} was answered with {code}")


@contextmanager
def watching(store: Path, published: dict[str, bytes], run: Run) -> Iterator[None]:
    """Read the store in another process meanwhile."""
    ours, theirs = multiprocessing.Pipe()
    digests = {index: hashlib.sha256(content).hexdigest() for index, content in published.items()}
    process = multiprocessing.get_context("spawn").Process(target=_watch, args=(store, digests, theirs))
    process.start()
    try:
        assert ours.recv() == "ready"
        yield
    finally:
        ours.send("end")
        reads, wrong = ours.recv() if ours.poll(_PATIENCE_S) else (0, ["the watching process did not answer"])
        process.join()
        ours.close()
        run.notes["reads"] = reads
        run.wrong.update(wrong)


def _watch(store: Path, digests: dict[str, str], told: Connection) -> None:
    """Read each file under a debugger's name as soon as it is there, and whenever it changes, until told to end."""
    seen: dict[str, tuple[int, int, int]] = {}
    wrong: set[str] = set()
    reads = passes = 0
    told.send("ready")
    while True:
        is_last = told.poll(0.03)
        passes += 1
        for index, digest in digests.items():
            path = store / index
            with contextlib.suppress(OSError):
                found = path.stat()
                state = (found.st_ino, found.st_mtime_ns, found.st_size)
                if seen.get(index) != state:
                    reads += 1
                    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                        wrong.add(index)
                    seen[index] = state
        for path in _names(store) if is_last or passes % 50 == 0 else ():
            name = path.relative_to(store).as_posix()
            if not name.startswith(".symcache/") and name not in digests:
                wrong.add(name)
        if is_last:
            told.send((reads, sorted(wrong)))
            return


def _names(store: Path) -> list[Path]:
    try:
        return [*store.glob("*/*/*")]
    except OSError:
        return []


@dataclass(slots=True)
class Row:
    """What is known of one fault, or of several."""

    drawn: int = 0
    wrong: set[tuple[int, str]] = field(default_factory=set)
    lost: set[tuple[int, str]] = field(default_factory=set)
    held_s: float = 0.0
    sent_bytes: int = 0
    recovered_s: list[float] = field(default_factory=list)
    later: int = 0

    def add(self, run: Run, meeting: Meeting) -> None:
        self.drawn += 1
        self.held_s = max(self.held_s, meeting.held_s)
        self.sent_bytes = max(self.sent_bytes, meeting.sent_bytes)
        folder = meeting.path.rpartition("/")[0]
        index = f"{folder}/{folder.partition('/')[0]}"
        if index in run.wrong:
            self.wrong.add((run.seed, index))
        if index in run.lost:
            self.lost.add((run.seed, index))
        arrived_s = run.arrived_s.get(index)
        if arrived_s is not None and arrived_s <= run.hostile_end_s:
            self.recovered_s.append(max(0.0, arrived_s - meeting.at_s))
        elif arrived_s is not None:
            self.later += 1

    def cells(self) -> str:
        times = f"{statistics.median(self.recovered_s):.1f} s" if self.recovered_s else ""
        return f"{self.drawn} | {len(self.wrong)} | {len(self.lost)} | {times} | {self.later}"


def tables(runs: Sequence[Run], *, each: bool) -> str:
    """Return the tables in Markdown: by family or, with *each*, by fault; then what has no end."""
    rows: dict[str, Row] = defaultdict(Row)
    families = {name: family for family, faults in FAMILIES.items() for name in faults}
    for run in runs:
        for meeting in run.meetings:
            rows[meeting.fault].add(run, meeting)
            rows[f"family {families[meeting.fault]}"].add(run, meeting)
    lines = [
        "| fault | drawn | wrong bytes | files lost | there again, median | in the next run |",
        "|---|---|---|---|---|---|",
    ]
    for family, faults in FAMILIES.items():
        names = {name: name for name in faults} if each else {f"{family} ({len(faults)} kinds)": f"family {family}"}
        lines += [f"| {shown} | {rows[name].cells()} |" for shown, name in names.items()]
    lines += ["", "| an answer without an end | drawn | sent until it was cut | held for |", "|---|---|---|---|"]
    for name in ENDLESS:
        row = rows[name]
        lines.append(f"| {name} | {row.drawn} | {row.sent_bytes / 1024:.0f} KiB | {row.held_s:.1f} s |")
    longest = max(rows, key=lambda name: rows[name].held_s if not name.startswith("family") else -1.0, default="")
    lines += ["", f"Longest: {longest}, {rows[longest].held_s:.1f} s."]
    return "\n".join(lines)


def check(run: Run) -> list[str]:
    """Return what broke in *run*, in words."""
    problems = [*run.broken]
    if run.wrong:
        problems.append(f"wrong bytes: {sorted(run.wrong)[:5]}")
    if run.lost:
        problems.append(f"lost: {sorted(run.lost)[:5]}")
    return problems


def main(arguments: Sequence[str]) -> int:
    """Print the tables; return 1 if anything broke."""
    parser = argparse.ArgumentParser(description="Fill stores from an upstream that does everything wrong.")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds")
    parser.add_argument("--symbols", type=int, default=1000, help="of each run")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at once")
    parser.add_argument("--warm", action="store_true", help="through warm alone")
    parser.add_argument("--serve", action="store_true", help="through serve alone")
    parser.add_argument("--each", action="store_true", help="a row for each fault instead of each family")
    options = parser.parse_args(arguments)
    ways: dict[str, Callable[[int, int], Run]] = {"warm": warm_run, "serve": serve_run}
    wanted = [way for way in ways if getattr(options, way)] or [*ways]
    runs: list[Run] = []
    code = 0
    # Most of a run is waiting.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        seeds = range(options.seed, options.seed + options.runs)
        begun = [pool.submit(ways[way], options.symbols, seed) for way in wanted for seed in seeds]
        for ended in as_completed(begun):
            run = ended.result()
            way, seed = run.way, run.seed
            runs.append(run)
            notes = {name: round(value, 1) for name, value in run.notes.items() if name != "peak_bytes"}
            peak_mib = run.notes["peak_bytes"] / (1 << 20)
            print(f"{way} {seed}: {len(run.meetings)} faults, {notes}, {peak_mib:.0f} MiB", file=sys.stderr, flush=True)
            for problem in check(run):
                code = 1
                print(f"BROKEN {problem}", file=sys.stderr)
                print(
                    f"again: python tests/faults/upstream.py --{way} --seed {seed} --symbols {options.symbols}",
                    file=sys.stderr,
                    flush=True,
                )
    print(tables(runs, each=options.each))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
