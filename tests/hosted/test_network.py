"""Destinations of requests: only public addresses, through a proxy if configured, with few redirects."""

import asyncio

import pytest

from kontext_core.hosted import errors
from kontext_core.hosted.errors import HostedError
from kontext_core.hosted.network import PublicResolver, is_public, safe_address
from stand_in import PICTURE, Loopback
from stand_in.jobs import KEY, job

PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "0.0.0.0",
]
PRIVATE += ["100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1"]
PRIVATE += ["::ffff:127.0.0.1", "::ffff:10.0.0.1"]
PUBLIC = ["1.1.1.1", "172.15.0.1", "172.32.0.1", "198.18.0.5", "2606:4700::1111", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_this_machine_and_its_neighbours(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_others(address):
    assert is_public(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "[::1]", "[fe80::1]", "169.254.169.254", "192.168.0.1"])
@pytest.mark.parametrize("way", ["at once", "after a redirect"])
def test_a_picture_is_not_fetched_from_this_machine_or_its_neighbours(service, edit, address, way):
    url = f"https://{address}/picture.png"
    if way == "at once":
        service.pending, service.faults["poll"], service.change = 0, ["changed"], (("result", "sample"), url)
    else:
        service.faults["download"] = [f"to {url}"]
    with pytest.raises(HostedError) as caught:
        edit(job())
    assert caught.value.case == errors.FOREIGN
    assert "task-" in str(caught.value)


def test_a_name_that_leads_to_this_machine_is_not_followed(service):
    async def go(trusted):
        return await PublicResolver(Loopback(service.port), trusted).resolve("delivery-eu1.bfl.ai", 443)

    with pytest.raises(OSError, match="not public"):
        asyncio.run(go(()))
    assert asyncio.run(go(("delivery-eu1.bfl.ai",)))[0]["host"] == "127.0.0.1"


BAD = ["//[zz", "https://[zz/", "https://a.example:99999/", "javascript:1", "https://a.example/\x00"]


@pytest.mark.parametrize("target", BAD, ids=lambda text: text[:12])
def test_a_redirect_to_nonsense_is_an_error_with_the_request_s_id(service, edit, target):
    with pytest.raises(ValueError, match="address"):
        safe_address(target, "http://elsewhere.example/")
    service.faults["download"] = [f"to {target}"] if target.isprintable() else ["to //[zz"]
    with pytest.raises(HostedError) as caught:
        edit(job())
    assert "task-" in str(caught.value)


@pytest.mark.parametrize(("redirects", "arrives"), [(3, True), (4, False), (30, False)])
def test_a_picture_is_followed_three_times(service, edit, redirects, arrives):
    service.faults["download"] = ["redirect"] * redirects
    if arrives:
        assert edit(job()).content == PICTURE
        return
    with pytest.raises(HostedError) as caught:
        edit(job())
    assert caught.value.case == errors.REDIRECT
    assert len(service.requests) - len(service.faults["download"]) < 10


def test_no_cookie_is_kept(service, edit):
    for _ in range(2):
        edit(job())
    assert service.requests
    assert not [request for request in service.requests if "Cookie" in request.headers]


# Proxies


def set_proxy(monkeypatch, service, scheme="http", name="https_proxy"):
    monkeypatch.setenv(name, f"{scheme}://user:word@127.0.0.1:{service.proxy.port}")


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_proxy_that_is_set_is_used_and_sees_neither_key_nor_picture(service, edit, monkeypatch, name):
    set_proxy(monkeypatch, service, name=name)
    wanted = job()
    assert edit(wanted).content == PICTURE
    assert {line.split()[1] for line in service.proxy.seen} == {
        "api.bfl.ai:443",
        "api.us1.bfl.ai:443",
        "delivery-eu1.bfl.ai:443",
    }
    assert KEY not in "".join(service.proxy.seen)
    assert KEY.encode() not in bytes(service.proxy.carried)
    assert wanted.pictures[0].text[:20].encode() not in bytes(service.proxy.carried)


def test_hosts_that_need_no_proxy_get_none(service, edit, monkeypatch):
    set_proxy(monkeypatch, service)
    monkeypatch.setenv("no_proxy", "bfl.ai")
    assert edit(job()).content == PICTURE
    assert not service.proxy.seen


def test_a_proxy_that_refuses_is_named_and_nothing_is_sent(service, edit, monkeypatch):
    set_proxy(monkeypatch, service)
    service.proxy.refuses = True
    with pytest.raises(HostedError, match="the proxy gave no connection to api.bfl.ai") as caught:
        edit(job())
    assert caught.value.case == errors.NO_NETWORK
    assert "Nothing was sent" in str(caught.value)
    assert "word" not in str(caught.value)
    assert not service.requests


def test_a_proxy_of_another_kind_is_told(service, edit, monkeypatch):
    set_proxy(monkeypatch, service, scheme="socks5")
    with pytest.raises(HostedError, match="of another kind than HTTP") as caught:
        edit(job())
    assert "Nothing was sent" in str(caught.value)
