"""The page in a real browser. Set SYMCACHE_TEST_SCREENSHOTS to a folder to keep the pictures."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.browser import Browser
from support.serving import Served, fetch, publish, serving
from support.upstream import Upstream

from symcache.reports.files import SUFFIXES
from symcache.stores.local.tree import Store
from symcache.synth.session import make_published, write_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    files = {each.index: each.content for each in (APP, DRIVER)} | make_published()
    with Upstream(files) as upstream, serving(tmp_path, upstream=upstream.url) as running:
        for path in (APP.index, APP.index, ABSENT.index, ABSENT.index, f"%3Cimg%20src=x%3E.pdb/{'A' * 33}/x.pdb"):
            fetch(running.port, path)
        yield running


# Words that go on in the next line; a line may end after what stands between the words of paths and numbers.
BROKEN = """(() => {
  const broken = [];
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    for (const word of texts.currentNode.data.matchAll(/[^\\s\\/\\\\*;:.,-]{2,36}/g)) {
      const range = document.createRange();
      range.setStart(texts.currentNode, word.index);
      range.setEnd(texts.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) broken.push(word[0]);
    }
  }
  return broken;
})()"""


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
    browser.open(f"{served.url}/", width=width, dark=dark, mobile=width < 500)
    browser.wait("document.body.dataset.ready === 'yes'")
    browser.wait("document.querySelectorAll('#missing-table tbody tr').length > 0")
    assert browser.run("document.querySelector('#missing-table td').textContent") == ABSENT.index
    assert browser.run("document.querySelectorAll('#answers rect').length") > 100
    assert browser.run("document.querySelector('#growth polyline') !== null")
    # Nothing is wider than the screen, nothing came from elsewhere, nothing was complained about.
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run(BROKEN) == []
    assert {url.split("/-/")[0].rstrip("/") for url in browser.requests if not url.startswith("data:")} == {served.url}
    assert browser.complaints == []
    picture(browser, name, tmp_path)


def shown_of(browser: Browser, chart: str) -> dict[str, Any]:
    """Return what a chart shows: its ticks, how many points it has, and what screen readers and eyes are told."""
    found: dict[str, Any] = browser.run(
        f"(() => {{ const box = document.getElementById('{chart}'); const of = (query) => "
        "[...box.querySelectorAll(query)].map((each) => each.textContent);"
        " return {up: of('text.up'), along: of('text.along'), last: Number(box.getAttribute('aria-valuemax')),"
        " now: Number(box.getAttribute('aria-valuenow')), told: box.getAttribute('aria-valuetext'),"
        " label: box.getAttribute('aria-label'), words: box.querySelector('.note').textContent}; })()"
    )
    return found


def test_charts_have_axes_with_units_and_ranges_as_far_as_samples_reach(browser: Browser, served: Served) -> None:
    browser.open(f"{served.url}/")
    browser.wait("document.querySelectorAll('#answers rect').length > 0")
    day, growth = shown_of(browser, "answers"), shown_of(browser, "growth")
    assert "last day" in day["label"]
    assert day["up"][0] == "0"
    assert 3 <= len(day["up"]) <= 5
    assert all(re.fullmatch(r"[\d,]+", text) for text in day["up"])
    assert all(re.fullmatch(r"[\d.]+ (bytes|[KMG]B)", text) for text in growth["up"])
    assert all(re.fullmatch(r"\d\d:00", text) for text in day["along"])
    assert len(day["along"]) > 3
    script = "[...document.querySelectorAll('#answers').values()][0].parentNode.querySelectorAll('.ranges button')"
    names = browser.run(f"[...{script}].map((button) => [button.textContent, button.disabled])")
    assert names == [["hour", False], ["day", False], ["week", True]]  # the samples are of sixteen hours
    browser.run(f"{script}[0].click()")
    hour = shown_of(browser, "answers")
    assert "last hour" in hour["label"]
    assert hour["last"] <= 12 < day["last"]
    caption = "document.getElementById('answers').parentNode.querySelector('figcaption').textContent"
    assert browser.run(caption).startswith("Answers in every 5 minutes")
    assert shown_of(browser, "growth")["label"] == growth["label"]  # each has its own


def test_a_charts_values_are_told_to_keyboard_and_pointer(browser: Browser, served: Served) -> None:
    browser.open(f"{served.url}/")
    browser.wait("document.querySelectorAll('#answers rect').length > 0")
    assert shown_of(browser, "answers")["words"] == ""
    browser.run("document.getElementById('answers').focus()")
    last = shown_of(browser, "answers")
    assert last["now"] == last["last"]
    assert last["told"] == last["words"]
    assert re.search(
        r"\d\d:\d\d to \d\d:\d\d: [\d,]+ hits, [\d,]+ fetched, [\d,]+ misses, [\d,]+ failed$", last["told"]
    )
    browser.press("ArrowLeft", 37)
    before = shown_of(browser, "answers")
    assert before["now"] == last["last"] - 1
    assert before["told"] != last["told"]
    browser.press("Home", 36)
    browser.press("ArrowLeft", 37)  # no further
    assert shown_of(browser, "answers")["now"] == 0
    browser.run("document.activeElement.blur()")
    assert shown_of(browser, "answers")["words"] == ""
    browser.run("document.getElementById('growth').scrollIntoView({block: 'center'})")
    left, top, wide, high = browser.run(
        "(() => { const box = document.querySelector('#growth svg').getBoundingClientRect();"
        " return [box.x, box.y, box.width, box.height]; })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + wide / 2, y=top + high / 2)
    browser.wait("/ [KMG]B$/.test(document.querySelector('#growth .note').textContent)")
    assert browser.complaints == [] or "404" in browser.complaints[0]


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


def rows(browser: Browser) -> list[list[str]]:
    script = "[...document.querySelectorAll('#run-table tbody tr')].map((row) => [...row.cells].map((cell) => "
    found: list[list[str]] = browser.run(script + "cell.innerText.trim()))")
    return found


def click(browser: Browser, selector: str) -> None:
    browser.run(f"document.querySelector({json.dumps(selector)}).click()")


@pytest.fixture
def crash(browser: Browser, served: Served, tmp_path: Path) -> None:
    """The page with the result of a run of a dump."""
    _, dump = write_inputs(tmp_path / "inputs")
    browser.open(f"{served.url}/")
    browser.wait("document.body.dataset.ready === 'yes'")
    browser.choose_file("#file", dump)
    click(browser, "#warm-form [type=submit]")
    browser.wait("document.querySelectorAll('#run-forms a').length === 7")


@pytest.mark.usefixtures("crash")
def test_a_run_shows_trouble_first_with_cause_maker_and_what_to_do(browser: Browser, tmp_path: Path) -> None:
    shown = rows(browser)
    (missing,) = [row for row in shown if row[0] == "missing"]
    assert missing[1] == "secdrv.SYS\non the crash's stack"
    assert missing[3] == "Macrovision, by its name"
    assert missing[5].startswith("not-published; never-published; http://")
    advice = browser.run("document.getElementById('run-advice').innerText")
    assert "1 file missing: not-published, never-published: a driver of SafeDisc copy protection" in advice
    ready = browser.run("[...document.querySelectorAll('#run-ready li')].map((line) => line.textContent)")
    assert ready[0] == "the crash's stack: symbols for 2 of 3; none for secdrv.SYS"
    for name, width, dark in [("run", 1280, False), ("run-dark", 1280, True), ("run-narrow", 390, False)]:
        resize(browser, width, dark=dark)
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.run(BROKEN) == []
        picture(browser, name, tmp_path)


def resize(browser: Browser, width: int, *, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.call("Emulation.setEmulatedMedia", features=[scheme])


@pytest.mark.usefixtures("crash")
def test_a_runs_files_are_filtered_and_sorted(browser: Browser) -> None:
    assert {row[0] for row in rows(browser)} == {"missing"}
    click(browser, "#run-states [value=fetched]")
    everything = rows(browser)
    assert everything[0][0] == "missing"
    assert {row[0] for row in everything} == {"missing", "fetched"}
    browser.run("document.getElementById('run-words').value = 'PEAUTH .pdb'")
    browser.run("document.getElementById('run-filter').dispatchEvent(new Event('input'))")
    assert [row[2].partition("/")[0] for row in rows(browser)] == ["PEAuth.pdb"]
    assert browser.run("document.getElementById('run-shown').textContent").startswith("1 of ")
    browser.run("document.getElementById('run-words').value = ''")
    for column, place in [("module", 1), ("file", 2), ("why", 5)]:
        click(browser, f"[data-column={column}]")
        rising = [row[place].partition("\n")[0].casefold() for row in rows(browser)]
        assert len(rising) == len(everything)
        click(browser, f"[data-column={column}]")
        falling = [row[place].partition("\n")[0].casefold() for row in rows(browser)]
        assert rising[0] <= rising[-1]
        assert (falling[0], falling[-1]) == (rising[-1], rising[0])
        heading = f"document.querySelector('[data-column={column}]').parentNode"
        assert browser.run(f"{heading}.getAttribute('aria-sort')") == "descending"
    click(browser, "[data-column=bytes]")
    script = "[...document.querySelectorAll('#run-table td.number')].map((cell) => cell.textContent)"
    sizes: list[str] = browser.run(script)
    lengths = [float(text.split()[0]) * (1000 if "MB" in text else 1) for text in sizes if text]
    assert lengths == sorted(lengths)


@pytest.mark.usefixtures("crash")
def test_a_runs_report_is_saved_in_each_form(browser: Browser, served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    asked = len(browser.requests)
    for number, suffix in enumerate(SUFFIXES):
        browser.run(f"[...document.querySelectorAll('#run-forms a')][{number}].click()")
        path = folder / f"symbols{suffix}"
        wait_for(path.exists)
        assert "secdrv.pdb" in path.read_text(encoding="utf-8")
        assert str(served.store) not in path.read_text(encoding="utf-8")
    # The page has them: the server, whichever of its workers answers, keeps nothing of a run.
    assert not any("-/" in url and "status" not in url for url in browser.requests[asked:])
    assert browser.complaints == [] or "404" not in browser.complaints[0]


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


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
    browser.open(f"{served.url}/", width=390, mobile=True)
    lines = f"{EVIL} {'A' * 33}\n<script>alert(1)</script>.pdb {'B' * 33}\n{'x' * 200}.pdb {'C' * 33}\n"
    browser.run(f"document.getElementById('paste').value = {json.dumps(lines)}")
    browser.run("document.querySelector('#warm-form [type=submit]').click()")
    browser.wait("/wanted|Failed/.test(document.getElementById('run-state').textContent)")
    browser.wait("document.querySelectorAll('#run-forms a').length === 7")
    assert "x" * 200 in browser.run("document.getElementById('run-table').textContent")
    assert browser.run("document.querySelectorAll('main img, main script').length") == 0
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.run("[...document.querySelectorAll('.scroll')].every((box) => box.scrollWidth <= box.clientWidth)")


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


def test_watched_folders_are_counted_on_the_page(browser: Browser, tmp_path: Path, upstream: Upstream) -> None:
    hot = tmp_path / "hot"
    hot.mkdir()
    with serving(tmp_path, upstream=upstream.url, watch=(hot,), watch_poll_s=0.1) as served:
        write_inputs(hot)
        wait_for(lambda: bool(list(hot.glob("**/*.symcache.txt"))))
        browser.open(f"{served.url}/")
        browser.wait("document.querySelectorAll('#watch-tiles dd').length === 4")
        tiles = browser.run("[...document.querySelectorAll('#watch-tiles div')].map((each) => each.textContent)")
        assert not browser.run("document.querySelector('#watched').hidden")
    assert tiles == ["Complete0", "Incomplete1", "Failed0", "Unreadable0"]


def test_a_server_that_watches_nothing_shows_no_watched_folders(browser: Browser, served: Served) -> None:
    browser.open(f"{served.url}/")
    browser.wait("document.body.dataset.ready === 'yes'")
    assert browser.run("document.querySelector('#watched').hidden")
