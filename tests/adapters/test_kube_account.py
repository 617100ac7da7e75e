"""The account of a pod: its token and certificates are files, and rotate."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.session import configuration_from
from linstor_affinity_events.errors import Unreachable
from tests.fakes.kube_server import FakeCluster, KubeServer

VOLUMES = "/api/v1/persistentvolumes"


@dataclass(frozen=True, slots=True)
class Account:
    """A directory as the kubelet writes it: files that lead to a directory that gets replaced."""

    directory: Path

    def write(self, version: str, *, token: str, root: bytes) -> None:
        """Put token and root in the place of the last ones, both at once."""
        new = self.directory / version
        new.mkdir(parents=True)
        (new / "token").write_text(token)
        (new / "ca.crt").write_bytes(root)
        link = self.directory / "new"
        link.symlink_to(version)
        link.rename(self.directory / "..data")
        for name in ("token", "ca.crt"):
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"..data/{name}")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def root_of(authority: trustme.CA) -> bytes:
    return authority.cert_pem.bytes()


@pytest.fixture
def account(tmp_path: Path, authority: trustme.CA) -> Account:
    made = Account(tmp_path / "serviceaccount")
    made.write("..1", token="old", root=root_of(authority))
    return made


@asynccontextmanager
async def in_a_pod(
    monkeypatch: pytest.MonkeyPatch, server: KubeServer, account: Account
) -> AsyncIterator[KubeApi]:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    load = configuration_from(kubeconfig="", context="", server="", account=account.directory)
    api = KubeApi(load)
    try:
        yield api
    finally:
        await api.close()


@asynccontextmanager
async def serving(authority: trustme.CA, token: str, *, port: int = 0) -> AsyncIterator[KubeServer]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with KubeServer(FakeCluster(), tls=tls, tokens={token: "us"}, port=port) as server:
        yield server


async def test_a_rotated_token_is_read_again(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, account: Account
) -> None:
    async with serving(authority, "old") as server, in_a_pod(monkeypatch, server, account) as api:
        await api.get(VOLUMES)
        server.access.tokens = {"new": "us"}
        with pytest.raises(Unreachable, match="Unauthorized"):
            await api.get(VOLUMES)
        account.write("..2", token="new\n", root=root_of(authority))
        server.log.clear()

        listed = await api.get(VOLUMES)

    assert listed["kind"] == "PersistentVolumeList"
    assert [request.status for request in server.log.latest] == [401, 200]


async def test_a_rejected_watch_is_opened_with_the_new_token(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, account: Account
) -> None:
    async with serving(authority, "old") as server, in_a_pod(monkeypatch, server, account) as api:
        async with api.watch(VOLUMES, {}):
            assert server.open_watches == 1
        server.access.tokens = {"new": "us"}
        account.write("..2", token="new", root=root_of(authority))
        with pytest.raises(Unreachable):
            async with api.watch(VOLUMES, {}):
                pass

        async with api.watch(VOLUMES, {}):
            assert server.open_watches == 1


async def test_service_account_files_missing_for_a_moment_are_read_again(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, account: Account
) -> None:
    async with serving(authority, "old") as server, in_a_pod(monkeypatch, server, account) as api:
        await api.get(VOLUMES)
        server.access.tokens = {"new": "us"}
        (account.directory / "..data").unlink()
        with pytest.raises(Unreachable):
            await api.get(VOLUMES)
        account.write("..2", token="new", root=root_of(authority))

        assert (await api.get(VOLUMES))["kind"] == "PersistentVolumeList"


async def test_a_rotated_ca_is_read_again(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, account: Account
) -> None:
    """The API server's own certificate is of another authority after a restart."""
    other = trustme.CA()
    async with serving(authority, "old") as server, in_a_pod(monkeypatch, server, account) as api:
        await api.get(VOLUMES)
        await server.stop()
        async with serving(other, "old", port=server.port):
            with pytest.raises(Unreachable, match="certificate"):
                await api.get(VOLUMES)
            account.write("..2", token="old", root=root_of(other))
            with pytest.raises(Unreachable):
                await api.get(VOLUMES)

            assert (await api.get(VOLUMES))["kind"] == "PersistentVolumeList"
