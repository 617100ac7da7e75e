"""Python 3.13 and newer verify strictly by default; Go, and so every other client of a cluster,
does not. What kubectl can reach, the service reaches.
"""

import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.session import configuration_from
from linstor_affinity_events.adapters.linstor.connection import Tls
from linstor_affinity_events.adapters.linstor.rest import LinstorRest
from linstor_affinity_events.errors import Unreachable
from tests.adapters.minimal_ca import MinimalCa
from tests.adapters.peers import linstor_at
from tests.fakes.kube_server import FakeCluster, KubeServer
from tests.fakes.linstor_server import LinstorServer, LinstorWorld

VOLUMES = "/api/v1/persistentvolumes"


@pytest.fixture(autouse=True)
def _as_python_3_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have default contexts verify as those of Python 3.13 do, where an older one runs the test."""
    if sys.version_info >= (3, 13):
        return
    usual = ssl.create_default_context

    def strict(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = usual(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


@pytest.fixture
def authority() -> MinimalCa:
    return MinimalCa()


def an_account(directory: Path, root: bytes) -> Path:
    (directory / "token").write_text("ours")
    (directory / "ca.crt").write_bytes(root)
    return directory


def a_kubeconfig(directory: Path, root: bytes, url: str) -> Path:
    (directory / "ca.crt").write_bytes(root)
    path = directory / "config"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f"clusters: [{{name: c, cluster: {{server: '{url}', certificate-authority: ca.crt}}}}]\n"
        "users: [{name: u, user: {token: ours}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
    )
    return path


@pytest.mark.parametrize("way", ["account", "kubeconfig"])
async def test_an_api_server_whose_ca_has_no_key_identifiers_is_trusted(
    way: str, authority: MinimalCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = authority.server(tmp_path)
    async with KubeServer(FakeCluster(), tls=tls, tokens={"ours": "us"}) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        account = an_account(tmp_path, authority.pem)
        file = a_kubeconfig(tmp_path, authority.pem, server.url) if way == "kubeconfig" else ""
        load = configuration_from(kubeconfig=str(file), context="", server="", account=account)
        api = KubeApi(load)
        try:
            listed = await api.get(VOLUMES)
            async with api.watch(VOLUMES, {}):
                watched = server.open_watches
        finally:
            await api.close()

    assert listed["kind"] == "PersistentVolumeList"
    assert watched == 1


async def test_an_api_server_of_another_ca_is_still_rejected(
    authority: MinimalCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = authority.server(tmp_path)
    async with KubeServer(FakeCluster(), tls=tls, tokens={"ours": "us"}) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        account = an_account(tmp_path, MinimalCa().pem)
        load = configuration_from(kubeconfig="", context="", server="", account=account)
        api = KubeApi(load)
        try:
            with pytest.raises(Unreachable, match="certificate verify failed"):
                await api.get(VOLUMES)
        finally:
            await api.close()


async def test_a_linstor_whose_ca_has_no_key_identifiers_is_trusted(
    authority: MinimalCa, world: LinstorWorld, tmp_path: Path
) -> None:
    tls = Tls(root_ca=authority.pem.decode())
    async with (
        LinstorServer(world, ssl_context=authority.server(tmp_path)) as server,
        LinstorRest(linstor_at(server.url, tls=tls)) as rest,
    ):
        assert await rest.version() == "1.33.3"
    world.close()
