"""Nothing from outside becomes the label of a metric: each name would be a series of its own."""

import json
import re

from linstor_affinity_events.model.decision import Reason
from tests.fakes.linstor_server import NODES, PROMOTION
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Respond
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

MARK = "hostile"
OVERRIDE = "override.piraeus.io"


async def scraped(service: Service) -> frozenset[str]:
    """Every series, without its value."""
    _, text = await service.ask("/metrics")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return frozenset(line.rpartition(" ")[0] for line in lines)


async def until_fully_reconciled(service: Service, times: int = 2) -> None:
    begun = await service.metric("linstor_affinity_full_reconcile_seconds_count")

    async def reconciled() -> bool:
        ended = await service.metric("linstor_affinity_full_reconcile_seconds_count")
        return ended >= begun + times

    await until(reconciled, "full passes have ended")


async def attack(proxied: ProxiedTestbed, service: Service, tag: str) -> None:
    """Names and texts that nobody used before, wherever the service reads some."""
    testbed: Testbed = proxied.testbed
    on_n1 = manifests.on_nodes(["n1"])
    for each in ("a", "b"):
        name = f"{MARK}-{tag}-{each}"
        testbed.place(name, ["n1"])
        await testbed.bind(name, on_n1, storage_class=f"{name}-class")
        await testbed.bind(f"{name}-odd", on_n1, handle=f'{name} {{x="y"}} handle')
        await testbed.bind(f"{name}-note", on_n1, handle=f"{name}-note")
        pv = f"/api/v1/persistentvolumes/{name}-note"
        annotations = {f"{OVERRIDE}/{name}": f"- {name}: [x]"}
        await testbed.cluster.ask("PATCH", pv, {"metadata": {"annotations": annotations}})
        for stream in (PROMOTION, NODES):
            reported = json.dumps({"resource_name": f"{name}-event", "node": name, name: name})
            testbed.linstor.send_raw(stream, f"event: {name}\ndata: {reported}\n\n".encode())
    error = json.dumps([{"ret_code": -1, "message": f"{MARK}-{tag}"}]).encode()
    rule = proxied.linstor.on("linstor get nodes", Respond(500, error))
    await rule.struck.wait()
    await until_fully_reconciled(service)


def _known_reason(found: re.Match[str]) -> str:
    return "KNOWN" if found[1] in set(Reason) else found[0]


async def test_hostile_names_create_no_time_series(proxied: ProxiedTestbed) -> None:
    await proxied.testbed.add("pvc-well", ["n1"])

    async with running(proxied.service("--reconcile-rate=1s")) as service:
        await attack(proxied, service, "first")
        first = await scraped(service)
        for tag in ("second", "third"):
            await attack(proxied, service, tag)
        second = await scraped(service)

    assert not [series for series in second if re.search(MARK, series, re.IGNORECASE)]
    # Which reasons come up depends on what is seen first; there are only so many.
    new = [re.sub('reason="([a-z-]+)"', _known_reason, series) for series in second - first]
    assert [series for series in new if "KNOWN" not in series] == []
    assert len(second) < 400
