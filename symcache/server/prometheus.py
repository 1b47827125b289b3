"""The counts as Prometheus reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from symcache.server.metrics import BUCKETS_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.server.metrics import Totals

__all__ = ["format_metrics"]


def format_metrics(totals: Totals, store: Mapping[str, Any]) -> str:
    """Return *totals* in the text format, version 0.0.4.

    Args:
        totals: Of all workers.
        store: ``bytes``, ``files`` and ``keys`` as last measured; empty if nobody has measured yet.
    """
    return "\n".join([*_lines(totals, store), ""])


def _lines(totals: Totals, store: Mapping[str, Any]) -> Iterator[str]:
    yield from _counter("symcache_requests_total", "Requests by kind of answer.", "answer", totals.answers)
    yield from _counter("symcache_responses_total", "Requests by status.", "code", totals.statuses)
    yield from _single("symcache_sent_bytes_total", "counter", "Lengths of bodies sent.", totals.sent_bytes)
    yield from _counter("symcache_upstream_fetches_total", "Questions to upstreams by end.", "end", totals.fetches)
    yield from _single("symcache_upstream_bytes_total", "counter", "Lengths of files fetched.", totals.fetched_bytes)
    yield "# HELP symcache_upstream_seconds How long upstreams took, from question to file or no."
    yield "# TYPE symcache_upstream_seconds histogram"
    so_far = 0
    for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], totals.fetch_classes, strict=True):
        so_far += count
        yield f'symcache_upstream_seconds_bucket{{le="{bound}"}} {so_far}'
    yield f"symcache_upstream_seconds_sum {totals.fetch_s:.6f}"
    yield f"symcache_upstream_seconds_count {so_far}"
    yield from _single("symcache_requests_in_flight", "gauge", "Requests under way.", totals.requests)
    yield from _single("symcache_transfers_in_flight", "gauge", "Bodies being sent.", totals.transfers)
    yield from _single("symcache_upstream_in_flight", "gauge", "Files on their way from upstreams.", totals.flights)
    yield from _single("symcache_workers", "gauge", "Processes that answer.", totals.workers)
    for field, text in {"bytes": "Length of all files.", "files": "Files.", "keys": "Keys."}.items():
        if field in store:
            yield from _single(f"symcache_store_{field}", "gauge", f"In the store: {text}", store[field])


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} counter"
    for value, count in sorted(counts.items()):
        yield f'{name}{{{label}="{value}"}} {count}'


def _single(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    yield f"{name} {value}"
