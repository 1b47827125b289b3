from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.nginx import Nginx


def test_nginx_serves_a_folder_and_its_log_is_read(make_nginx: Callable[[Path], Nginx], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    nginx = make_nginx(tmp_path)
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port)
    try:
        for wanted in ({}, {"Range": "bytes=2-4"}):
            connection.request("GET", "/a", headers=wanted)
            connection.getresponse().read()
        connection.request("GET", "/missing")
        assert connection.getresponse().read()
    finally:
        connection.close()
    seen = [(entry.target, entry.status, entry.range) for entry in nginx.requests()]
    assert seen == [("/a", 200, ""), ("/a", 206, "bytes=2-4"), ("/missing", 404, "")]
    assert [entry.sent_bytes for entry in nginx.requests()[:2]] == [10, 3]


def test_a_stopped_nginx_has_written_its_whole_log(make_nginx: Callable[[Path], Nginx], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with make_nginx(tmp_path) as nginx:
        connection = http.client.HTTPConnection("127.0.0.1", nginx.port)
        connection.request("GET", "/a")
        connection.getresponse().read()
        connection.close()
    assert [entry.sent_bytes for entry in nginx.requests()] == [10]
