"""Which addresses are inside, and which redirects lead there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.stores.http import urls
from symcache.stores.http.urls import admit_redirect, is_inside, may_lead

if TYPE_CHECKING:
    from ipaddress import IPv4Address

OUTSIDE = ["8.8.8.8", "2606:4700::1111"]
CARRIED = ["::ffff:{}", "64:ff9b::{}", "::{}"]


@pytest.mark.parametrize(
    "address",
    [
        *["127.0.0.1", "127.255.0.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"],
        *["100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"],
        *["::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1"],
        *["2002:7f00:1::", "2002:a01:203::1", "2001:0:102:304:0:0:f5ff:fffe", "64:ff9b:1::a00:1"],
    ],
)
def test_an_address_that_is_not_public_is_inside(address: str) -> None:
    assert is_inside(address)


@pytest.mark.parametrize("address", [*OUTSIDE, "172.32.0.1", "192.169.0.1", "2002:808:808::"])
def test_a_public_address_is_outside(address: str) -> None:
    assert not is_inside(address)


@given(st.ip_addresses(v=4), st.sampled_from(CARRIED))
def test_an_address_of_ipv4_is_where_it_is_however_ipv6_carries_it(address: IPv4Address, form: str) -> None:
    # With 0.0.0.0 and 0.0.0.1 the last form is an address of IPv6 in its own right; inside, as these are.
    assert is_inside(form.format(address)) == is_inside(str(address))


@pytest.mark.parametrize(
    ("upstream", "target", "may"),
    [
        (["8.8.8.8"], OUTSIDE, True),
        (["8.8.8.8"], ["8.8.4.4", "10.0.0.1"], False),
        (["8.8.8.8"], ["::ffff:127.0.0.1"], False),
        (["10.0.0.1"], ["127.0.0.1"], True),
        (["10.0.0.1", "fd00::1"], ["192.168.0.1", "8.8.8.8"], True),
        (["10.0.0.1", "8.8.8.8"], ["10.0.0.2"], False),
        ([], ["10.0.0.1"], False),
        ([], ["8.8.8.8"], True),
        (["8.8.8.8"], [], True),
    ],
    ids=[
        *["outside", "partly inside", "carried", "inside to inside", "inside to both", "upstream in both"],
        *["upstream unknown", "upstream unknown, outside", "target unknown"],
    ],
)
def test_a_redirect_leads_inside_only_from_there(upstream: list[str], target: list[str], may: bool) -> None:
    assert may_lead(upstream, target) == may


async def test_a_name_that_is_not_looked_up_in_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(urls, "_look_up", lambda *_: over.wait(30))
    monkeypatch.setattr(urls, "_LOOK_UP_S", 0.1)
    with anyio.fail_after(10):
        assert not await admit_redirect(httpx.URL("http://a.example"), httpx.URL("http://b.example"), shown="x")
    over.set()
