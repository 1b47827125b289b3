from __future__ import annotations

import re
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcache.config import BucketEntry, Config, ServerEntry, load_config
from symcache.sympath import SymbolPath

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[3] / "config" / "symcache.toml"


def uncommented() -> str:
    """Take the ``#`` from every line that is a key or a heading; explanations have a blank after it."""
    return re.sub(r"^#(?=\S)", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def keys_of(value: Any, prefix: str = "") -> Iterator[str]:
    for item in fields(value):
        inner = getattr(value, item.name)
        if is_dataclass(inner) and not isinstance(inner, SymbolPath):
            yield from keys_of(inner, f"{prefix}{item.name}.")
        elif item.metadata:
            yield prefix + item.name


def keys_in(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from keys_in(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_example_holds_every_key_and_no_other() -> None:
    parsed = tomllib.loads(uncommented())
    server, bucket = parsed["server"].pop(), parsed["bucket"].pop()
    assert sorted(keys_in(parsed)) == sorted(keys_of(Config()))
    assert sorted(server) == sorted(item.name for item in fields(ServerEntry))
    assert sorted(bucket) == sorted(item.name for item in fields(BucketEntry))


def test_the_example_uncommented_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    file.write_text(uncommented().partition("[[bucket]]")[0], encoding="utf-8")
    config = load_config(file, {})
    for item in fields(Config):
        if item.name not in {"source", "symbol_path"}:
            assert getattr(config, item.name) == getattr(Config(), item.name)
    assert config.symbol_path == load_config(None, {}).symbol_path


def test_the_servers_of_the_example_load_without_the_second_secret(tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    file.write_text(re.sub(r"^token = .*$", "", uncommented(), flags=re.MULTILINE), encoding="utf-8")
    (entry,) = load_config(file, {}).server
    assert all(getattr(entry, item.name) is not None for item in fields(ServerEntry) if item.name != "token")
    assert entry.token_command


def test_the_example_as_it_stands_holds_headings_alone() -> None:
    parsed = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    assert not parsed["network"].pop("breaker")
    assert not parsed["network"].pop("parallel_ranges")
    assert not parsed["unc"].pop("map")
    assert not any(parsed.values())


def test_everything_in_the_example_can_be_uncommented_at_once(tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    file.write_text(uncommented(), encoding="utf-8")
    (entry,) = load_config(file, {"EXAMPLE_PASSWORD": "from the variable"}).server
    assert (entry.password, entry.token) == ("from the variable", None)
