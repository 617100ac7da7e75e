"""Tokens that rotate and certificates that expire, on either side, while volumes move."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.fakes.kube_server import KubeServer
from tests.fakes.linstor_server import PROMOTION, LinstorServer
from tests.faults.certificates import KeyPair
from tests.faults.fleet import MakeFleet
from tests.testbed.clusters import Cluster, until
from tests.testbed.fixtures import MakeService
from tests.testbed.proxy import Proxy, kubernetes_terms
from tests.testbed.service import Service
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

ELECTED = "--leader-election=true"
LONG_REAL = pytest.param("real", marks=[pytest.mark.real, pytest.mark.long])
FEW_FULL_RECONCILES = "--reconcile-rate=10m"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
NAME = "rotating"
EMPTY = "token file may be empty"

Rotate = Callable[[], Awaitable[str]]
"""Returns a token; all that were given out before are good for nothing from then on."""


@asynccontextmanager
async def tokens_of(cluster: Cluster) -> AsyncIterator[tuple[Proxy, Rotate]]:
    """The way to an API server that wants a token of one account, which may do everything."""
    open_one = real_tokens if cluster.is_real else fake_tokens
    async with (
        open_one(cluster) as (url, rotate),
        Proxy(url, kubernetes_terms, tls=cluster.tls) as proxy,
    ):
        yield proxy, rotate


@asynccontextmanager
async def fake_tokens(cluster: Cluster) -> AsyncIterator[tuple[str, Rotate]]:
    assert cluster.server is not None
    numbers = count(1)
    async with KubeServer(cluster.server.cluster, tokens={}) as server:

        async def rotate() -> str:
            token = f"a-token-for-a-while-{next(numbers)}"
            server.access.tokens = {token: "us"}
            return token

        yield server.url, rotate


@asynccontextmanager
async def real_tokens(cluster: Cluster) -> AsyncIterator[tuple[str, Rotate]]:
    """Tokens of an account that was recreated are those of somebody else."""
    ask = cluster.ask
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": "default"}
    bound = {"metadata": {"name": NAME}, "roleRef": role, "subjects": [subject]}

    async def rotate() -> str:
        await ask("DELETE", f"{ACCOUNTS}/{NAME}")
        await ask("POST", ACCOUNTS, {"metadata": {"name": NAME}})
        wish = {"spec": {"expirationSeconds": 3600}}
        response = await ask("POST", f"{ACCOUNTS}/{NAME}/token", wish)
        return str(response["status"]["token"])

    await ask("POST", ACCOUNTS, {"metadata": {"name": NAME}})
    await ask("POST", BINDINGS, bound)
    try:
        yield cluster.url, rotate
    finally:
        await ask("DELETE", f"{BINDINGS}/{NAME}")
        await ask("DELETE", f"{ACCOUNTS}/{NAME}")


def kubeconfig(path: Path, url: str, user: Json, **cluster: str) -> Path:
    named = {"name": "it"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{**named, "cluster": {"server": url, **cluster}}],
        "users": [{**named, "user": user}],
        "contexts": [{**named, "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("testbed", ["fake", LONG_REAL], indirect=True)
async def test_a_rotated_token(
    testbed: Testbed, service_on: MakeService, fleet: MakeFleet, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    async with tokens_of(testbed.cluster) as (proxy, rotate):
        file.write_text(await rotate())
        config = kubeconfig(tmp_path / "config", proxy.url, {"tokenFile": str(file)})
        service = service_on(testbed, ELECTED, FEW_FULL_RECONCILES, KUBECONFIG=str(config))
        async with fleet(testbed, service) as moving:
            for _ in range(2):
                proxy.record.forget()
                token = await rotate()
                proxy.drop_connections()
                moving.move_during()
                await until(lambda: rejected(proxy), "the old token is turned away")
                empty = after_empty_file(service)
                file.write_text("")
                await until(empty, "no token was in the file")
                file.write_text(token)
                await until(lambda: watched(proxy), "the watch is open with the new token")
        assert token not in service.said()


def after_empty_file(service: Service) -> Callable[[], Awaitable[bool]]:
    """Whether the service has logged an empty token file once more since this call."""
    count_before = service.said().count(EMPTY)

    async def logged() -> bool:
        return service.said().count(EMPTY) > count_before

    return logged


async def rejected(proxy: Proxy) -> bool:
    return any(asked.status == 401 for asked in proxy.record)


async def watched(proxy: Proxy) -> bool:
    begun = [each for each in proxy.record if each.label == "watch persistentvolumes"]
    return any(each.status == 200 for each in begun)


def wants_certificates(authority: trustme.CA, server: trustme.CA) -> ssl.SSLContext:
    """For a server that talks to nobody without a certificate of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.issue_cert("127.0.0.1").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    return context


async def test_a_client_certificate_for_linstor_that_is_renewed_too_late(
    fake_testbed: Testbed, service_on: MakeService, fleet: MakeFleet, tmp_path: Path
) -> None:
    """First the one on disk is old, and then the authority is another one."""
    testbed, servers = fake_testbed, trustme.CA()
    old, new = trustme.CA(), trustme.CA()
    root, pair = tmp_path / "ca.crt", KeyPair.within(tmp_path)
    servers.cert_pem.write_to_path(root)
    pair.renew(old)
    given = {
        "LS_ROOT_CA_FILE": str(root),
        "LS_USER_CERTIFICATE_FILE": str(pair.certificate),
        "LS_USER_KEY_FILE": str(pair.key),
    }
    async with LinstorServer(testbed.world, ssl_context=wants_certificates(old, servers)) as first:
        service = service_on(testbed, ELECTED, FEW_FULL_RECONCILES, linstor=first.url, **given)
        async with fleet(testbed, service) as moving:
            pair.renew(old, expired=True)
            first.drop_connections()
            moving.move_during()
            await service.until_said("rejected the client certificate")
            pair.renew(old)
            await first.subscribed(PROMOTION)

            await service.until_ready()
            reported = service.said().count("rejected the client certificate")
            port = first.port
            await first.stop()
            trusts_new = wants_certificates(new, servers)
            async with LinstorServer(testbed.world, port=port, ssl_context=trusts_new) as second:
                moving.move_during()
                await service.until_said("rejected the client certificate", times=reported + 1)
                pair.renew(new)
                await second.subscribed(PROMOTION)
                moving.move_after()
                await moving.see_right()
            await first.start()
            pair.renew(old)


@asynccontextmanager
async def certified(testbed: Testbed) -> AsyncIterator[tuple[str, trustme.CA, trustme.CA]]:
    """An API server that wants certificates; their authority, and its own."""
    cluster = testbed.cluster
    if cluster.real is not None:
        yield cluster.url, cluster.real.authority, cluster.real.authority
        return
    assert cluster.server is not None
    clients, servers = trustme.CA(), trustme.CA()
    tls = wants_certificates(clients, servers)
    async with KubeServer(cluster.server.cluster, tls=tls) as server:
        yield server.url, clients, servers


@pytest.mark.long
async def test_a_client_certificate_for_kubernetes_that_is_renewed_too_late(
    testbed: Testbed, service_on: MakeService, fleet: MakeFleet, tmp_path: Path
) -> None:
    """The real API server responds 401, others break the connection off."""
    async with certified(testbed) as (url, clients, servers):
        root, pair = tmp_path / "ca.crt", KeyPair.within(tmp_path)
        servers.cert_pem.write_to_path(root)
        pair.renew(clients, expired=True)
        user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        config = kubeconfig(tmp_path / "config", url, user, **{"certificate-authority": str(root)})
        service = service_on(testbed, ELECTED, FEW_FULL_RECONCILES, KUBECONFIG=str(config))
        await testbed.add("pvc-0", ["n1"])
        testbed.world.move("pvc-0", "n1", "n2")
        await service.start()
        try:
            why = "Unauthorized" if testbed.cluster.is_real else "rejected the client certificate"
            await service.until_said(why)
            pair.renew(clients)
            await service.until_ready()
            await testbed.until_on("pvc-0", "n2")
            assert await service.stop() == 0
        finally:
            await service.kill()
