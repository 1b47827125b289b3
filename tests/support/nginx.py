"""A real nginx on loopback that serves a folder."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.parts import need, skip_without

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Logged", "Nginx", "deployed_site"]

_PATIENCE_S = 60.0

_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format entry escape=json '{{"method":"$request_method","target":"$request_uri","status":$status,'
        '"sent_bytes":$body_bytes_sent,"range":"$http_range","connection":$connection}}';
    access_log {home}/access.log entry;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
{site}
}}
"""

_SITE = """
    server {{
        listen 127.0.0.1:{port} backlog=512;
        root {root};
        limit_rate {rate};
    }}
"""

_DEPLOY = Path(__file__).resolve().parents[2] / "config" / "deploy"


def deployed_site(listen: str, symcache_port: int, store: Path | None = None) -> str:
    """Return the site of config/deploy in front of a server on that port; nginx sends the files of *store* itself."""
    site = (_DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    site = re.sub(r"^\s*(listen 443|ssl_).*\n", "", site, flags=re.MULTILINE)
    site = site.replace("listen 80;", f"listen {listen};").replace("127.0.0.1:8080", f"127.0.0.1:{symcache_port}")
    if store is None:
        return site
    files = (_DEPLOY / "nginx-store.conf").read_text(encoding="utf-8")
    return site.replace("# include /etc/nginx/symcache/nginx-store.conf;", files).replace(
        "/var/lib/symcache/symbols", str(store)
    )


@dataclass(frozen=True, slots=True)
class Logged:
    """One line of the access log.

    Attributes:
        sent_bytes: Body bytes sent.
        range: The Range header asked for; empty if there was none.
        connection: Number of the connection, from 1 upward as nginx counts.
    """

    method: str
    target: str
    status: int
    sent_bytes: int
    range: str
    connection: int


class Nginx:
    """One nginx process, unprivileged, with all it writes below *home*; use it as a context manager.

    Args:
        root: The folder to serve.
        home: An existing folder for configuration, logs and scratch files.
        symcache_port: Where a server listens, for the site of config/deploy instead, with its files sent by nginx.
        rate_bytes: Bytes that each connection gets in a second; 0 for no limit.
    """

    def __init__(self, root: Path, home: Path, symcache_port: int | None = None, *, rate_bytes: int = 0) -> None:
        skip_without("nginx", sys.platform != "win32", "nginx is handed a socket, which Windows cannot do")
        assert sys.platform != "win32"
        program = need("nginx")
        self._access_log = home / "access.log"
        self._error_log = home / "error.log"
        # nginx is handed a socket that listens already, so no port can be lost to another process between choosing
        # and binding it, and a client that is early waits in the backlog. (It crashes on that without its master
        # process, so there are two processes; the master ends the worker.)
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
            self.port: int = listening.getsockname()[1]
            config = home / "nginx.conf"
            # Started by root, the worker would become another user, who cannot see a private folder.
            user = "user root;" if os.geteuid() == 0 else ""
            if symcache_port is None:
                site = _SITE.format(port=self.port, root=root.resolve(), rate=rate_bytes)
            else:
                site = deployed_site(f"127.0.0.1:{self.port} backlog=512", symcache_port, root.resolve())
            text = _CONFIG.format(user=user, home=home, site=site)
            config.write_text(text, encoding="utf-8")
            command = [program, "-p", str(home), "-c", str(config), "-e", str(self._error_log)]
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "NGINX": f"{listening.fileno()};"},
                pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Let it finish what it is sending, then end it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def requests(self) -> list[Logged]:
        """Return what was asked and completely answered so far, in the order of completion."""
        if self._process.poll() is None:
            self._pass_log()
        lines = self._access_log.read_text(encoding="utf-8").splitlines()
        entries = [Logged(**json.loads(line)) for line in lines]
        return [entry for entry in entries if entry.target != _MARKER]

    def errors(self) -> str:
        """Return the error log."""
        return self._error_log.read_text(encoding="utf-8")

    def _pass_log(self) -> None:
        # A line is written just after its answer has left. The one worker answers this request later than that.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_S)
        try:
            connection.request("HEAD", _MARKER)
            connection.getresponse().read()
        finally:
            connection.close()


_MARKER = "/.end-of-log"
