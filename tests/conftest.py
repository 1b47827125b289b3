"""Fixtures for every test, and the walls around it: its own home, no setting from outside, no way off the machine."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from support.buckets import Azurite, Moto, S3rver
from support.googlexml import GoogleStandIn
from support.nginx import Nginx
from support.parts import IS_WINE, required_in, wine_lacks
from support.upstream import Upstream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path
    from typing import Protocol

    from support.authority import Authority
    from support.buckets import Bucket
    from support.upstream import Content

    class MakeUpstream(Protocol):
        """The fixture of that name; the arguments are those of `Upstream`."""

        def __call__(
            self,
            files: Mapping[str, Content] | Path | None = None,
            *,
            case_insensitive: bool = False,
            credentials: tuple[str, str] | None = None,
            tls: ssl.SSLContext | None = None,
        ) -> Upstream: ...


# How fast the machine is decides no test.
# What is only computed is the same under wine; files take many times as long there.
settings.register_profile(
    "symcache",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    max_examples=20 if IS_WINE else 100,
)
settings.load_profile("symcache")

_SETTINGS_FROM_OUTSIDE = ("SYMCACHE_", "_NT_", "DBGHELP_", "SSL_CERT_", "AWS_", "AZURE_", "GOOGLE_")
_OF_THE_TESTS = ("SYMCACHE_TEST_", "SYMCACHE_WINDOWS_PYTHON")
_PROXY_VARIABLES = {"all_proxy", "http_proxy", "https_proxy", "no_proxy"}
_TERMINAL_VARIABLES = {"NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES"}


def _stay_on_loopback(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            raise PermissionError(f"a test may not leave the machine: {address}")


# The interpreter's audit sees every library's connections, whichever event loop makes them.
sys.addaudithook(_stay_on_loopback)


@pytest.fixture(autouse=True)
def _isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test, and every process that it starts, a home of its own and no setting of the user."""
    for name in list(os.environ):
        setting = name.startswith(_SETTINGS_FROM_OUTSIDE) and not name.startswith(_OF_THE_TESTS)
        if setting or name.lower() in _PROXY_VARIABLES or name in _TERMINAL_VARIABLES:
            monkeypatch.delenv(name)
    home = tmp_path / "home"  # made by whatever needs it, so that an untouched tmp_path stays empty
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name, folder in {
        "XDG_CONFIG_HOME": "config",
        "XDG_CACHE_HOME": "cache",
        "XDG_DATA_HOME": "data",
        "XDG_STATE_HOME": "state",
        "XDG_RUNTIME_DIR": "run",
        "XDG_CONFIG_DIRS": "site",
        "APPDATA": "roaming",
        "LOCALAPPDATA": "local",
        "PROGRAMDATA": "program-data",
        # What Windows says itself is asked for before these; see platformdirs.
        "WIN_PD_OVERRIDE_APPDATA": "roaming",
        "WIN_PD_OVERRIDE_LOCAL_APPDATA": "local",
        "WIN_PD_OVERRIDE_COMMON_APPDATA": "program-data",
    }.items():
        monkeypatch.setenv(name, str(home / folder))


@pytest.fixture(params=["asyncio", pytest.param("trio", marks=wine_lacks("trio"))])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every async test on both event loops."""
    backend: str = request.param
    return backend


@pytest.fixture
def make_upstream() -> Iterator[Callable[..., Upstream]]:
    """Make as many upstreams as a test wants; they close with it."""
    with ExitStack() as stack:
        yield lambda files=None, **options: stack.enter_context(Upstream(files, **options))


@pytest.fixture
def upstream(make_upstream: MakeUpstream) -> Upstream:
    """An empty upstream: put files into `files`, script answers."""
    return make_upstream()


@pytest.fixture(scope="session")
def authority() -> Authority:
    """A certificate authority for TLS on loopback; skips where trustme is not installed."""
    pytest.importorskip("trustme", reason="trustme is not installed")
    from support.authority import Authority  # noqa: PLC0415 - only where it is wanted

    return Authority()


@pytest.fixture
def make_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Nginx]]:
    """Serve folders with a real nginx; skips where it is not installed."""
    with ExitStack() as stack:
        yield lambda root: stack.enter_context(Nginx(root, tmp_path_factory.mktemp("nginx")))


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """S3 that honours conditions; a test that stops it starts it again, or has one of its own."""
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def s3rver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3rver]:
    """S3 that knows no conditions, as `moto` otherwise."""
    with S3rver(tmp_path_factory.mktemp("s3rver")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azure, as `moto` otherwise."""
    with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def google() -> Iterator[GoogleStandIn]:
    """A stand-in for Google, as `moto` otherwise."""
    with GoogleStandIn() as server:
        yield server


@pytest.fixture
def google_bucket(google: GoogleStandIn) -> Bucket:
    """An empty bucket of the stand-in for Google."""
    return google.new_bucket()


@pytest.fixture
def s3_bucket(moto: Moto) -> Bucket:
    """An empty bucket of S3."""
    return moto.new_bucket()


@pytest.fixture
def plain_s3_bucket(s3rver: S3rver) -> Bucket:
    """An empty bucket of S3 where a put that is to create overwrites."""
    return s3rver.new_bucket()


@pytest.fixture
def azure_bucket(azurite: Azurite) -> Bucket:
    """An empty container of Azure."""
    return azurite.new_bucket()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that was skipped for want of something that this run must have."""
    report = yield
    _fail_if_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a file that was skipped for want of something that this run must have."""
    report = yield
    _fail_if_required(report)
    return report


def _fail_if_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2]
    part = required_in(reason)
    if part is not None:
        report.outcome = "failed"
        report.longrepr = f"{reason}; but SYMCACHE_TEST_REQUIRE names {part}"
