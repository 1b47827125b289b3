from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.growth import growth
from support.windows import only_windows

from symcache.config import Breaker, BucketEntry, Config, load_config
from symcache.config.load import find_excess, find_line
from symcache.errors import ConfigError, SymbolPathError
from symcache.sympath import MICROSOFT, ChainElement, HttpPlace, LocalPlace, SymbolPath


@pytest.fixture(autouse=True)
def _no_file_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platformdirs, "user_config_path", lambda *_, **__: tmp_path / "user")


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "symcache.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_a_file_and_an_environment_every_setting_has_its_default() -> None:
    config = load_config(None, {})
    assert config.source is None
    assert config.network == Config().network
    assert config.symbol_path == SymbolPath(
        (
            ChainElement(
                (LocalPlace(str(Config().store.folder)), HttpPlace("https://msdl.microsoft.com/download/symbols"))
            ),
        )
    )


def test_the_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        f"""
        symbol_path = '''
            srv*C:\\c*https://h/p
            C:\\d
        '''
        [store]
        folder = '{tmp_path / "s"}'
        [network]
        connections = 3
        backoff_s = 1
        [network.breaker]
        failures = 2
        [unc.map]
        '\\\\host\\share' = '{tmp_path}'
        [[server]]
        url = "https://h/p"
        holds = ["pdb"]
        [[server]]
        url = "https://i"
        """,
    )
    config = load_config(file, {})
    assert config.source == file
    assert str(config.symbol_path) == r"srv*C:\c*https://h/p;C:\d"
    assert config.store.folder == tmp_path / "s"
    assert config.store.durable
    assert (config.network.connections, config.network.backoff_s) == (3, 1.0)
    assert config.network.breaker == Breaker(failures=2, cool_down_s=2.0)
    assert config.unc.map == {"\\\\host\\share": tmp_path}
    assert [(entry.url, entry.holds) for entry in config.server] == [("https://h/p", ("pdb",)), ("https://i", None)]


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "symbol_path = 'srv*file'")
    both = {"_NT_SYMBOL_PATH": "srv*variable"}
    assert str(load_config(file, {}).symbol_path) == "srv*file"
    assert str(load_config(file, both).symbol_path) == "srv*variable"
    assert str(load_config(file, both, symbol_path="srv*option").symbol_path) == "srv*option"
    assert str(load_config(file, {"_NT_SYMBOL_PATH": " "}).symbol_path) == "srv*file"


def test_the_alternative_path_is_searched_first() -> None:
    config = load_config(None, {"_NT_SYMBOL_PATH": "srv*nt", "_NT_ALT_SYMBOL_PATH": "srv*alt"})
    assert str(config.symbol_path) == "srv*alt;srv*nt"


def test_a_symbol_path_on_the_command_line_hides_a_bad_one_in_the_environment() -> None:
    config = load_config(None, {"_NT_SYMBOL_PATH": "ftp://h"}, symbol_path="srv*option")
    assert str(config.symbol_path) == "srv*option"


def test_a_bad_symbol_path_names_its_variable() -> None:
    with pytest.raises(ConfigError, match=r"^_NT_SYMBOL_PATH: .*\(at character 5 of") as caught:
        load_config(None, {"_NT_SYMBOL_PATH": "srv*ftp://me:hush@h"})
    assert "hush" not in str(caught.value)
    with pytest.raises(SymbolPathError):
        load_config(None, {}, symbol_path="ftp://h")


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_store_given_by_hand_becomes_the_default_and_the_bottom_most(by: str, tmp_path: Path) -> None:
    environ = {"_NT_SYMBOL_PATH": r"srv*C:\c*https://h"} | (
        {"SYMCACHE_STORE": str(tmp_path)} if by == "variable" else {}
    )
    config = load_config(None, environ, store=tmp_path if by == "option" else None)
    assert config.store.folder == tmp_path
    assert str(config.symbol_path) == f"srv*{tmp_path}*https://h"


def test_a_store_given_by_hand_stands_before_the_microsoft_server(tmp_path: Path) -> None:
    assert str(load_config(None, {}, store=tmp_path).symbol_path) == f"srv*{tmp_path}*{MICROSOFT}"


def test_the_file_is_found_by_variable_and_then_in_the_users_folder(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    usual = tmp_path / "user" / "symcache.toml"
    usual.write_text("[serve]\nport = 1", encoding="utf-8")
    named = written(tmp_path, "[serve]\nport = 2")
    assert (load_config(None, {}).serve.port, load_config(None, {}).source) == (1, usual)
    assert load_config(None, {"SYMCACHE_CONFIG": str(named)}).serve.port == 2
    assert load_config(usual, {"SYMCACHE_CONFIG": str(named)}).serve.port == 1


def test_without_an_environment_given_the_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_NT_SYMBOL_PATH", "srv*here")
    assert str(load_config().symbol_path) == "srv*here"


def test_the_number_of_connections_is_found_out_or_fixed(tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    read = []
    for value in ("'auto'", "3"):
        file.write_text(f"[network]\nconnections = {value}\ntransport = 'httpx'\n")
        read.append(load_config(file, {}).network)
    assert [network.connections for network in read] == [None, 3]
    assert [network.transport for network in read] == ["httpx", "httpx"]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    file.write_bytes(b"\xef\xbb\xbf[serve]\r\nport = 1\r\n")
    assert load_config(file, {}).serve.port == 1


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        pytest.param("conections = 3", "conections", "no such key; there are", id="an unknown key"),
        pytest.param("[network]\nconections = 3", "network.conections", "did you mean connections", id="a misspelling"),
        pytest.param("source = 'x'", "source", "no such key", id="a field that is no key"),
        pytest.param("network = 3", "network", "a table", id="no table"),
        pytest.param("[network]\nconnections = 0", "network.connections", "from 1 to 256", id="too small"),
        pytest.param("[network]\nconnections = 257", "network.connections", "from 1 to 256", id="too large"),
        pytest.param(
            "[network]\nconnections = true", "network.connections", "from 1 to 256", id="a flag, not a number"
        ),
        pytest.param("[network]\nconnections = 'many'", "network.connections", '"auto" or', id="another word"),
        pytest.param("[network]\ntransport = 'curl'", "network.transport", '"auto" or "httpx"', id="a transport"),
        pytest.param("[network]\nconnections = 1.5", "network.connections", "whole number", id="not whole"),
        pytest.param("[network]\nbackoff_s = nan", "network.backoff_s", "from 0 to 600", id="not a number at all"),
        pytest.param("[network]\nbackoff_s = true", "network.backoff_s", "from 0 to 600", id="a flag for seconds"),
        pytest.param("[network]\nnetrc = 1", "network.netrc", "true or false", id="a number, not a flag"),
        pytest.param("[network]\nproxy = 'gopher://h:1'", "network.proxy", "host:port", id="another kind of proxy"),
        pytest.param("[network]\nproxy = 'h:x'", "network.proxy", "host:port", id="no port"),
        pytest.param("[network]\nuser_agent_extra = 'é'", "network.user_agent_extra", "ASCII", id="not for a header"),
        pytest.param('[network]\nuser_agent_extra = "a\\nb"', "network.user_agent_extra", "one line", id="two lines"),
        pytest.param(
            "[[server]]\nurl='https://h'\nletter_case='any'", "server[0].letter_case", '"given" or "lower"', id="a case"
        ),
        pytest.param("[network.breaker]\nfailures = 0", "network.breaker.failures", "from 1", id="a table in a table"),
        pytest.param("[store]\nfolder = 'sym'", "store.folder", "whole path", id="a relative path"),
        pytest.param("symbol_path = 3", "symbol_path", "a symbol path", id="a path that is no text"),
        pytest.param("symbol_path = 'ftp://h'", "symbol_path", "ftp: is not", id="a path that is none"),
        pytest.param("[exclusions]\nnames = 'x'", "exclusions.names", "a list", id="no list"),
        pytest.param("[pointers]\nallow = ['']", "pointers.allow", "none of them empty", id="an empty text"),
        pytest.param("[unc]\nmap = 3", "unc.map", "a table", id="no map"),
        pytest.param("[unc.map]\n'C:\\c' = '/m'", r"unc.map.C:\c", "named by a share", id="no share"),
        pytest.param("[unc.map]\n'ftp://h' = '/m'", "unc.map.ftp://h", "named by a share", id="no share at all"),
        pytest.param("[unc.map]\n'\\\\h\\s' = ''", r"unc.map.\\h\s", "a folder", id="no folder"),
        pytest.param("[server]\nurl = 'https://h'", "server", "two pairs of brackets", id="one server"),
        pytest.param("[[server]]\nname = 'h'", "server[0].url", "is needed", id="a server without a URL"),
        pytest.param("[[server]]\nurl = 'h'", "server[0].url", "one URL", id="a URL that is none"),
        pytest.param("[[server]]\nurl = 'ftp://h'", "server[0].url", "ftp: is not", id="another scheme"),
        pytest.param("[[server]]\nurl = 'https://a*https://b'", "server[0].url", "one URL", id="two URLs"),
        pytest.param(
            "[[server]]\nurl = 'https://a'\n[[server]]\nurl = 'https://h'\nholds = ['exe']",
            "server[1].holds",
            '"pdb", "portable", "image"',
            id="an unknown kind",
        ),
        pytest.param("[[server]]\nurl = 'https://h'\nholds = []", "server[0].holds", "a list of", id="no kinds"),
        pytest.param(
            "[[server]]\nurl = 'https://h'\nauth = 'digest'",
            "server[0].auth",
            '"negotiate" or "ntlm"',
            id="a way to sign in",
        ),
        pytest.param(
            "[[server]]\nurl = 'https://h'\ntoken_command = 'gh auth token'",
            "server[0].token_command",
            "a list of a program",
            id="a command that is no list",
        ),
        pytest.param(
            "[[server]]\nurl = 'https://h'\ntoken_command = ['gh', 3]",
            "server[0].token_command",
            "a list of a program",
            id="a command with a number",
        ),
        pytest.param(
            "[[server]]\nurl = 'https://h'\ntoken_header = 'X Y'",
            "server[0].token_header",
            "the name of a header",
            id="no name of a header",
        ),
        pytest.param(
            "[[server]]\nurl = 'https://h'\ntoken_header = 'X:'",
            "server[0].token_header",
            "the name of a header",
            id="a header with its colon",
        ),
        pytest.param(
            "[[server]]\nurl = 'https://h'\nallow_http = 'yes'",
            "server[0].allow_http",
            "true or false",
            id="a word, not a flag",
        ),
        pytest.param(
            "[[server]]\nurl = 'https://h'\nclient_certificate = 'me.pem'",
            "server[0].client_certificate",
            "whole path",
            id="a certificate at a relative path",
        ),
        pytest.param("[network]\nno_proxy = '10.0.0.0/8'", "network.no_proxy", "a list", id="exceptions in one text"),
        pytest.param("[network]\nproxy = 'socks6://h'", "network.proxy", "socks5h", id="a kind of SOCKS"),
    ],
)
def test_an_error_names_file_key_and_what_is_allowed(text: str, where: str, problem: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert caught.value.where == f"{file}: {where}"
    assert problem in caught.value.problem


def test_a_path_in_the_home_folder_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "[store]\nfolder = '~/sym'")
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~", str(tmp_path)))
    assert load_config(file, {}).store.folder == tmp_path / "sym"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does where there is no home
    with pytest.raises(ConfigError, match="no home folder"):
        load_config(file, {})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a = 1\nb = = 2", r"not TOML: .*line 2"),
        (b'folder = "C:\\sym"', "single quotes"),
        (b"# \xff", r"not UTF-8 \(at byte 2\)"),
    ],
)
def test_a_file_that_is_not_toml_is_refused(data: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=problem):
        load_config(file, {})


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(None, {"SYMCACHE_CONFIG": str(tmp_path / "none.toml")})


def test_the_config_folder_of_another_user_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ConfigError, match=r"symcache\.toml: it cannot be read: Permission denied; is HOME your own\?"):
        load_config(None, {})


@pytest.mark.parametrize(
    ("text", "variable", "proxy"),
    [
        ("", "", None),
        ("", "h:3128", "http://h:3128"),
        ("proxy = 'https://p'", "", "https://p"),
        ("proxy = 'https://p'", "http://me:hush@h:3128", "http://me:hush@h:3128"),
        ("proxy = 'none'", "", ""),
    ],
)
def test_the_proxy_of_the_variable_comes_first(text: str, variable: str, proxy: str | None, tmp_path: Path) -> None:
    config = load_config(written(tmp_path, f"[network]\n{text}"), {"_NT_SYMBOL_PROXY": variable})
    assert config.network.proxy == proxy


@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks4a", "socks5", "socks5h"])
def test_a_proxy_of_every_kind_is_taken(scheme: str, tmp_path: Path) -> None:
    config = load_config(written(tmp_path, f"[network]\nproxy = '{scheme}://me:hush@h'\nno_proxy = ['.b', '::1']"), {})
    assert config.network.proxy == f"{scheme}://me:hush@h"
    assert config.network.no_proxy == (".b", "::1")


def test_secrets_come_from_variables_and_are_not_printed(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        symbol_path = 'srv*C:\\c*https://me:hush@h'
        [network]
        proxy = 'http://me:hush@h:1'
        [[server]]
        url = 'https://a'
        username = ''
        password_env = 'A'
        [[server]]
        url = 'https://b'
        token_env = 'B'
        [[server]]
        url = 'https://c'
        token_env = 'C'
        [[server]]
        url = 'https://d'
        password = 'hush-d'
        """,
    )
    config = load_config(file, {"A": "hush-a", "B": " hush-b\n"})
    assert [(entry.password, entry.token) for entry in config.server] == [
        ("hush-a", None),
        (None, "hush-b"),
        (None, None),
        ("hush-d", None),
    ]
    assert config.server[0].username == ""
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    "text",
    [
        "url = 'https://me:hush@h'",
        "url = 'https://h?sig=hush'",
        "url = 'ftp://me:hush@h'",
        "url = 'https://h'\npassword = 'hush'\ntoken = 'hush'",
        "url = 'https://h'\ntoken = 'hush é'",
        'url = "https://h"\npassword = "hush\\n"',
    ],
)
def test_an_error_about_a_secret_does_not_show_it(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, f"[[server]]\n{text}"), {})
    assert "hush" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://[::1]:6380/15", "rediss://r.example.com:1/", "unix:///run/redis/redis.sock", ""]
)
def test_a_server_that_replicas_share_is_named_by_a_url(url: str, tmp_path: Path) -> None:
    file = written(tmp_path, f"[cluster]\nurl = '{url}'\nusername = 'hush'\npassword_env = 'A'\nlease_s = 3")
    config = load_config(file, {"A": "hush\n"})
    assert (config.cluster.url, config.cluster.password, config.cluster.lease_s) == (url, "hush", 3.0)
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hush@h", "redis://hush@h", "redis://:hush@h", "redis://@h", "redis://h?password=hush", "redis://h#hush",
        "redis://h/hush", "redis://h:0", "redis://h:hush", "redis://", "unix://hush/x", "unix:", "unix:///x?password=hush",
        "https://h/hush", "h:6379", "REDIS://h/hush", "redis://h/123456",
    ],
)  # fmt: skip
def test_a_url_for_replicas_that_cannot_be_used_is_not_shown(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.url: this must be redis://") as caught:
        load_config(written(tmp_path, f"[cluster]\nurl = '{url}'"), {})
    assert "hush" not in str(caught.value) + repr(caught.value)


@only_windows
def test_the_default_store_is_where_the_debuggers_of_windows_look() -> None:
    assert load_config(None, {}).store.folder == Path(os.environ["PROGRAMDATA"], "Dbg", "sym")


@pytest.mark.parametrize("by", ["option", "variable", "file"])
def test_a_symbol_path_is_filled_in_wherever_it_comes_from(by: str, tmp_path: Path) -> None:
    text = "srv*~/sym*%TEMP%\\x*https://h"
    environ = {"TEMP": "/tmp", **({"_NT_SYMBOL_PATH": text} if by == "variable" else {})}
    file = written(tmp_path, f"symbol_path = '{text}'" if by == "file" else "")
    config = load_config(file, environ, symbol_path=text if by == "option" else None)
    assert str(config.symbol_path) == f"srv*{Path('~/sym').expanduser()}*/tmp/x*https://h"


def test_a_variable_that_is_not_set_is_named_with_where_it_stands(tmp_path: Path) -> None:
    file = written(tmp_path, "symbol_path = 'srv*$NONE/x'")
    with pytest.raises(ConfigError, match=r"symcache.toml: symbol_path: \$NONE: the variable is not set"):
        load_config(file, {})
    assert str(load_config(file, {}, symbol_path="srv*c").symbol_path) == "srv*c"
    with pytest.raises(ConfigError, match=r"^_NT_SYMBOL_PATH: \$NONE"):
        load_config(None, {"_NT_SYMBOL_PATH": "srv*$NONE/x"})
    with pytest.raises(SymbolPathError, match=r"\$NONE"):
        load_config(None, {}, symbol_path="srv*$NONE/x")
    with pytest.raises(ConfigError, match=r"^store .*\$NONE: "):
        load_config(None, {}, store=Path("$NONE/x"))


@pytest.mark.parametrize("text", ["https://u:hush@h/s", "u:hush@h/s", "http:/h/s?hush", "s/u:hush@h"])
def test_a_server_is_no_store_and_shows_no_secret(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^store .*: a store is a folder") as caught:
        load_config(None, {}, store=Path(text))
    assert "hush" not in str(caught.value)


def test_a_store_given_by_hand_may_lie_in_the_home_folder() -> None:
    assert load_config(None, {}, store=Path("~/sym")).store.folder == Path("~/sym").expanduser()


@pytest.mark.parametrize("url", ["u:hush@h/s", "http://u:x/hush@h/s", "https//u:hush@h/s", "https://h/s?sig=hush"])
def test_an_upstream_that_cannot_be_used_shows_no_secret(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, upstreams=[url])
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("[network]\n\nconnections = 0", 3, id="a key under a heading"),
        pytest.param("# network.connections = 1\nnetwork.connections = 0", 2, id="a key with dots behind a comment"),
        pytest.param("exclusions.names = [\n  ]\n\n[misses]\nttl_s = -1", 5, id="behind brackets over two lines"),
        pytest.param('symbol_path = """\n[misses]\n"""\n[misses]\nttl_s = -1', 5, id="not in a string"),
        pytest.param("[exclusions]\nnames = [\n  'a # [',\n  '',\n]", 2, id="a list over several lines"),
        pytest.param("misses = { ttl_s = 'x' }", 1, id="in a table on one line"),
        pytest.param("[unc.map]\n'\\\\a\\b' = '~/m'\n'\\\\h\\s' = ''", 3, id="a key in quotes"),
        pytest.param("\n[[server]]\nurl = 'https://a'\n[[server]]\nname = 'b'", 4, id="a key that lacks"),
        pytest.param("[[server]]\nurl = 'https://a'\n[[server]]\nurl = 'b'", 4, id="in the second of two tables"),
        pytest.param("[serve]\nport = 1\n[nework]\nx = 1", 3, id="an unknown table"),
        pytest.param("[serve]\r\nport = 'x'\r\n", 2, id="line ends of Windows"),
        pytest.param("[[server]]\nurl = 'https://a'\ntoken = 'a'\npassword = 'b'", 1, id="two keys that disagree"),
        pytest.param("\nsymbol_path = 'srv*$NONE'", 2, id="a variable that is not set"),
    ],
)
def test_an_error_names_the_line_of_its_key(text: str, line: int, tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    file.write_bytes(text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert caught.value.line == line
    assert str(caught.value).endswith(f"(at line {line})")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[network]\nconnections = " + "9" * 5000, "number has more", id="digits"),
        pytest.param("[network]\nconnections = " + "[" * 3000, "nested more", id="brackets"),
        pytest.param("x = 1\n" + "a." * 20_000 + "b = 1", "more than 32 dots", id="dots"),
        pytest.param("x = 1\n[" + "a." * 20_000 + "b]", "more than 32 dots", id="dots in a heading"),
        pytest.param("x = 1\ny = {" + '"a".' * 20_000 + "b = 1}", "more than 32 dots", id="dots between quotes"),
    ],
)
def test_what_would_take_too_long_to_read_is_refused_with_its_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load_config(written(tmp_path, text), {})
    assert caught.value.line == 2


def test_a_config_file_has_a_largest_size(tmp_path: Path) -> None:
    file = written(tmp_path, "#" * (256 << 10))
    assert load_config(file, {}).source == file
    with pytest.raises(ConfigError, match="longer than 262144 bytes"):
        load_config(written(tmp_path, "#" * ((256 << 10) + 1)), {})


@given(st.text(st.sampled_from("ab.=[]{}'\"#\\\n ,1"), max_size=40))
def test_every_key_of_a_config_file_has_a_line(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assert find_excess(text) is None
        return
    for name in parsed:
        assert find_line(text, name) is not None


@pytest.mark.parametrize("unit", ['\\"""\n', '"""\n\\"', "'''\n", '"\n', "[", "9_", '"a".', "#", "="])
def test_a_config_file_is_looked_through_in_linear_time(unit: str) -> None:
    assert growth(lambda length: find_excess((unit * length)[:length])) < 1.6


def test_a_bucket_of_the_settings_stands_in_every_chain(tmp_path: Path) -> None:
    file = written(tmp_path, "store.bucket = 's3://symbols/windows/'\nsymbol_path = 'srv*C:\\c*https://h;C:\\d'")
    config = load_config(file, {})
    assert config.store.bucket == "s3://symbols/windows"
    assert str(config.symbol_path) == r"srv*C:\c*s3://symbols/windows*https://h;C:\d"
    given = load_config(file, {"_NT_SYMBOL_PATH": "srv*"}, symbol_path=None)
    assert str(given.symbol_path) == f"srv**s3://symbols/windows*{MICROSOFT}"
    named = load_config(file, {}, upstreams=["https://up.test"])
    assert str(named.symbol_path).startswith(r"srv*C:\c*s3://symbols/windows*https://up.test;")
    assert load_config(written(tmp_path, "store.bucket = ''"), {}).store.bucket is None


def test_blocks_say_what_is_to_be_known_of_buckets(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [[bucket]]
        url = "s3://symbols/"
        endpoint = "http://127.0.0.1:9000"
        region = "eu-central-1"
        profile = "me"
        letter_case = "lower"
        checksums = false
        read_only = true
        [[bucket]]
        url = "https://objects.example/symbols/windows/"
        anonymous = true
        [[bucket]]
        url = "az://symbols"
        account = "example"
        """,
    )
    first, second, third = load_config(file, {}).bucket
    assert first == BucketEntry(
        url="s3://symbols",
        endpoint="http://127.0.0.1:9000",
        region="eu-central-1",
        profile="me",
        letter_case="lower",
        checksums=False,
        read_only=True,
    )
    assert second == BucketEntry(url="https://objects.example/symbols/windows", anonymous=True)
    assert third == BucketEntry(url="az://symbols", account="example")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("store.bucket = 'symbols'", "store.bucket"),
        ("store.bucket = 'https://h'", "store.bucket"),
        ("store.bucket = 'https://me:s3cr3t@h/b'", "store.bucket"),
        ("store.bucket = 'https://h/b?sig=s3cr3t'", "store.bucket"),
        ("store.bucket = 's3://a*s3://b'", "store.bucket"),
        ("store.bucket = 's3://me:s3cr3t@b'", "store.bucket"),
        ("store.bucket = 's3://'", "store.bucket"),
        ("store.bucket = 5", "store.bucket"),
        ("bucket = [{url = 'C:/sym'}]", "bucket[0].url"),
        ("bucket = [{url = 's3://b', endpoint = 'https://me:s3cr3t@h'}]", "bucket[0].endpoint"),
        ("bucket = [{url = 's3://b', letter_case = 'upper'}]", "bucket[0].letter_case"),
        ("bucket = [{url = 's3://b', secret = 's3cr3t'}]", "bucket[0].secret"),
        ("bucket = [{region = 'x'}]", "bucket[0]"),
        ("bucket = [{url = ''}]", "bucket[0]"),
    ],
)
def test_a_bucket_that_cannot_be_meant_is_an_error(text: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text), {})
    assert where in caught.value.where
    assert "s3cr3t" not in f"{caught.value}{caught.value!r}"
