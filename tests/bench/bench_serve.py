"""The server beside nginx, on the same files, in one run: ``python tests/bench/bench_serve.py [--workers N]``.

Three loads, each on both, by turns: hits of 64 KiB, hits of 50 MiB, and files that do not exist (for the server:
remembered misses). The figures are medians of the rounds. Needs nginx and wrk; everything stays on loopback.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.answers import not_found
from support.nginx import Nginx
from support.parts import need
from support.serving import fetch, publish, serving_process
from support.upstream import Upstream

from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from support.serving import Published

_KIB, _MIB = 1 << 10, 1 << 20


def main() -> int:
    """Measure and print one line for each load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="of the server; nginx has one")
    options = parser.parse_args()
    wrk = need("wrk")
    small, large = publish("small.pdb", 1, payload_bytes=16 * _KIB), publish("large.pdb", 2, payload_bytes=50 * _MIB)
    absent = publish("absent.pdb", 3)
    with tempfile.TemporaryDirectory(prefix="symcache-bench-") as name, Upstream() as upstream:
        upstream.always("*", not_found())
        home = Path(name)
        for each in (small, large):
            put(home / "store", each)
        (home / "nginx").mkdir()
        with (
            Nginx(home / "store", home / "nginx") as nginx,
            serving_process(home, upstream.url, "--workers", str(options.workers)) as served,
        ):
            ports = {"nginx": nginx.port, "serve": served.port}
            for each in (small, large, absent):
                fetch(served.port, each.index)
            loads = [
                (f"{len(small.content) / _KIB:.0f} KiB hits", small.index, 32),
                (f"{len(large.content) / _MIB:.0f} MiB hits", large.index, 8),
                ("misses", absent.index, 32),
            ]
            for title, index, connections in loads:
                rates: dict[str, list[tuple[float, float]]] = {"nginx": [], "serve": []}
                for _ in range(options.rounds):
                    for server, port in ports.items():
                        url = f"http://127.0.0.1:{port}/{index}"
                        rates[server].append(measure(wrk, url, connections, options.seconds))
                for server, measured in rates.items():
                    requests = median(rate for rate, _ in measured)
                    sent = median(bytes_s for _, bytes_s in measured)
                    print(f"{title:>14}  {server}: {requests:>9,.0f} requests/s  {sent / 1e6:>8,.0f} MB/s", flush=True)
    return 0


def put(store: Path, wanted: Published) -> None:
    """File *wanted* in the store."""
    with Store(store) as opened:
        scratch = opened.scratch()
        scratch.write_bytes(wanted.content)
        opened.publish(scratch, wanted.key, durable=False)


def measure(wrk: str, url: str, connections: int, seconds: int) -> tuple[float, float]:
    """Return requests and bytes per second."""
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    requests = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    transfer = re.search(r"Transfer/sec:\s+([0-9.]+)([KMG]?)B", said)
    assert requests is not None, said
    assert transfer is not None, said
    # wrk counts in powers of 1024, whatever it calls them.
    unit = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[transfer[2]]
    return float(requests[1]), float(transfer[1]) * unit


if __name__ == "__main__":
    sys.exit(main())
