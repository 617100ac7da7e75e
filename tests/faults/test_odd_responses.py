"""Responses that no API server gives: a proxy or gateway responds in its place."""

from collections import Counter

import pytest

from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Asked, Respond
from tests.testbed.service import running

STATUS = b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure"}'
UNNAMED = b'{"kind":"PersistentVolume","metadata":null,"spec":null}'
ITEMS = b'{"kind":"List","items":[null,{}],"metadata":{"resourceVersion":"1"}}'
RESPONSES = [(200, b"{}"), (200, STATUS), (200, UNNAMED), (200, ITEMS), (404, b"<html>")]


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
@pytest.mark.parametrize(("status", "body"), RESPONSES, ids=str)
async def test_odd_responses_are_errors_and_the_volume_is_changed_all_the_same(
    proxied: ProxiedTestbed, status: int, body: bytes
) -> None:
    testbed, met = proxied.testbed, Counter[str]()
    testbed.place("pvc-1", ["n1"])
    await testbed.bind("pvc-1", manifests.on_nodes(["n3"]))
    await testbed.until_bound("pvc-1")

    def odd(asked: Asked) -> bool:
        """The first request of each kind, and the third: that one is another attempt."""
        met[asked.label] += 1
        return met[asked.label] in {1, 3}

    async with running(proxied.service("--reconcile-rate=2s")) as service:
        proxied.kubernetes.on(odd, Respond(status, body), times=None)
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2", within=90.0)
        await testbed.until_nothing_is_unfinished()

        async def none_absent() -> bool:
            return await service.metric("linstor_affinity_volumes_absent") == 0

        await until(none_absent, "the service knows that no volume is absent")
        assert "unexpected error" not in service.said()
        assert "Traceback" not in service.said()
    assert {"patch persistentvolumes", "create persistentvolumes"} <= met.keys()
