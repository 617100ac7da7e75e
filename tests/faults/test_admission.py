"""Replacements that can't succeed: what is refused before is left alone, what is refused after a
deletion is told loudly, holds up all others, and is made good as soon as it is allowed.
"""

from typing import Any

import pytest

from tests.faults.policies import CREATION, DELETION, MARKING, Refused, allow_all, refuse, refusing
from tests.figures import Figures
from tests.stage.clusters import until
from tests.stage.manifests import kept
from tests.stage.proxied import ProxiedStage
from tests.stage.proxy import Asked, Before
from tests.stage.service import Service, running
from tests.stage.stage import Stage

Json = dict[str, Any]

PV = "/api/v1/persistentvolumes/pvc-1"
LONG_REAL = pytest.param("real", marks=[pytest.mark.real, pytest.mark.long])
OFTEN = ("--leader-election=true", "--reconcile-rate=1s")


async def warnings(stage: Stage, reason: str) -> list[tuple[str, str, str]]:
    """Kind and name of what each Event of a reason is about, and its text."""
    listed = await stage.cluster.ask("GET", "/apis/events.k8s.io/v1/events")
    return sorted(
        (item["regarding"]["kind"], item["regarding"]["name"], item["note"])
        for item in listed["items"]
        if item["reason"] == reason and item["type"] == "Warning"
    )


async def forget_events(stage: Stage) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    for item in (await stage.cluster.ask("GET", path))["items"]:
        await stage.cluster.ask("DELETE", f"{path}/{item['metadata']['name']}")


async def full_reconciles(service: Service, number: int) -> None:
    name = "linstor_affinity_full_reconcile_seconds_count"
    wanted = await service.metric(name) + number

    async def passed() -> bool:
        return await service.metric(name) >= wanted

    await until(passed, f"there are {number} more full passes")


@pytest.mark.parametrize("stage", ["fake", LONG_REAL], indirect=True)
@pytest.mark.parametrize("refused", [MARKING, CREATION, DELETION], ids=lambda each: each.operation)
async def test_a_volume_rejected_by_the_dry_run_is_unchanged_and_reported_once(
    proxied: ProxiedStage, figures: Figures, refused: Refused
) -> None:
    await see_left_untouched(proxied, figures, refused)


async def test_of_several_rejections_one_is_reported(
    proxied: ProxiedStage, figures: Figures
) -> None:
    await see_left_untouched(proxied, figures, DELETION, CREATION, MARKING)


async def see_left_untouched(proxied: ProxiedStage, figures: Figures, *refused: Refused) -> None:
    stage = proxied.stage
    await forget_events(stage)
    await stage.add("pvc-1", ["n1"])
    before = await stage.cluster.ask("GET", PV)
    async with running(proxied.service(*OFTEN)) as service:
        async with refusing(proxied, *refused):
            stage.world.move("pvc-1", "n1", "n2")
            await service.until_said("volume not updated")
            await full_reconciles(service, 3)

            assert await stage.cluster.ask("GET", PV) == before
            assert await stage.entries() == []
            told = await warnings(stage, "VolumeAffinityNotUpdated")
            assert [(kind, name) for kind, name, _ in told] == [
                ("PersistentVolume", "pvc-1"),
                ("PersistentVolumeClaim", "claim-pvc-1"),
            ]
            assert all("may" in why and "for now" in why for _, _, why in told)
            assert service.said().count("volume not updated") == 1
            _, metrics = await service.ask("/metrics")
            assert '_decisions_total{decision="refused",reason="rejected-by-kubernetes"}' in metrics

        await stage.until_on("pvc-1", "n2")
        await service.until_said("volume affinity updated")
    assert kept(await stage.cluster.ask("GET", PV)) == kept(before)
    assert stage.observer.lost == []
    figures.count(f"refusals lived with, {'real' if stage.cluster.is_real else 'pretended'}")


async def test_a_rejected_creation_is_reported_and_blocks_other_replacements(
    proxied: ProxiedStage, figures: Figures
) -> None:
    stage = proxied.stage
    await forget_events(stage)
    for name in ("pvc-1", "pvc-2"):
        await stage.add(name, ["n1"])
    before = kept(await stage.cluster.ask("GET", PV))
    waiting = await stage.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-2")

    async def from_now_on(_: Asked) -> None:
        await refuse(proxied, CREATION)

    proxied.kubernetes.on("delete persistentvolumes", Before(from_now_on))
    async with running(proxied.service(*OFTEN)) as service:
        try:
            stage.world.move("pvc-1", "n1", "n2")
            await service.until_said(
                "PersistentVolume is missing: it was deleted to change its node affinity"
            )
            stage.world.move("pvc-2", "n1", "n3")
            await service.until_said("blocked-by-failed-creation")
            await full_reconciles(service, 3)

            assert await stage.cluster.find(PV) is None
            assert len(await stage.entries()) == 1
            assert await stage.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-2") == waiting
            assert await service.metric("linstor_affinity_volumes_stuck") == 1
            assert await service.metric("linstor_affinity_volumes_absent") == 1
            told = await warnings(stage, "VolumeRecreationFailing")
            assert [(kind, name) for kind, name, _ in told] == [
                ("PersistentVolume", "pvc-1"),
                ("PersistentVolumeClaim", "claim-pvc-1"),
            ]
            assert all(CREATION.why in why for _, _, why in told)
            assert (
                service.said().count(
                    "PersistentVolume is missing: it was deleted to change its node affinity"
                )
                == 1
            )
        finally:
            await allow_all(proxied)

        await stage.until_on("pvc-1", "n2")
        await stage.until_on("pvc-2", "n3")
        await stage.until_bound("pvc-1")
        await service.until_said("volume is recreated at last")

        async def clear() -> bool:
            stuck = await service.metric("linstor_affinity_volumes_stuck")
            return not stuck and not await stage.entries()

        await until(clear, "nothing is stuck and no note is left")
    assert kept(await stage.cluster.ask("GET", PV)) == before
    assert stage.observer.lost == []
    figures.count(f"refusals lived with, {'real' if stage.cluster.is_real else 'pretended'}")
