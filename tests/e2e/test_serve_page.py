"""The page in a real browser. Set SYMCACHE_TEST_SCREENSHOTS to a folder to keep the pictures."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browser import Browser
from support.serving import Served, fetch, publish, serving
from support.upstream import Upstream

from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = publish("application.pdb", 1, payload_bytes=300_000)
DRIVER = publish("driver.pdb", 2, age=3, payload_bytes=2_000_000)
ABSENT = publish("secdrv.pdb", 3)
SCREENSHOTS = os.environ.get("SYMCACHE_TEST_SCREENSHOTS")
FILLER = publish("filler.pdb", 4, payload_bytes=8_000_000)
EVIL = "<img src=x onerror=alert(1)>.pdb"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    account = tmp_path / "store/.symcache/serve"
    account.mkdir(parents=True)
    began_s = time.time() // 300 * 300
    samples = [
        {
            "t": began_s - 300 * back,
            "hit": 900 + 400 * (back % 7),
            "cold": 20 + back % 5,
            "miss": 150 + 30 * (back % 3),
            "failed": back % 11 == 0,
            "bytes": (400 - back) * 20_000,
        }
        for back in range(200, 0, -1)
    ]
    (account / "samples").write_text(json.dumps(samples))
    with Store(tmp_path / "store") as store:
        scratch = store.scratch()
        scratch.write_bytes(FILLER.content)
        store.publish(scratch, FILLER.key, durable=False)
    files = {each.index: each.content for each in (APP, DRIVER)}
    with Upstream(files) as upstream, serving(tmp_path, upstream=upstream.url) as running:
        for path in (APP.index, APP.index, ABSENT.index, ABSENT.index, f"%3Cimg%20src=x%3E.pdb/{'A' * 33}/x.pdb"):
            fetch(running.port, path)
        yield running


def picture(browser: Browser, name: str, tmp_path: Path) -> None:
    folder = Path(SCREENSHOTS or tmp_path)
    browser.screenshot(folder / f"{name}.png")
    assert (folder / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("wide", 1280, False), ("narrow", 390, False), ("dark", 1280, True)]
)
def test_the_page_shows_what_goes_on(
    browser: Browser, served: Served, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    del browser.complaints[:], browser.requests[:]
    browser.open(f"{served.url}/", width=width, dark=dark, mobile=width < 500)
    browser.wait("document.body.dataset.ready === 'yes'")
    browser.wait("document.querySelectorAll('#missing-table tbody tr').length > 0")
    assert browser.run("document.querySelector('#missing-table td').textContent") == ABSENT.index
    assert browser.run("document.querySelectorAll('#answers rect').length") > 100
    assert browser.run("document.querySelector('#growth polyline') !== null")
    # Nothing is wider than the screen, nothing came from elsewhere, nothing was complained about.
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert {url.split("/-/")[0].rstrip("/") for url in browser.requests if not url.startswith("data:")} == {served.url}
    assert browser.complaints == []
    picture(browser, name, tmp_path)


def test_the_command_for_each_program_can_be_copied(browser: Browser, served: Served) -> None:
    browser.open(f"{served.url}/")
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    shells = browser.run("[...document.querySelectorAll('[data-shell]')].map((button) => button.dataset.shell)")
    assert shells == ["windbg", "cmd", "powershell", "sh", "lldb"]
    for shell in shells:
        browser.run(f"document.querySelector('[data-shell={shell}]').click()")
        assert f"{served.url}/" in browser.run("document.getElementById('command').textContent")
    browser.run("document.getElementById('copy').click()")
    browser.wait("document.getElementById('copied').textContent === 'Copied.'")


def test_search_finds_what_is_there_and_what_is_missing(browser: Browser, served: Served) -> None:
    browser.open(f"{served.url}/")
    for text, found in [("applic", APP.index), (str(APP.key.guid), APP.index), ("secdrv", ABSENT.index)]:
        browser.run(f"document.getElementById('q').value = {json.dumps(text)}")
        browser.run("document.querySelector('#search-form button').click()")
        browser.wait(f"document.querySelector('#search-table td')?.textContent === {json.dumps(found)}")
    assert browser.complaints == [] or "404" not in browser.complaints[0]


def test_a_pasted_manifest_is_fetched_with_live_progress(browser: Browser, served: Served, tmp_path: Path) -> None:
    browser.open(f"{served.url}/", width=1280)
    browser.wait("document.body.dataset.ready === 'yes'")
    manifest = "".join(f"{each.key.name},{each.key.id},1\n" for each in (APP, DRIVER, ABSENT))
    browser.run(f"document.getElementById('paste').value = {json.dumps(manifest)}")
    browser.run("document.querySelector('#warm-form [type=submit]').click()")
    browser.wait("document.getElementById('run-state').textContent.includes('3 wanted')")
    said = browser.run("document.getElementById('run-state').textContent")
    assert "1 present, 1 fetched" in said
    assert "1 missing" in said
    assert (served.store / DRIVER.index).read_bytes() == DRIVER.content
    picture(browser, "warmed", tmp_path)


def test_a_chosen_file_is_read_and_what_cannot_be_read_is_said(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    browser.open(f"{served.url}/")
    pdb = tmp_path / "driver.pdb"
    pdb.write_bytes(DRIVER.content)
    browser.choose_file("#file", pdb)
    browser.run("document.querySelector('#warm-form [type=submit]').click()")
    browser.wait("document.getElementById('run-state').textContent.includes('wanted')")
    noise = tmp_path / "noise.bin"
    noise.write_bytes(bytes(range(256)) * 10)
    browser.choose_file("#file", noise)
    browser.run("document.querySelector('#warm-form [type=submit]').click()")
    browser.wait("/Failed|0 wanted/.test(document.getElementById('run-state').textContent)")
    assert str(tmp_path) not in browser.run("document.body.textContent")


def test_names_never_become_markup(browser: Browser, served: Served) -> None:
    del browser.complaints[:]
    browser.open(f"{served.url}/")
    lines = f"{EVIL} {'A' * 33}\n<script>alert(1)</script>.pdb {'B' * 33}\nx.pdb {'C' * 33}\n"
    browser.run(f"document.getElementById('paste').value = {json.dumps(lines)}")
    browser.run("document.querySelector('#warm-form [type=submit]').click()")
    browser.wait("/wanted|Failed/.test(document.getElementById('run-state').textContent)")
    assert browser.run("document.querySelectorAll('main img, main script').length") == 0


def test_everything_can_be_reached_by_keyboard(browser: Browser, served: Served) -> None:
    browser.open(f"{served.url}/")
    browser.wait("document.body.dataset.ready === 'yes'")
    reached: list[str] = []
    for _ in range(30):
        browser.press("Tab", 9)
        reached.append(browser.run("document.activeElement.id || document.activeElement.dataset.shell || ''"))
    for wanted in ("windbg", "lldb", "copy", "paste", "file", "q"):
        assert wanted in reached
    browser.run("document.querySelector('[data-shell=cmd]').focus()")
    browser.press("Enter", 13, text="\r")
    assert browser.run("document.querySelector('[data-shell=cmd]').getAttribute('aria-pressed')") == "true"


def test_the_policy_lets_nothing_in_from_elsewhere(browser: Browser, served: Served) -> None:
    fields = fetch(served.port, "").fields
    assert "default-src 'none'" in fields["content-security-policy"]
    assert "unsafe" not in fields["content-security-policy"]
    browser.open(f"{served.url}/")
    blocked = browser.run(
        "new Promise((done) => { addEventListener('securitypolicyviolation', (event) => done(event.violatedDirective));"
        " const script = document.createElement('script'); script.textContent = 'window.bad = 1';"
        " document.head.append(script); })"
    )
    assert blocked.startswith("script-src")
    assert browser.run("window.bad") is None
