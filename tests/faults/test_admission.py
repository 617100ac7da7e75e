"""Replacements that can't succeed: what is refused before is left alone, what is refused after a
deletion is reported loudly, holds up all others, and is made good as soon as it is allowed.
"""

from typing import Any

import pytest

from tests.faults.policies import CREATION, DELETION, MARKING, Refused, allow_all, refuse, refusing
from tests.figures import Figures
from tests.testbed.clusters import until
from tests.testbed.manifests import preserved
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Asked, Before
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

PV = "/api/v1/persistentvolumes/pvc-1"
LONG_REAL = pytest.param("real", marks=[pytest.mark.real, pytest.mark.long])
OFTEN = ("--leader-election=true", "--reconcile-rate=1s")


async def warnings(testbed: Testbed, reason: str) -> list[tuple[str, str, str]]:
    """Kind and name of what each Event of a reason is about, and its text."""
    listed = await testbed.cluster.ask("GET", "/apis/events.k8s.io/v1/events")
    return sorted(
        (item["regarding"]["kind"], item["regarding"]["name"], item["note"])
        for item in listed["items"]
        if item["reason"] == reason and item["type"] == "Warning"
    )


async def forget_events(testbed: Testbed) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    for item in (await testbed.cluster.ask("GET", path))["items"]:
        await testbed.cluster.ask("DELETE", f"{path}/{item['metadata']['name']}")


async def full_reconciles(service: Service, number: int) -> None:
    name = "linstor_affinity_full_reconcile_seconds_count"
    wanted = await service.metric(name) + number

    async def reconciled() -> bool:
        return await service.metric(name) >= wanted

    await until(reconciled, f"there are {number} more full passes")


@pytest.mark.parametrize("testbed", ["fake", LONG_REAL], indirect=True)
@pytest.mark.parametrize("refused", [MARKING, CREATION, DELETION], ids=lambda each: each.operation)
async def test_a_volume_rejected_by_the_dry_run_is_unchanged_and_reported_once(
    proxied: ProxiedTestbed, figures: Figures, refused: Refused
) -> None:
    await see_left_untouched(proxied, figures, refused)


async def test_of_several_rejections_one_is_reported(
    proxied: ProxiedTestbed, figures: Figures
) -> None:
    await see_left_untouched(proxied, figures, DELETION, CREATION, MARKING)


async def see_left_untouched(proxied: ProxiedTestbed, figures: Figures, *refused: Refused) -> None:
    testbed = proxied.testbed
    await forget_events(testbed)
    await testbed.add("pvc-1", ["n1"])
    before = await testbed.cluster.ask("GET", PV)
    async with running(proxied.service(*OFTEN)) as service:
        async with refusing(proxied, *refused):
            testbed.world.move("pvc-1", "n1", "n2")
            await service.until_said("volume not updated")
            await full_reconciles(service, 3)

            assert await testbed.cluster.ask("GET", PV) == before
            assert await testbed.entries() == []
            reported = await warnings(testbed, "VolumeAffinityNotUpdated")
            assert [(kind, name) for kind, name, _ in reported] == [
                ("PersistentVolume", "pvc-1"),
                ("PersistentVolumeClaim", "claim-pvc-1"),
            ]
            assert all("may" in why and "for now" in why for _, _, why in reported)
            assert service.said().count("volume not updated") == 1
            _, metrics = await service.ask("/metrics")
            assert '_decisions_total{decision="refused",reason="rejected-by-kubernetes"}' in metrics

        await testbed.until_on("pvc-1", "n2")
        await service.until_said("volume affinity updated")
    assert preserved(await testbed.cluster.ask("GET", PV)) == preserved(before)
    assert testbed.observer.lost == []
    figures.count(f"refusals lived with, {'real' if testbed.cluster.is_real else 'fake'}")


async def test_a_rejected_creation_is_reported_and_blocks_other_replacements(
    proxied: ProxiedTestbed, figures: Figures
) -> None:
    testbed = proxied.testbed
    await forget_events(testbed)
    for name in ("pvc-1", "pvc-2"):
        await testbed.add(name, ["n1"])
    before = preserved(await testbed.cluster.ask("GET", PV))
    waiting = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-2")

    async def from_now_on(_: Asked) -> None:
        await refuse(proxied, CREATION)

    proxied.kubernetes.on("delete persistentvolumes", Before(from_now_on))
    async with running(proxied.service(*OFTEN)) as service:
        try:
            testbed.world.move("pvc-1", "n1", "n2")
            await service.until_said(
                "PersistentVolume is missing: it was deleted to change its node affinity"
            )
            testbed.world.move("pvc-2", "n1", "n3")
            await service.until_said("blocked-by-failed-creation")
            await full_reconciles(service, 3)

            assert await testbed.cluster.find(PV) is None
            assert len(await testbed.entries()) == 1
            assert await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-2") == waiting
            assert await service.metric("linstor_affinity_volumes_stuck") == 1
            assert await service.metric("linstor_affinity_volumes_absent") == 1
            reported = await warnings(testbed, "VolumeRecreationFailing")
            assert [(kind, name) for kind, name, _ in reported] == [
                ("PersistentVolume", "pvc-1"),
                ("PersistentVolumeClaim", "claim-pvc-1"),
            ]
            assert all(CREATION.why in why for _, _, why in reported)
            assert (
                service.said().count(
                    "PersistentVolume is missing: it was deleted to change its node affinity"
                )
                == 1
            )
        finally:
            await allow_all(proxied)

        await testbed.until_on("pvc-1", "n2")
        await testbed.until_on("pvc-2", "n3")
        await testbed.until_bound("pvc-1")
        await service.until_said("missing PersistentVolume is recreated")

        async def clear() -> bool:
            stuck = await service.metric("linstor_affinity_volumes_stuck")
            return not stuck and not await testbed.entries()

        await until(clear, "nothing is stuck and no note is left")
    assert preserved(await testbed.cluster.ask("GET", PV)) == before
    assert testbed.observer.lost == []
    figures.count(f"refusals lived with, {'real' if testbed.cluster.is_real else 'fake'}")
