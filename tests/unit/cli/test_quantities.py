from __future__ import annotations

import click
import pytest

from symcache.cli.output import parse_age, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("20GB", 20_000_000_000),
        ("20 gb", 20_000_000_000),
        ("1.5TiB", 3 << 39),
        ("500M", 500_000_000),
        ("1k", 1000),
        ("3KiB", 3072),
        ("0B", 0),
        ("17 bytes", 17),
    ],
)
def test_a_size_is_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90d", 90 * 86400),
        ("12h", 43200),
        ("2w", 14 * 86400),
        ("30m", 1800),
        ("1.5h", 5400),
        ("0s", 0),
        ("1Y", 31536000),
    ],
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "GB", "-1GB", "1e9B", "20 GB GB", "1XB", "nan d", "9" * 99 + "B", "٣d"])
def test_what_is_neither_is_wrong_usage(text: str) -> None:
    for parse in (parse_size, parse_age):
        with pytest.raises(click.BadParameter, match="such as"):
            parse(text)
