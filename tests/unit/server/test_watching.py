"""A server that watches folders: with its own store and network, one worker, and counts of what came."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.serving import fetch, serving, serving_process, wait_for
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record

from symcache.config import load_config
from symcache.errors import UsageError
from symcache.server.metrics import Metrics
from symcache.server.watching import Watching

if TYPE_CHECKING:
    from pathlib import Path

    from support.serving import Published
    from support.upstream import Upstream


def dump_of(wanted: Published) -> bytes:
    record = rsds_record(wanted.key.guid, wanted.key.age, wanted.key.name)
    return build_minidump(MinidumpPlan([MinidumpModule("C:\\app.exe", 0x140000000, 0x9000, 0x5AB38077, record)]))


def watched_counts(port: int) -> dict[str, int]:
    text = fetch(port, "metrics").body.decode()
    found = re.findall(r'^symcache_watch_files_total\{end="(\w+)"\} (\d+)$', text, re.MULTILINE)
    return {end: int(count) for end, count in found}


def test_a_server_warms_for_dumps_that_arrive(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    hot = tmp_path / "hot"
    hot.mkdir()
    upstream.files[small.index] = small.content
    with serving(tmp_path, upstream=upstream.url, watch=(hot,), watch_poll_s=0.1, watch_report_as="json") as served:
        assert watched_counts(served.port) == {}
        (hot / "app.dmp").write_bytes(dump_of(small))
        report = hot / "app.dmp.symcache.json"
        wait_for(report.exists)
        wait_for(lambda: watched_counts(served.port) == {"missing": 1})  # the image is
        assert json.loads(fetch(served.port, "-/status").body)["watched"] == {"missing": 1}
        assert fetch(served.port, small.index).body == small.content
    states = {each["index"]: each["state"] for each in json.loads(report.read_text("utf-8"))["symbols"]}
    assert states[small.index] == "fetched"
    assert len(upstream.asked(small.index)) == 1


def test_one_of_several_workers_watches(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    hot = tmp_path / "hot"
    hot.mkdir()
    upstream.files[small.index] = small.content
    config = f"[serve]\nwatch = ['{hot}']\nwatch_poll_s = 0.1\nwatch_reports = '{tmp_path / 'reports'}'\n"
    with serving_process(tmp_path, upstream.url, "--workers", "2", "-v", config=config) as served:
        (hot / "app.dmp").write_bytes(dump_of(small))
        wait_for((tmp_path / "reports" / "app.dmp.symcache.txt").exists)
        wait_for(lambda: watched_counts(served.port) == {"missing": 1})
    assert sum("app.dmp" in line for line in served.said) == 1


def test_a_server_that_watches_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        assert json.loads(fetch(served.port, "-/status").body)["watched"] is None


def test_a_folder_that_is_not_there_is_said_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path, watch=(tmp_path / "nowhere",), watch_poll_s=0.1) as served:
        wait_for(lambda: "it cannot be looked into" in caplog.text)
        assert fetch(served.port, "healthz").status == 200


def test_reports_of_two_folders_never_lie_in_one_place(tmp_path: Path) -> None:
    settings = load_config(None, {}).serve
    folders = (tmp_path / "a" / "same", tmp_path / "b" / "same")
    clash = replace(settings, watch=folders, watch_reports=tmp_path)
    with pytest.raises(UsageError, match="two folders called same"):
        Watching(None, clash, Metrics())  # type: ignore[arg-type]  # the store is not asked
