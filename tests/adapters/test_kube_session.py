"""The way to the API server, as the environment and the files beside it would have it."""

import asyncio
from base64 import b64encode
from pathlib import Path
from traceback import format_exception

import pytest
import yaml
from yarl import URL

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.library import Configuration
from linstor_affinity_events.adapters.kubernetes.proxy import Proxy, proxy_for
from linstor_affinity_events.adapters.kubernetes.session import configuration_from
from linstor_affinity_events.errors import AffinityEventsError, BadSettings, Missing
from tests.adapters.peers import loads, serving
from tests.fakes.kube_server import KubeServer
from tests.testbed.secrets import leaked

PV = "/api/v1/persistentvolumes/pv-1"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("server", "proxy"),
    [
        ("https://kube.example.com", "http://secure.example.com:3128"),
        ("https://kube.example.com:6443", "http://secure.example.com:3128"),
        ("http://kube.example.com", "http://plain.example.com:3128"),
        ("https://kube.internal:6443", None),
        ("https://10.0.0.1:443", None),
        ("https://10.0.0.1:6443", "http://secure.example.com:3128"),
        ("https://10.96.0.1", None),
        ("https://[fd00::1]:6443", None),
        ("https://api.cluster.example.com:6443", None),
        ("https://127.0.0.1:6443", None),
    ],
)
def test_the_environment_names_proxies_and_exceptions(
    server: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://secure.example.com:3128")
    monkeypatch.setenv("http_proxy", "http://plain.example.com:3128")
    monkeypatch.setenv(
        "NO_PROXY", ".internal,10.0.0.1:443,10.96.0.0/12,fd00::/8,*.cluster.example.com"
    )

    found = proxy_for(server)

    assert (found and str(found.url)) == proxy


async def test_requests_use_the_proxy_of_the_environment(
    kube: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", kube.url)
    api = KubeApi(loads("http://kube.invalid"))
    try:
        with pytest.raises(Missing):
            await api.get(PV)
    finally:
        await api.close()


async def test_a_netrc_file_is_ignored(
    kube: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    api = KubeApi(loads(kube.url, token="ours"))
    try:
        with pytest.raises(Missing):
            await api.get(PV)
    finally:
        await api.close()


def test_a_proxy_without_a_scheme_uses_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "secure.example.com:3128")

    assert proxy_for("https://kube.example.com") == Proxy(URL("http://secure.example.com:3128"), "")


SECRET = "password-of-proxy"
NOT_VALID = [
    "http://:3128",
    f"http://me:{SECRET}/x@proxy.example.com:3128",
    f"http://me:{SECRET}#x@proxy.example.com:3128",
    f"http://me:80/{SECRET}@proxy.example.com:3128",
    f"http://me:80?{SECRET}@proxy.example.com:3128",
    f"http://m\N{ACCOUNT OF}e:{SECRET}@proxy.example.com:3128",
    f"http://me:{SECRET}@proxy.example.com:port",
    f"http://me:{SECRET}@[::1",
    f"http://m%3Ae:{SECRET}@proxy.example.com:3128",
]


@pytest.mark.parametrize("proxy", NOT_VALID)
async def test_an_error_about_a_proxy_does_not_contain_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    api = KubeApi(loads("http://kube.invalid"))

    with pytest.raises(BadSettings, match="that HTTP_PROXY names is not of the form") as raised:
        await api.open()

    assert SECRET not in "".join(format_exception(raised.value))


@pytest.mark.parametrize(
    "host",
    [
        "https://{}@api\N{FULLWIDTH SOLIDUS}x:6443",
        "https://{}@[::1",
        "https://{}@api:port",
        "https://{}@" + "a" * 64,
        "htps://{}@api:6443",
        "https:///{}@api:6443",
    ],
)
async def test_an_error_about_the_api_server_does_not_contain_its_password(host: str) -> None:
    api = KubeApi(loads(host.format(f"me:{SECRET}")))

    with pytest.raises(BadSettings, match="is not a valid URL") as raised:
        await api.open()

    assert SECRET not in "".join(format_exception(raised.value))


async def test_a_proxy_of_a_kubeconfig_file_that_is_not_valid_is_not_shown() -> None:
    async def load() -> Configuration:
        configuration = await loads("https://kube.invalid")()
        configuration.proxy = f"socks5://me:{SECRET}@proxy.example.com:1080"
        return configuration

    with pytest.raises(BadSettings, match="that the kubeconfig file names") as raised:
        await KubeApi(load).open()

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("status", [200, 302, 407, 502])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_gets_its_login_and_no_error_contains_it(
    scheme: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these is an error: what the proxy responds with is no tunnel, and no object."""
    heads: list[bytes] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 1\r\n\r\n[" % status)
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv(f"{scheme}_proxy", f"http://me:{SECRET}%2F@127.0.0.1:{port}")
        api = KubeApi(loads(f"{scheme}://kube.invalid"))
        try:
            with pytest.raises(AffinityEventsError) as raised:
                await api.get(PV)
        finally:
            await api.close()

    login = b64encode(f"me:{SECRET}/".encode())
    assert heads
    assert all(b"Proxy-Authorization: Basic %b\r\n" % login in head for head in heads)
    assert leaked("".join(format_exception(raised.value)), [SECRET, f"me:{SECRET}/"]) == []


async def test_the_proxy_is_shown_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:se@cret@proxy.example.com:3128")
    api = KubeApi(loads("http://kube.invalid"))
    try:
        await api.open()

        assert api.where == "http://kube.invalid through http://proxy.example.com:3128"
    finally:
        await api.close()


@pytest.mark.parametrize("scheme", ["https", "socks5"])
def test_a_proxy_of_another_protocol_is_not_used(
    scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://me:secret@secure.example.com:3128")

    assert proxy_for("https://kube.example.com") is None
    assert "connecting to the API server without the proxy" in caplog.text
    assert "secret" not in caplog.text


async def test_cookies_of_a_response_are_not_sent_back() -> None:
    # By name: aiohttp never keeps cookies of an IP address.
    async with serving(headers={"Set-Cookie": "a=b; Path=/"}) as (url, heard):
        api = KubeApi(loads(url.replace("127.0.0.1", "localhost")))
        try:
            await api.get(PV)
            await api.get(PV)
        finally:
            await api.close()

    assert ["Cookie" in request.headers for request in heard] == [False, False]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:kubernetes_asyncio")
@pytest.mark.parametrize("body", [b"", b"[" * 100_000], ids=["cut off", "nested too deeply"])
async def test_an_identity_provider_that_fails_is_reported(tmp_path: Path, body: bytes) -> None:
    """It is asked for a token by the kubeconfig file's provider for OpenID Connect."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if body:
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        provider = {
            "idp-issuer-url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            "client-id": "me",
            "client-secret": "secret",
            "refresh-token": "token",
        }
        user = {"auth-provider": {"name": "oidc", "config": provider}}
        path = tmp_path / "config"
        path.write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "users": [{"name": "u", "user": user}],
                    "current-context": "x",
                }
            )
        )
        load = configuration_from(kubeconfig=str(path), context="", server="")

        with pytest.raises(BadSettings, match="no Kubernetes configuration"):
            await load()
