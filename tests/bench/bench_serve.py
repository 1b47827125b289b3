"""The server beside nginx, on the same files, in one run: ``python tests/bench/bench_serve.py [--workers N]``.

Loads: hits of 64 KiB, hits of 50 MiB, files that do not exist (for the server: remembered misses), each asked for again
and again; and hits of the site of config/deploy in which nginx sends the files of the store. Every round measures nginx
and then the other; the ratio printed is the median of the rounds, as other work on the machine changes both. The
processor time is that of the process that answers. Needs nginx and wrk; everything stays on loopback.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[number]) for number in (1, 2)]

from support.answers import not_found
from support.nginx import Nginx
from support.parts import need
from support.serving import fetch, publish, serving_process
from support.upstream import Upstream

from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from support.serving import Published

_KIB, _MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """One that is measured, and the process that answers."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Return the processor time taken so far; 0 where that cannot be told."""
        path = Path(f"/proc/{self.pid}/stat")
        if not path.exists():
            return 0.0
        fields = path.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Return the largest resident size so far; 0 where that cannot be told."""
        path = Path(f"/proc/{self.pid}/status")
        found = re.search(r"VmHWM:\s+(\d+) kB", path.read_text()) if path.exists() else None
        return int(found[1]) / 1024 if found else 0.0


def main() -> int:
    """Measure and print one line for each load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1, help="of the server; nginx has one")
    parser.add_argument("--only", default="", metavar="TEXT", help="loads with this in their title, as printed")
    options = parser.parse_args()
    wrk = need("wrk")
    small, large = publish("small.pdb", 1, payload_bytes=16 * _KIB), publish("large.pdb", 2, payload_bytes=50 * _MIB)
    absent = publish("absent.pdb", 3, payload_bytes=_MIB)
    with tempfile.TemporaryDirectory(prefix="symcache-bench-") as name, Upstream() as upstream:
        upstream.always("*", not_found())
        home = Path(name)
        for each in (small, large):
            put(home / "store", each)
        for folder in ("nginx", "site"):
            (home / folder).mkdir()
        with (
            Nginx(home / "store", home / "nginx") as nginx,
            serving_process(home, upstream.url, "--workers", str(options.workers)) as served,
            Nginx(home / "store", home / "site", served.port) as site,
        ):
            for each in (small, large, absent):
                fetch(served.port, each.index)
            assert served.process is not None
            base = Server(nginx.port, children(nginx.pid)[0])
            server = Server(served.port, served.process.pid)
            in_front = Server(site.port, children(site.pid)[0])
            for title, other, wanted, connections in [
                (f"{len(small.content) // _KIB} KiB hits", server, small, 32),
                (f"{len(large.content) // _MIB} MiB hits", server, large, 8),
                ("misses", server, absent, 32),
                (f"{len(small.content) // _KIB} KiB hits, site", in_front, small, 32),
                (f"{len(large.content) // _MIB} MiB hits, site", in_front, large, 8),
            ]:
                if options.only not in title:
                    continue
                rounds = [
                    [measure(wrk, each, wanted, connections, options.seconds) for each in (base, other)]
                    for _ in range(options.rounds)
                ]
                ratio = median(ours / theirs for (theirs, _), (ours, _) in rounds)
                rates = [median(rates) for rates in zip(*([rate for rate, _ in pair] for pair in rounds), strict=True)]
                costs = [median(costs) for costs in zip(*([cost for _, cost in pair] for pair in rounds), strict=True)]
                print(
                    f"{title:>18}: {ratio:5.2f} of nginx; {rates[1]:,.0f} and {rates[0]:,.0f} requests/s, "
                    f"{costs[1]:,.1f} and {costs[0]:,.1f} us of processor time each",
                    flush=True,
                )
            print(f"peak memory of the server: {server.peak_mib():.0f} MiB")
    return 0


def put(store: Path, wanted: Published) -> None:
    """File *wanted* in the store."""
    with Store(store) as opened:
        scratch = opened.scratch()
        scratch.write_bytes(wanted.content)
        opened.publish(scratch, wanted.key, durable=False)


def children(pid: int) -> list[int]:
    """Return the processes that *pid* has started; itself where that cannot be told."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else [pid]


def measure(wrk: str, server: Server, wanted: Published, connections: int, seconds: int) -> tuple[float, float]:
    """Return requests per second, and microseconds of processor time per request.

    Bytes are counted where there are many, as few of the largest files end within a measurement.
    """
    url = f"http://127.0.0.1:{server.port}/{wanted.index}"
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", url]
    before_s = server.cpu_s()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpu_s = server.cpu_s() - before_s
    total = re.search(r"(\d+) requests in ([0-9.]+)(m?s|m), ([0-9.]+)([KMG]?)B read", output)
    assert total is not None, output
    took_s = float(total[2]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[total[3]]
    # wrk counts in powers of 1024, whatever it calls them.
    read_bytes = float(total[4]) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[total[5]]
    requests = max(float(total[1]), read_bytes / len(wanted.content))
    return requests / took_s, cpu_s / requests * 1e6


if __name__ == "__main__":
    sys.exit(main())
