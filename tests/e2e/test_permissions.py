"""The service asks for what docs/permissions.md says, for all of it and for nothing else."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from linstor_affinity_events.app.permissions import PERMISSIONS, Scope
from linstor_affinity_events.engine.claim_guard import BEHIND_AFTER
from linstor_affinity_events.model.manifest import tombstone_for
from tests.testbed.clusters import ApiError, until
from tests.testbed.permissions import OWN as OWN_NAMESPACE
from tests.testbed.permissions import asked_for, documented, rbac_objects
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import After, Asked, Respond
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

OWN, ACCOUNT = "affinity-events", "affinity-events"
FLAGS = ("--leader-election=true", f"--lease-lock-namespace={OWN}")
REFUSED = json.dumps({"kind": "Status", "code": 403, "message": "not today"}).encode()
NO_STREAMED_LISTS = json.dumps({"kind": "Status", "code": 422, "reason": "Invalid"}).encode()


@pytest_asyncio.fixture
async def kubeconfig(proxied: ProxiedTestbed) -> AsyncIterator[Path]:
    """Signs in with what the page allows and no more, where there is somebody who checks that."""
    cluster = proxied.testbed.cluster
    await _make(proxied.testbed, "/api/v1/namespaces", {"metadata": {"name": OWN}})
    if cluster.real is None:
        yield proxied.kubeconfig
        return
    accounts = f"/api/v1/namespaces/{OWN}/serviceaccounts"
    await _make(proxied.testbed, accounts, {"metadata": {"name": ACCOUNT}})
    for path, body in rbac_objects(documented(), ACCOUNT, OWN).items():
        await _make(proxied.testbed, path, body)
    response = await cluster.ask("POST", f"{accounts}/{ACCOUNT}/token", {"spec": {}})
    token: str = response["status"]["token"]

    async def known() -> bool:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{OWN}/leases/none"
        headers = {"Authorization": f"Bearer {token}"}
        async with cluster.session.get(path, headers=headers) as response:
            return response.status == 404

    await until(known, "the account's permissions are in force")
    yield proxied.kubernetes.write_kubeconfig(proxied.directory / "account", token=token)


async def _make(testbed: Testbed, path: str, body: dict[str, object]) -> None:
    try:
        await testbed.cluster.ask("POST", path, body)
    except ApiError as error:
        if error.status != 409:
            raise


def test_documented_permissions_are_those_of_check_and_chart() -> None:
    documents = {
        (each.group, each.resource, each.where != OWN_NAMESPACE, each.verb) for each in documented()
    }

    assert documents == {
        (each.group, each.resource, each.scope is Scope.CLUSTER, verb)
        for each in PERMISSIONS
        for verb in each.verbs
    }


async def test_the_documented_permissions_are_exactly_the_used_ones(
    proxied: ProxiedTestbed, kubeconfig: Path
) -> None:
    testbed = proxied.testbed
    requests: list[Asked] = []

    def service(name: str) -> Service:
        identity = f"--leader-election-id={name}"
        return proxied.service(*FLAGS, identity, kubeconfig=kubeconfig)

    # A replacement cut off, and with it a lease that is taken and never given back.
    await testbed.add("pvc-1", ["n1"])
    first = service("first")

    async def kill(asked: Asked) -> None:
        await first.kill()

    cut = proxied.on("delete persistentvolumes", After(kill))
    async with running(first):
        testbed.world.move("pvc-1", "n1", "n2")
        await cut.struck.wait()
        await first.ended()
    await testbed.cluster.ask("DELETE", _lease())

    # Brought to its end by another, who then replaces, is refused a deletion, and takes it back.
    async with running(service("second")) as second:
        await testbed.until_on("pvc-1", "n2")
        testbed.world.move("pvc-1", "n2", "n3")
        await testbed.until_on("pvc-1", "n3")
        await second.until_said("volume affinity updated")
        for _ in range(3):
            # A resync that comes in between makes the claim Lost, and nothing is written for that.
            await _move_beside_busy_binder(testbed, "pvc-1", "n3", "n2")
            testbed.world.move("pvc-1", "n2", "n3")
            await testbed.until_on("pvc-1", "n3")
            await testbed.until_bound("pvc-1")
            if any(asked.terms.subresource == "status" for asked in proxied.record):
                break
        proxied.on("delete persistentvolumes", Respond(403, REFUSED))
        testbed.world.move("pvc-1", "n3", "n4")
        await second.until_said("Kubernetes rejected its replacement")
        assert await second.stop() == 0

    # On an API server that gives lists in pages only.
    requests += proxied.record
    proxied.forget()
    for stream in ("watch persistentvolumes", "watch storageclasses.storage.k8s.io"):
        proxied.on(stream, Respond(422, NO_STREAMED_LISTS))
    async with running(service("third")) as third:
        assert await third.stop() == 0
    requests += proxied.record

    assert asked_for(requests, own=OWN) == documented()
    refused = [str(asked) for asked in requests if asked.status in {401, 403}]
    assert [each for each in refused if not re.match("delete persistentvolumes:", each)] == []


async def _move_beside_busy_binder(testbed: Testbed, name: str, here: str, there: str) -> None:
    """Keep the binder from its work for as long as one with a backlog takes. A volume that is not
    Bound yet would not be replaced without it.
    """
    await testbed.until_bound(name)
    await testbed.until_nothing_is_unfinished()
    await testbed.cluster.stop_binder()
    testbed.world.move(name, here, there)
    uid = testbed.observer.volumes[name]["metadata"]["uid"]

    def detached() -> bool:
        claim_ref = testbed.observer.volumes[name]["spec"]["claimRef"]
        return bool(claim_ref["name"] == tombstone_for(uid))

    await testbed.observer.until(detached, "the claimRef is detached")
    await asyncio.sleep(BEHIND_AFTER)
    await testbed.cluster.start_binder()
    await testbed.until_on(name, there)
    await testbed.until_nothing_is_unfinished()


def _lease() -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{OWN}/leases/linstor-affinity-events"
