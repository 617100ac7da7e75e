"""NO_PROXY means here what it means to kubectl and every other program in Go."""

import pytest

from linstor_affinity_events.model.proxies import is_spared, proxy_named


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "spared"),
    [
        pytest.param("", "kube.example.com", 443, False, id="nothing"),
        pytest.param("*", "kube.example.com", 443, True, id="everything"),
        pytest.param("a.example, *", "10.0.0.1", 6443, True, id="everything among others"),
        pytest.param("10.0.0.0/8", "10.96.0.1", 443, True, id="in a range"),
        pytest.param("10.0.0.0/8", "11.96.0.1", 443, False, id="outside of a range"),
        pytest.param("10.1.2.3/8", "10.96.0.1", 443, True, id="a range named by one in it"),
        pytest.param("fd00::/8", "fd12::1", 443, True, id="in a range of IPv6"),
        pytest.param("10.0.0.0/8", "fd12::1", 443, False, id="IPv6 in no range of IPv4"),
        pytest.param("10.0.0.0/8", "kube.example.com", 443, False, id="a name in no range"),
        pytest.param("10.0.0.1", "10.0.0.1", 6443, True, id="an address"),
        pytest.param("10.0.0.1", "10.0.0.10", 6443, False, id="another address"),
        pytest.param("10.0.0.1:6443", "10.0.0.1", 6443, True, id="an address and its port"),
        pytest.param("10.0.0.1:443", "10.0.0.1", 6443, False, id="an address, another port"),
        pytest.param("[fd00::1]:6443", "fd00::1", 6443, True, id="IPv6 and its port"),
        pytest.param("[fd00::1]:6443", "fd00::1", 443, False, id="IPv6, another port"),
        pytest.param("fd00::1", "fd00:0::1", 443, True, id="IPv6 written otherwise"),
        pytest.param("10.0.0.1", "::ffff:10.0.0.1", 443, True, id="IPv4 as IPv6"),
        pytest.param("10.0.0.0/8", "::ffff:10.0.0.1", 443, True, id="IPv4 as IPv6 in a range"),
        pytest.param("example.com", "example.com", 443, True, id="a domain"),
        pytest.param("example.com", "kube.example.com", 443, True, id="below a domain"),
        pytest.param("example.com", "badexample.com", 443, False, id="not at a dot"),
        pytest.param("example.com:6443", "kube.example.com", 6443, True, id="domain and port"),
        pytest.param("example.com:6443", "kube.example.com", 443, False, id="domain, other port"),
        pytest.param(".example.com", "kube.example.com", 443, True, id="dot: below"),
        pytest.param(".example.com", "example.com", 443, False, id="dot: not the domain itself"),
        pytest.param("*.example.com", "a.kube.example.com", 443, True, id="star: below"),
        pytest.param("*.example.com", "example.com", 443, False, id="star: not itself"),
        pytest.param("*.example.com:443", "kube.example.com", 443, True, id="star and port"),
        pytest.param("*.example.com:443", "kube.example.com", 80, False, id="star, other port"),
        pytest.param("EXAMPLE.com", "Kube.Example.COM", 443, True, id="any case"),
        pytest.param(" a , example.com ", "kube.example.com", 443, True, id="blanks"),
        pytest.param("0.0.1", "10.0.0.1", 443, False, id="no suffix of an address"),
        pytest.param(",, :443, .", "kube.example.com", 443, False, id="malformed entries"),
        pytest.param("10.0.0.0/99", "10.0.0.1", 443, False, id="a malformed range"),
        pytest.param("", "localhost", 6443, True, id="localhost"),
        pytest.param("", "127.0.0.7", 6443, True, id="a loopback address"),
        pytest.param("", "::1", 6443, True, id="a loopback address of IPv6"),
        pytest.param("", "kube.localhost", 6443, False, id="below localhost"),
        pytest.param("svc", "kubernetes.default.svc", 443, True, id="a domain of one label"),
    ],
)
def test_which_hosts_bypass_the_proxy(no_proxy: str, host: str, port: int, spared: bool) -> None:
    assert is_spared(no_proxy, host, port) is spared


@pytest.mark.parametrize(
    ("env", "scheme", "proxy"),
    [
        ({}, "https", ""),
        ({"HTTPS_PROXY": "http://p:1"}, "https", "http://p:1"),
        ({"https_proxy": "http://p:1"}, "https", "http://p:1"),
        ({"HTTPS_PROXY": "", "https_proxy": "http://p:1"}, "https", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"}, "https", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https", ""),
        ({"HTTP_PROXY": "http://p:1"}, "http", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "https", ""),
        ({"HTTPS_PROXY": "proxy.example.com:3128"}, "https", "http://proxy.example.com:3128"),
        ({"HTTPS_PROXY": " http://p:1 "}, "https", "http://p:1"),
    ],
)
def test_which_proxy_the_environment_selects(env: dict[str, str], scheme: str, proxy: str) -> None:
    assert proxy_named(env, scheme) == proxy
