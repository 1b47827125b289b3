from __future__ import annotations

import pytest

from symcache.formats.pe.version import VersionInfo
from symcache.stores.http.servers import SERVERS
from symcache.stores.results import Attempt, Cause, Failed, Hint, Missing, Outcome
from symcache.warm.makers import _BY_NAME, _SERVERS, Maker, Origin, hint_of, maker_of

NO = Missing(Cause.NOT_PUBLISHED, (Attempt("https://symbols.test", "404"),))
MICROSOFT = VersionInfo(company="Microsoft Corporation")


def origin(version: VersionInfo, build: int | None = None) -> Origin:
    return Origin(maker_of("a.sys", version), version, windows_build=build)


@pytest.mark.parametrize(
    ("module", "version", "maker"),
    [
        ("foo.sys", VersionInfo(company="Example GmbH"), Maker("Example GmbH")),
        ("nvlddmkm.sys", VersionInfo(company="Example GmbH"), Maker("Example GmbH")),
        ("NVLDDMKM.SYS", VersionInfo(), Maker("NVIDIA Corporation", is_presumed=True)),
        ("VBoxGuest.sys", None, Maker("Oracle Corporation", is_presumed=True)),
        ("secdrv.SYS", None, Maker("Macrovision", is_presumed=True)),
        ("intelppm.sys", None, None),
        ("ntoskrnl.exe", None, None),
        ("mynvlddmkm.sys", None, None),
    ],
)
def test_the_version_resource_tells_the_maker_else_the_name(
    module: str, version: VersionInfo | None, maker: Maker | None
) -> None:
    assert maker_of(module, version) == maker


@pytest.mark.parametrize(
    ("module", "outcome", "origin", "hint"),
    [
        ("secdrv.sys", NO, Origin(), Hint.NEVER_PUBLISHED),
        ("secdrv.sys", Missing(Cause.NOT_CACHED), Origin(), Hint.NEVER_PUBLISHED),
        ("a.sys", NO, origin(VersionInfo(company="Example GmbH")), Hint.THIRD_PARTY),
        ("a.sys", NO, origin(VersionInfo(company="Example GmbH", is_private=True)), Hint.PRIVATE_BUILD),
        ("a.sys", NO, origin(MICROSOFT, 19041), Hint.MICROSOFT),
        ("a.sys", NO, origin(MICROSOFT, 99999), Hint.NEW_BUILD),
        ("a.sys", NO, Origin(), None),
        ("a.sys", Missing(Cause.NOT_PUBLISHED, (Attempt("u", "MSG: withdrawn"),)), Origin(), Hint.WITHDRAWN),
        ("a.sys", Missing(Cause.NOT_CACHED), origin(MICROSOFT), None),
        ("a.sys", Missing(Cause.EMBEDDED), origin(MICROSOFT), None),
        ("a.sys", Missing(Cause.NOT_PUBLISHED, hint=Hint.NO_SERVER), origin(MICROSOFT), None),
        ("secdrv.sys", Failed(Cause.UNAVAILABLE), Origin(), None),
    ],
)
def test_the_advice_depends_on_who_made_it(module: str, outcome: Outcome, origin: Origin, hint: Hint | None) -> None:
    assert hint_of(module, outcome, origin) is hint


def test_makers_with_a_server_of_their_own_are_told_it() -> None:
    urls = {server.name: server.url for server in SERVERS}
    assert Maker("NVIDIA Corporation").server == urls["NVIDIA"]
    assert Maker("Advanced Micro Devices, Inc.").server == urls["AMD"]
    assert Maker("Intelligent Things Ltd").server is None
    assert Maker("Microsoft Corporation").server is None
    assert set(_SERVERS.values()) <= set(urls.values())


def test_no_two_makers_have_the_same_names() -> None:
    for name in ("nvlddmkm.sys", "igdkmd64.sys", "rt640x64.sys", "vm3dmp.sys", "vboxguest.sys", "netkvm.sys"):
        assert sum(bool(start.match(name)) for start, _ in _BY_NAME) == 1, name
