"""Plot how the cost of symcache grows: symbols of a run, connections, size of a dump.

    python tests/bench/bench_growth.py docs/growth                 # all three, a quarter of an hour
    python tests/bench/bench_growth.py docs/growth --plots symbols,connections --rounds 1

Each point is the median of whole processes. Both axes of a plot are logarithmic, so that what grows in proportion rises
by one line for each power of ten. Run it with a Python that has symcache installed.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bench_dumps import write as write_dump
from bench.bench_fetch import COMMANDS, Load, check_complete, make_load, measure
from support.nginx import Nginx
from support.synth.kerneldump import DumpKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Series: TypeAlias = "Mapping[str, Sequence[tuple[float, float]]]"

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 400, 70, 20, 40, 60
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_FONT = 'font-family="sans-serif" font-size="12"'


def plot(title: str, across: str, up: str, series: Series) -> str:
    """Return an SVG with a line for each of *series*: points of what is varied and what it costs."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_low, x_high = math.log10(min(xs)), math.log10(max(xs))
    y_low, y_high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - x_low) / (x_high - x_low)
        above = (math.log10(y) - y_low) / max(y_high - y_low, 1)
        return _LEFT + right * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - above * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(across)}</text>',
        f'<text transform="translate(16 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(up)}</text>',
    ]
    for power in range(y_low, y_high + 1):
        left, height = place(min(xs), 10.0**power)
        parts.append(f'<path d="M{left:.1f} {height:.1f}H{_WIDTH - _RIGHT}" stroke="#e0e0e0"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for x in sorted(set(xs)):
        left, bottom = place(x, 10.0**y_low)
        parts.append(f'<text x="{left:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{x:,g}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points:
            left, height = place(x, y)
            parts.append(f'<circle cx="{left:.1f}" cy="{height:.1f}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 12}" y="{_TOP + 16 + 16 * number}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def plot_symbols(work: Path, rounds: int) -> str:
    """Return the plot of a run's time by how many symbols are fetched, found present, and checked."""
    counts = (100, 500, 2_000, 10_000, 50_000)
    served = work / "served"
    served.mkdir()
    load = make_load(served, "growth", count=counts[-1], file_bytes=4096, connections=16)
    series: dict[str, list[tuple[float, float]]] = {"fetch": [], "warm, all present": [], "check, all present": []}
    (work / "nginx").mkdir()
    with Nginx(served, work / "nginx") as nginx:
        for count in counts:
            part = Load(load.name, served, load.paths[:count], 0, 16)
            seconds: dict[str, list[float]] = {name: [] for name in series}
            for _ in range(rounds):
                target = work / "store"
                command = COMMANDS["symcache"](part, nginx.url, target, work)
                seconds["fetch"].append(measure(command, work / "home").wall_s)
                check_complete(part, target, "symcache")
                seconds["warm, all present"].append(measure(command, work / "home").wall_s)
                check = [*command[:3], "check", *command[4:]]
                seconds["check, all present"].append(measure(check, work / "home").wall_s)
                shutil.rmtree(target)
                shutil.rmtree(work / "home", ignore_errors=True)
            for name, taken in seconds.items():
                series[name].append((count, median(taken)))
                print(f"{count:>7,} symbols, {name}: {median(taken):.2f} s", flush=True)
    return plot("A run by its symbols (PDBs of 4 KiB, nginx on loopback)", "symbols", "seconds", series)


def plot_connections(work: Path, rounds: int) -> str:
    """Return the plot of a run's time by how many connections it may use, near and far."""
    from support.relay import delayed  # noqa: PLC0415

    served = work / "served"
    served.mkdir()
    (work / "nginx").mkdir()
    load = make_load(served, "growth", count=500, file_bytes=64 << 10, connections=16)
    series: dict[str, list[tuple[float, float]]] = {"on loopback": [], "at a round trip of 40 ms": []}
    with Nginx(served, work / "nginx") as nginx, delayed(nginx.port, 0.04) as far:
        urls = {"on loopback": nginx.url, "at a round trip of 40 ms": f"http://127.0.0.1:{far}"}
        for connections in (1, 4, 16, 64, 256):
            config = work / "symcache.toml"
            config.write_text(f"[network]\nconnections = {connections}\n", encoding="utf-8")
            for name, url in urls.items():
                taken = []
                for _ in range(rounds):
                    command = COMMANDS["symcache"](load, url, work / "store", work)
                    taken.append(measure([*command, "--config", str(config)], work / "home").wall_s)
                    shutil.rmtree(work / "store")
                    shutil.rmtree(work / "home", ignore_errors=True)
                series[name].append((connections, median(taken)))
                print(f"{connections:>4} connections, {name}: {median(taken):.2f} s", flush=True)
    return plot("500 PDBs of 64 KiB by connections", "connections", "seconds", series)


def plot_dumps(work: Path, rounds: int) -> str:
    """Return the plot of the time to list the modules of a dump by its size."""
    kinds = {"full": DumpKind.FULL, "bitmap": DumpKind.BITMAP_FULL, "ranges": DumpKind.RANGES_COMPLETE}
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for size_gib in (1, 4, 16, 64):
        for name, kind in kinds.items():
            path = work / "MEMORY.DMP"
            write_dump(path, size_gib, kind, 200)
            # A manifest of it goes to a file, as the measured processes share this one's output.
            command = [sys.executable, "-m", "symcache", "scan", str(path), "-q", "-o", str(work / "manifest")]
            taken = [measure(command, work / "home").wall_s for _ in range(rounds)]
            path.unlink()
            series[name].append((size_gib, median(taken)))
            print(f"{size_gib:>3} GiB, {name}: {median(taken):.2f} s", flush=True)
    return plot("scan of a sparse kernel dump, 200 modules", "GiB", "seconds", series)


PLOTS: dict[str, Callable[[Path, int], str]] = {
    "symbols": plot_symbols,
    "connections": plot_connections,
    "dumps": plot_dumps,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder of the plots")
    parser.add_argument("--plots", default=",".join(PLOTS), help="which, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    for name in options.plots.split(","):
        with tempfile.TemporaryDirectory() as folder:
            svg = PLOTS[name](Path(folder), options.rounds)
        (options.target / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
