"""Make the pictures of README and docs from the real thing: ``python tests/pictures.py``, where Chromium is installed.

Each is made twice, for light and for dark: `purpose`, `run` and `report` as SVG, out of what the command prints on a
terminal; `page` as PNG, out of a browser that shows the server's page. Tests hold the files to what the command and
the page show now; when one fails for a picture, run this and look at what has changed.
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from support.answers import Stall
from support.browser import Browser
from support.serving import fetch, publish, serving
from support.upstream import Upstream

from symcache.stores.local.tree import Store
from symcache.synth.session import make_published, write_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 118
PAGE_WIDTH = 1120

_PATIENCE_S = 60.0
_MICROSOFT = "https://msdl.microsoft.com/download/symbols"
_HOME = "/home/me"


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a picture; *named* are the first eight of a terminal."""

    name: str
    paper: str
    ink: str
    faint: str
    line: str
    good: str
    bad: str
    named: tuple[str, ...]


THEMES = (
    Theme(
        *("light", "#ffffff", "#1f2328", "#6e7781", "#d0d7de", "#1a7f37", "#cf222e"),
        ("#24292f", "#cf222e", "#1a7f37", "#9a6700", "#0969da", "#8250df", "#1b7c83", "#6e7781"),
    ),
    Theme(
        *("dark", "#0d1117", "#e6edf3", "#8b949e", "#30363d", "#3fb950", "#f85149"),
        ("#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4"),
    ),
)


class Screen:
    """As much of a terminal as the command uses: lines, colours, going up and clearing a line.

    Attributes:
        rows: Cells of each row: a character, and its colour (a number from 0 to 255) or None.
    """

    _PARTS = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")

    def __init__(self) -> None:
        self.rows: list[list[tuple[str, int | None]]] = [[]]
        self._row = self._column = 0
        self._colour: int | None = None

    def write(self, text: str) -> None:
        """Show *text*, whose control sequences are whole.

        Raises:
            ValueError: It has one that is not known here.
        """
        at = 0
        for part in self._PARTS.finditer(text):
            if part.start() != at:
                raise ValueError(f"not known: {text[at : part.start()]!r}")
            at = part.end()
            private, numbers, letter, move, plain = part.groups()
            if plain:
                row = self.rows[self._row]
                row.extend([(" ", None)] * (self._column - len(row)))
                row[self._column : self._column + len(plain)] = [(character, self._colour) for character in plain]
                self._column += len(plain)
            elif move == "\r":
                self._column = 0
            elif move == "\n":
                self._row += 1
                if self._row == len(self.rows):
                    self.rows.append([])
            elif letter == "m":
                self._colour = _colour([int(number) for number in numbers.split(";") if number])
            elif letter == "A":
                self._row = max(0, self._row - int(numbers or 1))
            elif letter == "K":
                self.rows[self._row] = []
            elif not private:
                raise ValueError(f"not known: {part[0]!r}")
        if at != len(text):
            raise ValueError(f"not known: {text[at:]!r}")

    @property
    def text(self) -> str:
        return "\n".join("".join(character for character, _ in row).rstrip() for row in self.rows).rstrip()


def _colour(numbers: list[int]) -> int | None:
    match numbers:
        case [] | [0]:
            return None
        case [38, 5, number]:
            return number
        case [number] if 30 <= number < 38:
            return number - 30
        case _:
            raise ValueError(f"not known: {numbers}")


def _hex(number: int, theme: Theme) -> str:
    """Return the colour of that number: 8 named ones, a cube of 6 levels from 16 on, greys from 232 on."""
    if number < 16:
        return theme.named[number % 8]
    if number < 232:
        levels = (0, 95, 135, 175, 215, 255)
        number -= 16
        return "#" + "".join(f"{levels[number // step % 6]:02x}" for step in (36, 6, 1))
    return "#" + f"{8 + 10 * (number - 232):02x}" * 3


# --- The command on a terminal ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """What the command showed: while it ran, at its end, and the report of the same as a document."""

    running: Screen
    ended: Screen
    states: list[str]


def show_command() -> Shown:
    """Run ``symcache warm MEMORY.DMP`` on a terminal of `COLUMNS` columns, and hold it half-way for a look."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pictures-")))
        published = make_published()
        upstream = stack.enter_context(Upstream(published, case_insensitive=True))
        write_inputs(folder)
        largest = max(published, key=lambda index: len(published[index]))
        stall = Stall(len(published[largest]) * 6 // 10)
        upstream.script(largest, stall)
        path = f"srv*{folder / 'sym'}*{upstream.url}"
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        environment |= {"_NT_SYMBOL_PATH": path, "COLUMNS": str(COLUMNS), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "symcache", "warm", "MEMORY.DMP"]
        places = {upstream.url: _MICROSOFT, str(folder): _HOME}
        with _on_terminal(command, folder, environment) as terminal:
            running = terminal.wait_for(rf"\b7/8 .*\n.*{Path(largest).name.partition('.')[0]}.* of ", places)
            stall.release()
            ended = terminal.end(places)
        done = subprocess.run(
            [*command, "--json"], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        states = [symbol["state"] for symbol in json.loads(done.stdout)["symbols"]]
    return Shown(running, ended, states)


class _Terminal:
    """The other end of a terminal on which a command runs."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._output = b""

    def wait_for(self, pattern: str, places: Mapping[str, str]) -> Screen:
        """Return the screen as soon as *pattern* is on it."""
        end_s = time.monotonic() + _PATIENCE_S
        while True:
            assert self._read(), self._output
            screen = self._screen(places)
            if re.search(pattern, screen.text):
                return screen
            assert time.monotonic() < end_s, screen.text

    def end(self, places: Mapping[str, str]) -> Screen:
        """Return the screen when the command has ended."""
        while self._read():
            pass
        return self._screen(places)

    def _read(self) -> bool:
        try:
            piece = os.read(self._end, 65536)
        except OSError:  # Linux's way to say that nobody holds the other end
            return False
        self._output += piece
        return bool(piece)

    def _screen(self, places: Mapping[str, str]) -> Screen:
        text = self._output.decode("utf-8", "ignore")
        text = text[: text.rfind("\x1b")] if re.search(r"\x1b\[?[\d;?]*$", text) else text
        for real, shown in places.items():
            text = text.replace(real, shown)
        screen = Screen()
        screen.write("$ symcache warm MEMORY.DMP\n\r" + text)
        return screen


@contextmanager
def _on_terminal(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[_Terminal]:
    assert sys.platform != "win32"
    import fcntl  # noqa: PLC0415 - not on Windows
    import pty  # noqa: PLC0415
    import termios  # noqa: PLC0415

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    try:
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
        ) as process:
            os.close(theirs)
            try:
                yield _Terminal(ours)
            finally:
                process.kill()
    finally:
        os.close(ours)


# --- SVG -------------------------------------------------------------------------------------------------------------

_MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_SANS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_BLANK = "\N{NO-BREAK SPACE}"  # of others in a row all but one would go
_CELL = 7.6
_LINE = 19


def draw_terminal(screen: Screen, theme: Theme, title: str) -> str:
    """Return *screen* in a window, as SVG; a reader that sees nothing gets *title* and the text."""
    rows = screen.text.count("\n") + 1
    width, height = round(COLUMNS * _CELL + 40), rows * _LINE + 62
    dots = "".join(f'<circle cx="{22 + 18 * n}" cy="19" r="5.5" fill="{theme.line}"/>' for n in range(3))
    lines: list[str] = []
    for number, row in enumerate(screen.rows[:rows]):
        column = 0
        for colour, cells in groupby(row, key=lambda cell: cell[1]):
            text = "".join(character for character, _ in cells)
            if text.strip():
                lines.append(_run(text, column, number, theme.ink if colour is None else _hex(colour, theme)))
            column += len(text)
    return _svg(
        width,
        height,
        title,
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="9" fill="{theme.paper}" '
        f'stroke="{theme.line}"/>\n{dots}\n<g font-family="{_MONO}" font-size="12.6">\n' + "\n".join(lines) + "\n</g>",
    )


def _run(text: str, column: int, row: int, colour: str) -> str:
    blanks = len(text) - len(text.lstrip())
    text = text.strip()
    x, y = 20 + (column + blanks) * _CELL, 56 + row * _LINE
    # Its length is said, so that columns stand whichever font there is.
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{colour}" textLength="{len(text) * _CELL:.1f}" '
        f'lengthAdjust="spacingAndGlyphs">{escape(text.replace(" ", _BLANK))}</text>'
    )


def draw_purpose(states: list[str], theme: Theme) -> str:
    """Return what symcache is for, for somebody who does not read, as SVG.

    A crash leaves a dump that tells nothing; files come from servers, one for each of *states*; a debugger without a
    network then tells what happened.
    """
    parts = [
        _monitor(20, 62, "#0067b8", '<text x="34" y="78" font-size="58" fill="#ffffff">:(</text>', theme),
        _arrow(228, 276, 120, theme),
        _dump(284, 60, theme),
        _arrow(400, 448, 120, theme),
        _servers(538, 6, theme),
        *(
            _file(462 + 60 * (number % 4), 108 + 62 * (number // 4), state, theme)
            for number, state in enumerate(states)
        ),
        _arrow(712, 760, 120, theme),
        _monitor(776, 62, theme.paper, _session(states, theme), theme),
        _unplugged(846, 20, theme),
    ]
    return _svg(1000, 250, "From a crash to a debugger that finds everything, offline", "\n".join(parts))


def _svg(width: int, height: int, title: str, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="{_SANS}">\n<title>{escape(title)}</title>\n{content}\n</svg>\n'
    )


def _at(x: float, y: float, content: str) -> str:
    return f'<g transform="translate({x:g} {y:g})">{content}</g>'


def _monitor(x: int, y: int, screen: str, content: str, theme: Theme) -> str:
    return _at(
        x,
        y,
        f'<rect width="200" height="128" rx="8" fill="{screen}" stroke="{theme.faint}" stroke-width="3"/>'
        f'<path d="M100 130v22M60 154h80" stroke="{theme.faint}" stroke-width="5" stroke-linecap="round"/>{content}',
    )


def _arrow(x: int, to: int, y: int, theme: Theme) -> str:
    return (
        f'<path d="M{x} {y}H{to - 4}m-11 -10l11 10l-11 10" fill="none" stroke="{theme.ink}" stroke-width="4" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _dump(x: int, y: int, theme: Theme) -> str:
    marks = "".join(
        f'<text x="18" y="{42 + 22 * n}" font-size="17" fill="{theme.faint}" letter-spacing="3">{unknown}</text>'
        for n, unknown in enumerate(("????", "??????", "??????", "??????"))
    )
    page = "M0 6a6 6 0 0 1 6-6h70l32 32v88a6 6 0 0 1-6 6h-96a6 6 0 0 1-6-6z"
    return _at(
        x,
        y,
        f'<path d="{page}" fill="{theme.paper}" stroke="{theme.faint}" stroke-width="3"/>'
        f'<path d="M76 0v32h32" fill="none" stroke="{theme.faint}" stroke-width="3"/>{marks}',
    )


def _servers(x: int, y: int, theme: Theme) -> str:
    boxes = "".join(
        f'<rect y="{22 * n}" width="84" height="18" rx="4" fill="{theme.paper}" stroke="{theme.faint}" '
        f'stroke-width="2.5"/><circle cx="13" cy="{9 + 22 * n}" r="3.2" fill="{theme.good}"/>'
        for n in range(3)
    )
    down = "M42 70v20m-9 -9l9 9l9 -9"
    return _at(
        x,
        y,
        f'{boxes}<path d="{down}" fill="none" stroke="{theme.ink}" stroke-width="4" stroke-linecap="round" '
        'stroke-linejoin="round"/>',
    )


def _file(x: int, y: int, state: str, theme: Theme) -> str:
    page = "M0 4a4 4 0 0 1 4-4h24l14 14v34a4 4 0 0 1-4 4h-34a4 4 0 0 1-4-4z"
    has = state in {"fetched", "present"}
    dash = "" if has else ' stroke-dasharray="5 4"'
    outline = f'<path d="{page}" fill="{theme.paper}" stroke="{theme.faint}" stroke-width="2.5"{dash}/>'
    return _at(x, y, outline + _mark(21, 32, 9, has, theme))


def _mark(x: int, y: int, size: int, is_good: bool, theme: Theme) -> str:
    path = f"M{x - size} {y}l{size * 0.7:g} {size * 0.8:g}l{size * 1.3:g} {-size * 1.6:g}"
    if not is_good:
        path = f"M{x - size} {y - size}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}"
    colour = theme.good if is_good else theme.bad
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="3.5" stroke-linecap="round"/>'


def _session(states: list[str], theme: Theme) -> str:
    """Return a debugger's window: a line for each file, and one that found the culprit."""
    rows: list[str] = []
    for number, state in enumerate(states[:6] if "missing" in states[:6] else [*states[:5], "missing"]):
        has, y = state != "missing", 22 + 17 * number
        length = 60 + 37 * number % 80
        rows.append(_mark(18, y, 5, has, theme))
        fill = theme.ink if has else theme.faint
        rows.append(f'<rect x="34" y="{y - 4}" width="{length}" height="8" rx="4" fill="{fill}"/>')
    glass = (
        f'<circle cx="158" cy="86" r="17" fill="{theme.paper}" fill-opacity="0.5" stroke="{theme.good}" '
        f'stroke-width="5"/><path d="M171 99l14 14" stroke="{theme.good}" stroke-width="6" stroke-linecap="round"/>'
    )
    return "".join(rows) + glass


def _unplugged(x: int, y: int, theme: Theme) -> str:
    waves = "M4 14q26 -24 52 0M13 23q17 -15 34 0"
    return _at(
        x,
        y,
        f'<path d="{waves}" fill="none" stroke="{theme.faint}" stroke-width="4" stroke-linecap="round"/>'
        f'<circle cx="30" cy="31" r="4" fill="{theme.faint}"/>'
        f'<path d="M12 36L48 -2" stroke="{theme.bad}" stroke-width="4" stroke-linecap="round"/>',
    )


# --- The server's page -----------------------------------------------------------------------------------------------

_NTDLL = publish("ntdll.pdb", 1, payload_bytes=2_400_000)
_DRIVER = publish("driver.pdb", 2, age=3, payload_bytes=900_000)
_ABSENT = publish("secdrv.pdb", 3)
_FILLER = publish("ntkrnlmp.pdb", 4, payload_bytes=11_000_000)


@contextmanager
def a_days_server(folder: Path) -> Iterator[str]:
    """Serve a store with an account of half a day, and something that was asked for in vain; lend its URL."""
    account = folder / "store" / ".symcache" / "serve"
    account.mkdir(parents=True)
    began_s = time.time() // 300 * 300
    samples = [
        {
            "t": began_s - 300 * back,
            "hit": 900 + 400 * (back % 7),
            "cold": 20 + back % 5,
            "miss": 150 + 30 * (back % 3),
            "failed": back % 11 == 0,
            "bytes": (400 - back) * 28_000,
        }
        for back in range(150, 0, -1)
    ]
    (account / "samples").write_text(json.dumps(samples))
    with Store(folder / "store") as store:
        scratch = store.scratch()
        scratch.write_bytes(_FILLER.content)
        store.publish(scratch, _FILLER.key, durable=False)
    files = {each.index: each.content for each in (_NTDLL, _DRIVER)}
    with Upstream(files) as upstream, serving(folder, upstream=upstream.url) as served:
        for each in (_NTDLL, _NTDLL, _DRIVER, _ABSENT, _ABSENT):
            fetch(served.port, each.index)
        yield served.url


def open_page(browser: Browser, url: str, theme: Theme) -> list[str]:
    """Show the page in *browser*; return the words on it, in which figures and addresses count for nothing."""
    browser.call("Emulation.setScrollbarsHidden", hidden=True)
    browser.call("Emulation.setLocaleOverride", locale="en-US")
    browser.open(f"{url}/", width=PAGE_WIDTH, dark=theme.name == "dark")
    browser.wait("document.body.dataset.ready === 'yes'")
    browser.wait("document.querySelectorAll('#missing-table tbody tr').length > 0")
    browser.run("document.activeElement.blur()")
    text = re.sub(r"[A-Z][a-z]{2} \d+, \d{4}, \d+:\d+\s[AP]M", "", browser.run("document.body.innerText"))
    return re.findall(r"[^\W\d_]{2,}", text)


def packed(png: bytes) -> bytes:
    """Return *png*, of 8 bits for red, green and blue, with a palette of 256 colours: a third of the length.

    Source: PNG specification, third edition, sections 9 (filters) and 11.2 (IHDR, PLTE, IDAT, IEND).
    """
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += length + 12
    width, height, *kind = struct.unpack(">IIBBBBB", chunks[0][1])
    assert kind == [8, 2, 0, 0, 0], kind
    filtered = zlib.decompress(b"".join(content for kind, content in chunks if kind == b"IDAT"))
    rows = _unfiltered(filtered, width * 3)
    pixels = [bytes(row[at : at + 3]) for row in rows for at in range(0, width * 3, 3)]
    palette = [colour for colour, _ in Counter(pixels).most_common(256)]
    number = {colour: at for at, colour in enumerate(palette)}
    for colour in set(pixels).difference(palette):  # of edges of letters: the nearest one does
        number[colour] = min(
            range(len(palette)), key=lambda at: sum((a - b) ** 2 for a, b in zip(colour, palette[at], strict=True))
        )
    lines = (bytes([0, *(number[pixel] for pixel in pixels[at : at + width])]) for at in range(0, len(pixels), width))
    kept = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", b"".join(palette)),
        (b"IDAT", zlib.compress(b"".join(lines), 9)),
        (b"IEND", b""),
    ]
    return png[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in kept
    )


def _unfiltered(data: bytes, width: int) -> Iterator[bytearray]:
    """Yield rows of *width* bytes, three of which are a pixel."""
    above = bytearray(width)
    for start in range(0, len(data), width + 1):
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + width])
        for at in range(width):
            left, corner = (row[at - 3], above[at - 3]) if at >= 3 else (0, 0)
            match kind:
                case 1:
                    guess = left
                case 2:
                    guess = above[at]
                case 3:
                    guess = (left + above[at]) // 2
                case 4:
                    middle = left + above[at] - corner
                    guess = min((left, above[at], corner), key=lambda value: abs(middle - value))
                case _:
                    guess = 0
            row[at] = (row[at] + guess) & 0xFF
        yield row
        above = row


# --- All of them -----------------------------------------------------------------------------------------------------


def drawn(shown: Shown) -> dict[str, str]:
    """Return every SVG by its file's name."""
    pictures: dict[str, str] = {}
    for theme in THEMES:
        pictures[f"purpose-{theme.name}.svg"] = draw_purpose(shown.states, theme)
        pictures[f"run-{theme.name}.svg"] = draw_terminal(shown.running, theme, "symcache warm while it runs")
        pictures[f"report-{theme.name}.svg"] = draw_terminal(shown.ended, theme, "symcache warm and its report")
    return pictures


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, picture in drawn(show_command()).items():
        (PICTURES / name).write_text(picture, encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="pictures-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "profile").mkdir()
        with a_days_server(Path(folder)) as url, Browser(Path(folder) / "profile") as browser:
            words: list[str] = []
            for theme in THEMES:
                words = open_page(browser, url, theme)
                shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
                (PICTURES / f"page-{theme.name}.png").write_bytes(packed(base64.b64decode(shot["data"])))
    (PICTURES / "page-words.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
