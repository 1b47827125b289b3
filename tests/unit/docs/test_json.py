"""Every document that a command writes is described field by field: nothing is told that is not there, or left out."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
import pytest
from click.testing import CliRunner
from support.stores import APP, PUBLIC, write_build
from support.synth.winbindex import Entry, base, delta_fields, document, full_fields, update

from symcache.cli.app import root
from symcache.cli.bucket import others_json
from symcache.cli.scan import _Scan
from symcache.formats.pe.managed import ManagedCode
from symcache.formats.pe.version import VersionInfo
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.inputs.records import (
    CrashStack,
    ImageUse,
    Input,
    InputKind,
    Module,
    PdbFormat,
    PdbReference,
    ProcessSummary,
    Runtime,
    RuntimeKind,
    StackModule,
)
from symcache.stores.http.probe import Behaviour, Probe
from symcache.stores.http.servers import Hints
from symcache.stores.results import Attempt, Cause, Fetched, Hint, Missing
from symcache.synth.session import SESSION, make_published, write_inputs
from symcache.synth.upstream import LoopbackUpstream
from symcache.upkeep.bucket import Others
from symcache.upkeep.inventory import LeftOut
from symcache.upkeep.prune import Pruned
from symcache.upkeep.push import Pushed, PushState
from symcache.warm.difference import Change, Difference, Known
from symcache.warm.inspect import Inspection
from symcache.warm.makers import Maker, Origin
from symcache.warm.plan import FileKind
from symcache.warm.report import Report, Symbol
from symcache.warm.servers import ListedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.inputs.records import Record

REFERENCE = Path(__file__).parents[3] / "docs" / "reference.md"
SCHEMA = re.compile(r"`(symcache\.\w+/\d+)`")

# Command, schema of its document.
SCHEMAS = {
    "warm": {"symcache.report/1", "symcache.plan/1"},
    "check": {"symcache.report/1"},
    "fetch": {"symcache.report/1"},
    "demo": {"symcache.report/1"},
    "lock": {"symcache.report/1"},
    "diff": {"symcache.diff/1"},
    "scan": {"symcache.modules/1"},
    "sets": {"symcache.sets/1"},
    "builds": {"symcache.builds/1"},
    "inspect": {"symcache.inspect/1"},
    "missing": {"symcache.missing/1", "symcache.report/1"},
    "path": {"symcache.path/1", "symcache.explain/1"},
    "servers": {"symcache.servers/1"},
    "doctor": {"symcache.doctor/1"},
    "export": {"symcache.export/1"},
    "import": {"symcache.import/1"},
    "store add": {"symcache.add/1"},
    "store del": {"symcache.transactions/1"},
    "store list": {"symcache.transactions/1", "symcache.files/1"},
    "store query": {"symcache.query/1"},
    "store stats": {"symcache.stats/1"},
    "store verify": {"symcache.verify/1"},
    "store prune": {"symcache.prune/1"},
    "store push": {"symcache.push/1"},
    "store pin": {"symcache.pins/1"},
    "store unpin": {"symcache.pins/1"},
    "store pins": {"symcache.pins/1"},
    "store convert": {"symcache.convert/1"},
}

# What a command writes beside its document.
FILES = {"symcache.lock/1"}
# Objects whose fields are no part of the schema: facts by kind, and what is counted or named by something else.
OPEN = {"details", "lines", "settings", "by_kind"}


def with_json(group: click.Group = root, prefix: str = "") -> Iterator[str]:
    """Yield every command that takes ``--json``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from with_json(command, f"{prefix}{name} ")
        elif any("--json" in parameter.opts for parameter in command.params):
            yield f"{prefix}{name}"


def texts() -> dict[str, str]:
    """Return what the reference says of each schema: from its name to that of the next, or to the next heading."""
    chapter = REFERENCE.read_text(encoding="utf-8").partition("\n## JSON\n")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for part in re.split(r"^### .*$", chapter, flags=re.MULTILINE)[1:]:
        pieces = re.split(r"(?:\A|\n\n)(?=`symcache\.)", part.strip())
        general = "" if pieces[0].startswith("`symcache.") else pieces.pop(0)
        for piece in filter(None, pieces):
            name = SCHEMA.match(piece)
            assert name is not None, piece
            found[name[1]] = f"{piece}\n{general}"
    return found


TEXTS = texts()


def words(text: str) -> set[str]:
    """Return the names of fields in *text*; values stand there in quotes."""
    return set(re.findall(r"`([a-z][a-z0-9_]*)`", text))


def fields(value: Any) -> Iterator[str]:
    """Yield the names of all fields in *value*, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            if name not in OPEN:
                yield from fields(inner)
    elif isinstance(value, list):
        for item in value:
            yield from fields(item)


class Documents:
    """What commands wrote, by command and by schema."""

    def __init__(self) -> None:
        self.schemas: dict[str, set[str]] = {}
        self.fields: dict[str, set[str]] = {}

    def take(self, document: dict[str, Any], command: str | None = None) -> None:
        schema = document["schema"]
        self.fields.setdefault(schema, set()).update(fields(document))
        if command is not None:
            self.schemas.setdefault(command, set()).add(schema)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """The documents of all commands, in as many shapes as they have."""
    folder = tmp_path_factory.mktemp("json")
    found = Documents()
    with pytest.MonkeyPatch.context() as patch, LoopbackUpstream(make_published()) as upstream:
        for name in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(folder))
        patch.setenv("_NT_SYMBOL_PATH", f"srv*{folder / 'sym'}*{upstream.url}")
        _run_all(found, folder)
    for each in _rare():
        found.take(json.loads(json.dumps(each)))
    for command, each in _of_buckets():
        found.take(json.loads(json.dumps(each)), command)
    return found


def _run_all(found: Documents, folder: Path) -> None:
    def run(command: str, *arguments: str | Path, codes: tuple[int, ...] = (0,)) -> None:
        done = CliRunner().invoke(root, [*command.split(), *map(str, arguments), "--json"])
        assert done.exit_code in codes, f"{command}: {done.output} {done.exception}"
        found.take(json.loads(done.stdout), command)

    store = folder / "sym"
    drivers, dump = write_inputs(folder)
    first, lost = SESSION[0].pdb.index, next(module.pdb.index for module in SESSION if not module.is_published)
    bad = folder / "bad.dmp"
    bad.write_bytes(b"MDMP")
    run("path", "--explain", first)
    run("warm", "--plan", dump, bad, codes=(4,))
    run("warm", dump, drivers, bad, "--report", folder / "run.json", codes=(4,))
    run("check", dump, bad, "--fail-on", "private", codes=(3, 4))
    run("fetch", first, lost, codes=(3,))
    run("missing")
    run("missing", "--retry", codes=(3,))
    run("scan", dump, bad, codes=(4,))
    run("sets", "kernel")
    index = folder / "index"
    index.mkdir()
    kernels = [
        Entry(full_fields(1, 0x1000), [base("11-22H2")]),
        Entry(delta_fields(2, 0x9000), [update("11-22H2", "KB5023706", "22621.1413")]),
    ]
    (index / "ntoskrnl.exe.json.gz").write_bytes(document(kernels))
    run("builds", "--index", index)
    run("builds", "ntoskrnl.exe", "--index", index)
    run("scan", "--build", "22621", "--index", index)
    run("check", "--build", "22621", "--index", index, codes=(3,))
    run("scan", dump, "--set", "user-core")
    run("check", dump, "--set", "drivers", codes=(3,))
    run("warm", "--plan", dump, "--set", "drivers")
    for file in (dump, next(drivers.iterdir()), store / first, bad):
        run("inspect", file, codes=(0, 4))
    run("path")
    for arguments in ([], ["--probe"]):
        run("servers", *arguments, codes=(0, 1))
    run("doctor", "--offline", codes=(0, 1))
    build = write_build(folder / "build")
    empty = folder / "empty.pdb"
    empty.touch()
    run("store add", build, empty, "--product", "app", codes=(4,))
    run("store query", "--product", "app")
    run("store list", "--history")
    run("store list", "--files")
    twin = store / "twin.pdb" / APP.id / "twin.pdb"
    twin.parent.mkdir(parents=True)
    twin.write_bytes((store / APP.index).read_bytes())
    run("store stats", "--duplicates", "--dedupe")
    (store / PUBLIC.index).write_bytes(b"<!DOCTYPE html><html>")
    run("store verify", codes=(4,))
    run("store verify", "--repair", codes=(1, 3, 4))
    run("store pin", first)
    run("store pins")
    run("store unpin", first)
    run("store prune", "--max-size", "1B", "--quarantined-for", "0s", "--dry-run", codes=(3,))
    run("store prune", "--max-size", "1B", codes=(3,))
    run("store del", "1")
    run("store convert", "--two-tier")
    run("warm", dump, codes=(3,))
    run("lock", folder / "run.json", "-o", folder / "lock.json", codes=(3,))
    found.take(json.loads((folder / "lock.json").read_text(encoding="utf-8")))
    run("diff", folder / "lock.json", drivers, codes=(3,))
    run("diff", folder / "lock.json", bad, codes=(4,))
    run("export", dump, bad, "-o", folder / "b.zip", codes=(4,))
    run("import", folder / "b.zip", bad, "--store", folder / "inside", codes=(4,))
    run("demo")


def _rare() -> Iterator[dict[str, Any]]:
    """Yield documents of what no short run brings, made as the commands make them."""
    image, native = ImageKey("a.exe", 0x5E0B1234, 0x21000), PdbKey("a.pdb", UUID(int=1), 1)
    attempts = (Attempt("https://a.test", "404", "a.pd_"),)
    version = VersionInfo(company="Example", file_numbers=(1, 0, 0, 4))
    lost = Symbol(
        image.index,
        FileKind.IMAGE,
        "a.exe",
        Missing(Cause.NOT_PUBLISHED, attempts, detail="no", hint=Hint.THIRD_PARTY),
        use=ImageUse.BY_HAND,
        reload=".reload /f a.exe=0,1,2",
        keeps=(native.index,),
        origin=Origin(Maker("Mozilla"), version),
        on_stack=True,
    )
    here = Symbol(native.index, FileKind.PDB, "a.exe", Fetched(Path("/sym/a"), 5, "https://a.test", note="odd"))
    library = Symbol(
        "sos.dll/5E0B123421000/sos.dll",
        FileKind.IMAGE,
        "clr.dll",
        Missing(Cause.NOT_PUBLISHED),
        use=ImageUse.DATA_ACCESS,
    )
    yield Report("srv*", None, 1.0, [lost, here, library], private=[native.index], without_stack=["a.dmp"]).as_json()
    pdbs = (
        PdbReference(native, PdbFormat.NATIVE, others=(PortablePdbKey("a.pdb", UUID(int=2)),)),
        PdbReference(Pdb2Key("b.pdb", 1, 1), PdbFormat.PDB2),
        PdbReference(PortablePdbKey("c.pdb", UUID(int=2)), PdbFormat.PORTABLE, ("SHA256:00",)),
    )
    module = Module(
        "a.exe",
        image=image,
        pdbs=pdbs,
        dbg=DbgKey("a.dbg", 1, 0x1000),
        process="a.exe (4)",
        version=version,
        hits=3,
        managed=ManagedCode.IL,
        runtime=Runtime(RuntimeKind.CORE, 0xAA64, flavor=".chk", data_access=(1, 2), debugging_interface=(3, 4)),
        is_missed=True,
        no_debugger=True,
    )
    scan, written = _Scan(), io.StringIO()
    records: list[Record] = [
        Input("a.dmp", InputKind.KERNEL_DUMP),
        module,
        CrashStack((StackModule(module, 3),)),
        ProcessSummary(4, "a.exe", "C:\\a.exe", 1),
    ]
    with redirect_stdout(written):
        scan.write_json(scan.watch(iter(records)))
    yield json.loads(written.getvalue())
    probe = Probe("https://a.test", Behaviour.SYMBOL_SERVER, "404", settings={"letter_case": "lower"})
    server = ListedServer("a", "https://a.test", "https://a.test", Hints(), probe=probe)
    yield {"schema": "symcache.servers/1", "servers": [server.as_json()]}
    yield {"schema": "symcache.prune/1", "pruned": Pruned(0, 0, 0, 0, (LeftOut("a.pdb/1/a.pdb", "in use"),)).as_json()}
    known = Known("a.exe", {kind: {"a": "1"} for kind in ("image", "pdb", "other")}, {"a": "00"}, {"a": True}, {"1.0"})
    yield {"schema": "symcache.diff/1", "differences": [Difference(Change.CHANGED, known, None).as_json()]}
    yield Inspection("a.dmp", processes=[ProcessSummary(4, "a.exe", "C:\\a.exe", 1)]).as_json()


def _of_buckets() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield documents that take a server of buckets, which tests of the commands start; made as they make them."""
    others = others_json(Others(1, ("readme.txt",)))
    yield "store stats", {"schema": "symcache.stats/1", "others": others}
    yield "store verify", {"schema": "symcache.verify/1", "others": others}
    pushed = Pushed(ImageKey("a.exe", 0x5E0B1234, 0x21000), PushState.FAILED, 5, "timed out")
    summary = {state.value: 0 for state in PushState}
    head = {"schema": "symcache.push/1", "store": "/sym", "bucket": "s3://symbols", "summary": summary, "bytes": 0}
    yield "store push", {**head, "files": [pushed.as_json()]}


def test_every_command_with_json_has_its_schema() -> None:
    assert set(with_json()) == set(SCHEMAS)


@pytest.mark.parametrize("command", SCHEMAS)
def test_a_command_writes_the_schema_that_it_is_said_to(command: str, documents: Documents) -> None:
    assert documents.schemas[command] == SCHEMAS[command]


def test_every_schema_is_described_once_and_nothing_else_is() -> None:
    assert set(TEXTS) == FILES.union(*SCHEMAS.values())


@pytest.mark.parametrize("schema", sorted(TEXTS))
def test_each_field_is_described(schema: str, documents: Documents) -> None:
    known = words(TEXTS[schema])
    for other in SCHEMA.findall(TEXTS[schema]):
        known |= words(TEXTS[other])
    if re.search(r"as in a\s(?:report|scan)", TEXTS[schema]):
        known |= words(TEXTS["symcache.report/1"]) | words(TEXTS["symcache.modules/1"])
    assert documents.fields[schema] - known - {"schema"} == set()


@pytest.mark.parametrize("schema", sorted(TEXTS))
def test_each_field_that_is_described_is_there(schema: str, documents: Documents) -> None:
    assert words(TEXTS[schema]) - documents.fields[schema] == set()
