"""The shape of the house, read from its source: who imports whom, and what a package shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import symcache

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(symcache.__file__).parent

# Bottom up; a part imports only those in lines above its own, and others of its own package. Parts of one line know
# nothing of each other, but that config reads symbol paths.
FLOORS = [
    ["errors", "events", "_version", "bootstrap"],
    ["sympath"],
    ["config"],
    ["identity"],
    ["formats"],
    ["inputs"],
    ["stores"],
    ["symstore"],
    ["upkeep"],
    ["warm"],
    ["reports"],
    ["watch"],
    ["doctor"],
    ["server"],
    ["synth"],
    ["cli"],
    ["__init__"],
    ["__main__"],
]
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}

SOURCES = sorted(ROOT.rglob("*.py"))
PACKAGES = sorted(ROOT.rglob("__init__.py"))
WRITERS_OF_TESTS = sorted((Path(__file__).parents[1] / "support" / "synth").glob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


def part_of(module: str) -> str:
    """Return the part of the house that ``symcache.part.…`` belongs to; the package itself is its ``__init__``."""
    return [*module.split("."), "__init__"][1]


def imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything of symcache that is imported, inside functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            # "from symcache import stores" imports a part, "from symcache.stores import Tree" a name of one.
            names = [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"import_module", "importlib.import_module"}:
            names = [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "symcache")


def parts_imported(path: Path) -> Iterator[tuple[int, str]]:
    package = name_of(path).split(".")[:-1]
    for line, name in imports(ast.parse(path.read_bytes()), package):
        part = part_of(name)
        yield line, part if part in FLOOR_OF else "__init__"


def uses_environment(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that read environment variables."""
    names = {"environ", "environb", "getenv", "getenvb", "expandvars"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) in {"os", "os.path"}:
            yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module in {"os", "os.path"}:
            yield from (node.lineno for alias in node.names if alias.name in names)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_imports_only_from_below(path: Path) -> None:
    part = part_of(name_of(path))
    assert part in FLOOR_OF, "a new part of the house needs its floor"
    for line, imported in parts_imported(path):
        assert imported == part or FLOOR_OF[imported] < FLOOR_OF[part], f"{path}:{line} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_formats_know_no_key_and_writers_know_no_reader(path: Path) -> None:
    forbidden = {"formats": {"identity", "config", "sympath"}, "synth": {"formats", "inputs"}}
    part = part_of(name_of(path))
    assert not forbidden.get(part, set()) & {imported for _, imported in parts_imported(path)}


@pytest.mark.parametrize("path", WRITERS_OF_TESTS, ids=lambda path: path.stem)
def test_the_writers_of_tests_know_no_reader(path: Path) -> None:
    assert {part_of(name) for _, name in imports(ast.parse(path.read_bytes()), [])} <= {"identity"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_what_a_docstring_refers_to_is_there(path: Path) -> None:
    for dotted in re.findall(r"(?<!`)`symcache((?:\.\w+)+)`", path.read_text("utf-8")):
        parts = dotted.split(".")[1:]
        homes = [Path(ROOT, *parts[:count]) for count in range(len(parts), -1, -1)]
        home = next(home for home in homes if home.is_dir() or home.with_suffix(".py").is_file())
        names = parts[len(home.relative_to(ROOT).parts) :]
        text = (home / "__init__.py" if home.is_dir() else home.with_suffix(".py")).read_text("utf-8")
        assert all(re.search(rf"\b{name}\b", text) for name in names), f"symcache{dotted}"


def test_no_two_public_classes_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name_of(path))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_config_reads_the_environment(path: Path) -> None:
    # The bootstrap runs before anything of symcache can be imported, and only hands the environment on to pip.
    if part_of(name_of(path)) not in {"config", "bootstrap"}:
        assert list(uses_environment(ast.parse(path.read_bytes()))) == []


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_a_package_lists_what_it_shows_in_order(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    lists = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
    ]
    if len(tree.body) == 1:
        return  # it shows nothing: its modules are imported one by one, so that nobody pays for what they do not use
    assert len(lists) == 1, f"{path} has no __all__"
    # Constants, then classes, then functions, as the linter sorts them.
    assert lists[0] == sorted(lists[0], key=lambda name: (not name.isupper(), not name[:1].isupper(), name))
    assert len(set(lists[0])) == len(lists[0])


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_a_package_shows_what_it_imports_and_no_more(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    shown = {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    }
    brought = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("symcache")
        for alias in node.names
    }
    assert {name for name in brought if not name.startswith("_")} <= shown


def test_imports_are_seen_wherever_they_stand() -> None:
    source = """
import symcache.stores
from symcache import warm
from symcache.identity import keys
from . import pe
from ..server import app
def f():
    from symcache.cli import main
    import os, symcache.stores.http.client
    importlib.import_module("symcache.inputs")
if TYPE_CHECKING:
    from symcache.synth import pe
"""
    found = {name for _, name in imports(ast.parse(source), ["symcache", "formats"])}
    assert {part_of(name) for name in found} == {
        "stores", "warm", "identity", "formats", "server", "cli", "inputs", "synth",
    }  # fmt: skip


def test_every_way_to_read_the_environment_is_seen() -> None:
    source = "import os\nos.environ['A']\nos.getenv('A')\nfrom os import environ\nos.path.expandvars('$A')\n"
    assert sorted(uses_environment(ast.parse(source))) == [2, 3, 4, 5]
