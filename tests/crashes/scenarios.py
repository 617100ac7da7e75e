"""What the service is at when it is killed."""

import json
from abc import ABC, abstractmethod
from typing import Any

from tests.fakes.linstor_server.event_log import PROMOTION
from tests.testbed.manifests import on_nodes
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import After, Asked

Json = dict[str, Any]

VOLUMES = "/api/v1/persistentvolumes"
SAVED = "Aux/affinity-updater-saved-pv"
SKIP_RECLAIM = "linstor.csi.linbit.com/skip-reclaim"


class Scenario(ABC):
    """One volume on n1 in the volume's affinity, whose data is on n2 from `begin` on."""

    name: str
    from_start = False
    """Whether it begins with the start of the service, or with an event while it runs."""

    writes: tuple[str, ...]
    """What it has to write, by label and in its order; Events come beside it."""

    def __init__(self, proxied: ProxiedTestbed) -> None:
        self.proxied, self.testbed = proxied, proxied.testbed

    @abstractmethod
    async def prepare(self, volume: str) -> None:
        """Bring the volume, which is bound and right, to where the scenario begins."""

    @abstractmethod
    def begin(self, volume: str) -> None:
        """Let happen what the service is to act on, if that is not its start."""


class Moved(Scenario):
    """LINSTOR moves a replica, and sends one event."""

    async def prepare(self, volume: str) -> None:
        return

    def begin(self, volume: str) -> None:
        self.testbed.world.move_silently(volume, "n1", "n2")
        event = {"resource_name": volume, "node_name": "n2", "may_promote": True}
        self.testbed.world.event_log.emit(PROMOTION, [("may-promote-change", event)])


class Replacement(Moved):
    name = "replacement"
    writes = (
        "patch persistentvolumes",  # tried in place, and refused
        "create configmaps",
        "patch persistentvolumes",
        "update configmaps",
        "delete persistentvolumes",
        "patch persistentvolumes",
        "update persistentvolumes",
        "create persistentvolumes",
        "delete configmaps",
    )


class InPlace(Moved):
    """On a cluster that lets an affinity change."""

    name = "in place"
    writes = ("patch persistentvolumes",)


class FromStart(Scenario):
    from_start = True

    def begin(self, volume: str) -> None:
        return


class Resume(FromStart):
    """Another instance was killed right after its deletion took effect."""

    name = "resume"
    writes = (
        "patch persistentvolumes",
        "update persistentvolumes",
        "create persistentvolumes",
        "delete configmaps",
    )

    async def prepare(self, volume: str) -> None:
        self.testbed.world.move_silently(volume, "n1", "n2")
        service = self.proxied.service()

        async def kill(asked: Asked) -> None:
            await service.kill()

        rule = self.proxied.on("delete persistentvolumes", After(kill))
        await service.start()
        await rule.struck.wait()
        await service.ended()


class SavedPv(FromStart):
    """The reference controller stopped in the middle, its saved PV on LINSTOR."""

    async def prepare(self, volume: str) -> None:
        ask, path = self.testbed.cluster.ask, f"{VOLUMES}/{volume}"
        saved = await ask("GET", path)
        marks: Json = {
            "metadata": {"annotations": {SKIP_RECLAIM: "true"}},
            "spec": {"persistentVolumeReclaimPolicy": "Retain"},
        }
        # It writes the affinity that is wanted, and neither uid nor status.
        saved["spec"]["nodeAffinity"] = on_nodes(["n2"])
        preserved = ("name", "labels", "annotations", "finalizers")
        metadata = {k: v for k, v in saved["metadata"].items() if k in preserved}
        saved = {**saved, "metadata": metadata}
        del saved["status"]
        self.testbed.world.set_volume_prop(volume, 0, SAVED, json.dumps(saved))
        self.testbed.world.move_silently(volume, "n1", "n2")
        await ask("PATCH", path, marks)
        await ask("DELETE", path)


class SavedPvTerminating(SavedPv):
    name = "old note, volume terminating"
    writes = (
        "create configmaps",
        "patch persistentvolumes",
        "patch persistentvolumes",
        "update persistentvolumes",
        "create persistentvolumes",
        "delete configmaps",
        "linstor put resource-definitions/*/volume-definitions/0",
    )


class SavedPvAbsent(SavedPv):
    name = "old note, volume gone"
    writes = (
        "create configmaps",
        "create persistentvolumes",
        "delete configmaps",
        "linstor put resource-definitions/*/volume-definitions/0",
    )

    async def prepare(self, volume: str) -> None:
        await super().prepare(volume)
        ask, path = self.testbed.cluster.ask, f"{VOLUMES}/{volume}"
        # So that the claim is not Lost before it begins.
        await ask("PATCH", path, {"spec": {"claimRef": {"name": "of-nobody"}}})
        await self.testbed.observer.until(
            lambda: self.testbed.observer.volumes[volume]["status"]["phase"] != "Bound",
            "the binder has let go of the claim",
        )
        await ask("PATCH", path, {"metadata": {"finalizers": None}})


ON_ANY = (Replacement, Resume, SavedPvTerminating, SavedPvAbsent)
IN_EACH_RUN = (Replacement,)
"""The others take a minute each, and are left to `make test-long`."""
"""The scenarios of a cluster that keeps an affinity as it was first set."""
