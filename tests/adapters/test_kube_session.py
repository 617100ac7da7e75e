"""The way to the API server, as the environment and the files beside it would have it."""

from pathlib import Path

import pytest

from linstor_affinity_events.adapters.kube_api import KubeApi
from linstor_affinity_events.adapters.kube_session import proxy_for
from linstor_affinity_events.errors import Missing
from tests.adapters.peers import loads
from tests.fakes.kube_server import KubeServer

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
    ],
)
def test_the_environment_names_proxies_and_who_is_spared(
    server: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://secure.example.com:3128")
    monkeypatch.setenv("http_proxy", "http://plain.example.com:3128")
    monkeypatch.setenv("NO_PROXY", ".internal,10.0.0.1:443")

    assert proxy_for(server) == proxy


async def test_requests_go_through_the_proxy_that_the_environment_names(
    kube: KubeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", kube.url)
    api = KubeApi(loads("http://kube.invalid"))
    try:
        with pytest.raises(Missing):
            await api.get(PV)
    finally:
        await api.close()


async def test_a_netrc_file_does_not_sign_in_for_us(
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


def test_a_proxy_that_wants_https_itself_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "https://secure.example.com:3128")

    assert proxy_for("https://kube.example.com") is None
    assert "proxy not used" in caplog.text
