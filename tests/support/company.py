"""A company's network of real programs on loopback: squid, Apache, MIT Kerberos, microsocks, px.

Each runs in the foreground on a free port, with all that it writes in a folder of its own, and is ended by its process.
None of the services that a distribution may start is needed or touched.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.parts import is_required, need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    from support.authority import Authority

__all__ = ["PASSWORD", "USER", "Company"]

USER, PASSWORD = "user", "userpw"
_REALM = "EXAMPLE.TEST"
_PATIENCE_S = 60.0
_HELPERS = Path("/usr/lib/squid")
_MODULES = Path("/usr/lib/apache2/modules")


@dataclass(frozen=True, slots=True)
class Running:
    """A program that runs: its port on 127.0.0.1, and the folder of its logs."""

    port: int
    home: Path

    @property
    def address(self) -> str:
        """``localhost:port``; Kerberos knows the name."""
        return f"localhost:{self.port}"


class Company:
    """Starts what a test asks for, each part once; use it as a context manager, which ends them all.

    Attributes:
        home: A folder that any user may read, as some programs give up root's rights.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._started: dict[str, Running] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="company-")))
        self.home.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:  # all at once, as each takes its time
            if process.poll() is None:
                process.terminate()
        self._stack.close()

    def _once(self, name: str, start: Callable[[], Running]) -> Running:
        if name not in self._started:
            self._started[name] = start()
        return self._started[name]

    # Kerberos

    @property
    def kerberos(self) -> Mapping[str, str]:
        """The variables for programs that use the company's Kerberos; the ticket of the user is there."""
        self._once("kdc", self._start_kdc)
        return {"KRB5_CONFIG": str(self.home / "krb5.conf"), "KRB5CCNAME": f"FILE:{self.home / 'tickets'}"}

    @property
    def keytab(self) -> Path:
        """The key of ``HTTP/localhost``."""
        self._once("kdc", self._start_kdc)
        return self.home / "http.keytab"

    def _start_kdc(self) -> Running:
        for part in ("kdc", "kinit", "gssapi"):
            need(part)

        def start(port: int) -> subprocess.Popen[bytes]:
            folder = self.home / "kdc"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self.write_krb5_conf(self.home / "krb5.conf", port)
            (folder / "kdc.conf").write_text(
                f"[kdcdefaults]\n kdc_listen = 127.0.0.1:{port}\n kdc_tcp_listen = 127.0.0.1:{port}\n"
                f"[realms]\n {_REALM} = {{\n  database_name = {folder}/principal\n"
                f"  key_stash_file = {folder}/stash\n  acl_file = {folder}/acl\n }}\n"
            )
            environment = {
                **os.environ,
                "KRB5_CONFIG": str(self.home / "krb5.conf"),
                "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
            }
            _run(need("kdb5_util"), "create", "-s", "-r", _REALM, "-P", "masterpw", env=environment)
            for query in (
                f"addprinc -pw {PASSWORD} {USER}",
                "addprinc -randkey HTTP/localhost",
                f"ktadd -k {self.home}/http.keytab HTTP/localhost",
            ):
                _run(need("kadmin.local"), "-r", _REALM, "-q", query, env=environment)
            (self.home / "http.keytab").chmod(0o644)
            return self._spawn([need("kdc"), "-n", "-r", _REALM], folder, env=environment)

        running = self._start_on_free_port("kdc", start)
        self._sign_in(self.home / "tickets")
        return running

    def _sign_in(self, tickets: Path) -> None:
        environment = {**os.environ, "KRB5_CONFIG": str(self.home / "krb5.conf")}
        _run(need("kinit"), "-c", f"FILE:{tickets}", f"{USER}@{_REALM}", env=environment, text=f"{PASSWORD}\n")

    @staticmethod
    def write_krb5_conf(path: Path, port: int) -> None:
        """Write what a client has to know of the realm whose server listens on *port*."""
        path.write_text(
            f"[libdefaults]\n default_realm = {_REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n"
            " rdns = false\n dns_canonicalize_hostname = false\n udp_preference_limit = 1\n"
            f"[realms]\n {_REALM} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
        )

    # Proxies

    def basic_proxy(self) -> Running:
        """A proxy that wants `USER` and `PASSWORD`."""

        def start() -> Running:
            made = _run(need("openssl"), "passwd", "-apr1", PASSWORD)
            (self.home / "passwd").write_text(f"{USER}:{made}")
            return self._start_squid(
                "basic",
                f"auth_param basic program {_helper('basic_ncsa_auth')} {self.home}/passwd",
                "auth_param basic realm company",
            )

        return self._once("basic", start)

    def ntlm_proxy(self) -> Running:
        """A proxy that wants NTLM; squid's helper believes any password."""
        return self._once(
            "ntlm",
            lambda: self._start_squid(
                "ntlm",
                f"auth_param ntlm program {_helper('ntlm_fake_auth')}",
                "auth_param ntlm children 5",
                "auth_param ntlm keep_alive on",
            ),
        )

    def negotiate_proxy(self) -> Running:
        """A proxy that wants the signed-in user's Kerberos ticket."""
        return self._once(
            "negotiate",
            lambda: self._start_squid(
                "negotiate",
                f"auth_param negotiate program {_helper('negotiate_kerberos_auth')} -k {self.keytab}"
                f" -s HTTP/localhost@{_REALM}",
                "auth_param negotiate children 5",
                "auth_param negotiate keep_alive on",
            ),
        )

    def inspecting_proxy(self, inspection: Authority, origins: Authority) -> Running:
        """A proxy that looks into TLS, with certificates of *inspection*; it trusts *origins* itself."""
        squid = need("squid")
        if "with-openssl" not in _run(squid, "-v"):
            reason = "squid is built without OpenSSL"
            if is_required("squid"):
                pytest.fail(f"{reason}, but SYMCACHE_TEST_REQUIRE names it", pytrace=False)
            pytest.skip(reason)

        def start() -> Running:
            authority, trusted = self.home / "inspection.pem", self.home / "origins.pem"
            inspection.write_authority(authority)
            origins.write_bundle(trusted)
            database = self.home / "certificates"
            _run(_helper("security_file_certgen"), "-c", "-s", str(database), "-M", "4MB")
            _give_away(database)
            return self._start_squid(
                "inspecting",
                f"sslcrtd_program {_helper('security_file_certgen')} -s {database} -M 4MB",
                "acl first at_step SslBump1",
                "ssl_bump peek first",
                "ssl_bump bump all",
                f"tls_outgoing_options cafile={trusted}",
                "http_access allow all",
                listen=f"ssl-bump tls-cert={authority} generate-host-certificates=on dynamic_cert_mem_cache_size=4MB",
            )

        return self._once("inspecting", start)

    def _start_squid(self, name: str, *lines: str, listen: str = "") -> Running:
        squid = need("squid")

        def start(port: int) -> subprocess.Popen[bytes]:
            home = self.home / name
            home.mkdir(exist_ok=True)
            config = home / "squid.conf"
            access = (
                [] if "http_access allow all" in lines else ["acl known proxy_auth REQUIRED", "http_access allow known"]
            )
            text = [
                f"http_port 127.0.0.1:{port} {listen}",
                f"pid_filename {home}/pid",
                f"access_log stdio:{home}/access.log",
                f"cache_log {home}/cache.log",
                "cache deny all",
                f"coredump_dir {home}",
                "shutdown_lifetime 1 second",
                "pinger_enable off",
                *lines,
                *access,
                "http_access deny all",
            ]
            config.write_text("\n".join([*text, ""]))
            _give_away(home)
            return self._spawn([squid, "-n", f"{name}{port}", "-N", "-f", str(config)], home)

        return self._start_on_free_port(name, start)

    def socks_proxy(self, *, credentials: bool = False) -> Running:
        """A SOCKS 5 proxy; with *credentials* it wants `USER` and `PASSWORD`."""
        name = "socks-user" if credentials else "socks"
        options = ["-u", USER, "-P", PASSWORD] if credentials else []

        def start(port: int) -> subprocess.Popen[bytes]:
            home = self.home / name
            home.mkdir(exist_ok=True)
            return self._spawn([need("microsocks"), "-i", "127.0.0.1", "-p", str(port), *options], home)

        return self._once(name, lambda: self._start_on_free_port(name, start))

    def helper(self, options: Sequence[str]) -> Running:
        """px, on a free port in place of 3128, with the other *options* of a command for it."""

        def start(port: int) -> subprocess.Popen[bytes]:
            home = self.home / "px"
            home.mkdir(exist_ok=True)
            environment = {**os.environ, "PX_PASSWORD": "anything", "HOME": str(home)}
            return self._spawn([need("px"), *options, f"--port={port}", "--listen=127.0.0.1"], home, env=environment)

        return self._once("px", lambda: self._start_on_free_port("px", start))

    # Servers

    def negotiate_server(self, files: Path) -> Running:
        """An Apache that serves *files*, which any user may read, to whoever has a Kerberos ticket."""
        program = need("apache")
        if not (_MODULES / "mod_auth_gssapi.so").exists():
            reason = "mod_auth_gssapi of apache is not installed"
            if is_required("apache"):
                pytest.fail(f"{reason}, but SYMCACHE_TEST_REQUIRE names it", pytrace=False)
            pytest.skip(reason)

        def start(port: int) -> subprocess.Popen[bytes]:
            home = self.home / "apache"
            home.mkdir(exist_ok=True)
            modules = ["mpm_event", "authn_core", "authz_core", "authz_user", "auth_gssapi"]
            text = [
                f"ServerRoot {home}",
                "ServerName localhost",
                f"Listen 127.0.0.1:{port}",
                f"PidFile {home}/pid",
                f"ErrorLog {home}/error.log",
                *(f"LoadModule {name}_module {_MODULES}/mod_{name}.so" for name in modules),
                f"DocumentRoot {files}",
                f"<Directory {files}>",
                " AuthType GSSAPI",
                " AuthName company",
                f" GssapiCredStore keytab:{self.keytab}",
                " GssapiAllowedMech krb5",
                " Require valid-user",
                "</Directory>",
            ]
            (home / "httpd.conf").write_text("\n".join([*text, ""]))
            return self._spawn([program, "-D", "FOREGROUND", "-f", str(home / "httpd.conf")], home)

        return self._once("apache", lambda: self._start_on_free_port("apache", start))

    # How programs run

    def _spawn(
        self, command: Sequence[str], home: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        output = self._stack.enter_context((home / "output").open("ab"))
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=home)
        self._processes.append(process)
        self._stack.callback(_end, process)
        return process

    def _start_on_free_port(self, name: str, start: Callable[[int], subprocess.Popen[bytes]]) -> Running:
        """Start a program; once more if another process has taken its port between choosing and binding it."""
        for _ in range(3):
            port = _free_port()
            process = start(port)
            if _listens(port, process):
                return Running(port, self.home / name)
            _end(process)
        home = self.home / name
        logs = [
            path.read_text(errors="replace")[-2000:] for path in (home / "output", home / "cache.log") if path.exists()
        ]
        raise AssertionError(f"{name} does not start: {logs}")

    @contextmanager
    def silent_kdc(self) -> Iterator[Mapping[str, str]]:
        """Yield the variables of a user who has signed in, and whose Kerberos server says nothing any more."""
        assert self.kerberos
        tickets = self.home / "tickets of the user alone"  # the others are had from the server when they are needed
        self._sign_in(tickets)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            path = self.home / "silent.conf"
            self.write_krb5_conf(path, listening.getsockname()[1])
            yield {"KRB5_CONFIG": str(path), "KRB5CCNAME": f"FILE:{tickets}"}


def _helper(name: str) -> str:
    return str(_HELPERS / name)


def _give_away(folder: Path) -> None:
    """Let squid write there, which root hands over to the user of Debian's package."""
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            shutil.chown(path, "proxy", "proxy")


def _run(program: str, *arguments: str, env: Mapping[str, str] | None = None, text: str = "") -> str:
    done = subprocess.run(
        [program, *arguments], env=env, input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
    return done.stdout


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    end_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process.poll() is None
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
