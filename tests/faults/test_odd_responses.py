"""Responses that no API server gives: a proxy or gateway responds in its place."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Asked, Respond
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

STATUS = b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure"}'
UNNAMED = b'{"kind":"PersistentVolume","metadata":null,"spec":null}'
ITEMS = b'{"kind":"List","items":[null,{}],"metadata":{"resourceVersion":"1"}}'
KUBERNETES = [(200, b"{}"), (200, STATUS), (200, UNNAMED), (200, ITEMS), (404, b"<html>")]


LINSTOR = [
    (200, b"{}"),
    (200, b"[null]"),
    (200, b"[{}]"),
    (200, b"1"),
    (404, b"[]"),
    (500, b"[{}]"),
]


@dataclass
class Odd:
    """Responds to the first request of each kind, and to the third: that is another attempt."""

    met: Counter[str] = field(default_factory=Counter)

    def __call__(self, asked: Asked) -> bool:
        self.met[asked.label] += 1
        return self.met[asked.label] in {1, 3}


async def place_wrongly(testbed: Testbed) -> None:
    testbed.place("pvc-1", ["n1"])
    await testbed.bind("pvc-1", manifests.on_nodes(["n3"]))
    await testbed.until_bound("pvc-1")


async def see_it_changed(testbed: Testbed, service: Service) -> None:
    await testbed.until_on("pvc-1", "n2", within=90.0)
    await testbed.until_nothing_is_unfinished()

    async def none_absent() -> bool:
        return await service.metric("linstor_affinity_volumes_absent") == 0

    await until(none_absent, "the service knows that no volume is absent")
    assert "unexpected error" not in service.said()
    assert "Traceback" not in service.said()


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
@pytest.mark.parametrize(
    ("peer", "status", "body"),
    [
        *(pytest.param("kubernetes", *each, id=f"kubernetes-{each}") for each in KUBERNETES),
        *(pytest.param("linstor", *each, id=f"linstor-{each}") for each in LINSTOR),
    ],
)
async def test_odd_responses_are_errors_and_the_volume_is_changed_all_the_same(
    proxied: ProxiedTestbed, peer: str, status: int, body: bytes
) -> None:
    odd = Odd()
    await place_wrongly(proxied.testbed)
    proxy = proxied.kubernetes if peer == "kubernetes" else proxied.linstor

    async with running(proxied.service("--reconcile-rate=2s")) as service:
        proxy.on(odd, Respond(status, body), times=None)
        proxied.testbed.world.move("pvc-1", "n1", "n2")
        await see_it_changed(proxied.testbed, service)

    writes = {"patch persistentvolumes", "create persistentvolumes"}
    assert writes <= odd.met.keys() if peer == "kubernetes" else len(odd.met) > 1
