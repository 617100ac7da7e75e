"""Finishes off volumes whose claims are gone: the provisioner, and an admin for what it leaves."""

import asyncio
from typing import Any

from benchmarks.soak.oracle import VOLUMES, Oracle, Owned
from benchmarks.soak.requests import surely
from linstor_affinity_events.model.keys import ORIGINAL_POLICY_ANNOTATION
from tests.fakes.linstor_server.objects import folded
from tests.fakes.sidecars import decisions
from tests.testbed import manifests

Json = dict[str, Any]

ENTRIES = "/api/v1/namespaces/default/configmaps/affinity-journal"
"""With an entry a volume that is away is recreated, however long that takes during chaos."""

PACE = 0.5
ABSENT_FOR = 3
"""Reads in a row: a volume that is being replaced is absent only for a moment."""


class Reclaimer:
    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._absent: dict[str, int] = {}
        self._removing: set[str] = set()
        """Incarnations that were deleted from here; letting go of one may meet a conflict."""
        self.retained = 0
        """Volumes that came back with policy Retain, since their claim went in mid-replacement."""

    async def run(self) -> None:
        while True:
            for owned in tuple(self._oracle.going.values()):
                await self._read(owned)
            await asyncio.sleep(PACE)

    async def _read(self, owned: Owned) -> None:
        cluster, world = self._oracle.testbed.cluster, self._oracle.testbed.world
        volume = await surely(cluster, "GET", f"{VOLUMES}/{owned.name}", fine={404})
        claim = await surely(cluster, "GET", f"{manifests.CLAIMS}/{owned.claim}", fine={404})
        entry = await surely(cluster, "GET", f"{ENTRIES}-{owned.name}", fine={404})
        if volume is None and claim is None and entry is None:
            self._absent[owned.name] = self._absent.get(owned.name, 0) + 1
            if self._absent[owned.name] >= ABSENT_FOR:
                if folded(owned.name) in world.definitions:
                    world.delete_definition(owned.name)
                del self._absent[owned.name], self._oracle.going[owned.name]
                self._oracle.gone.add(owned.name)
            return
        self._absent.pop(owned.name, None)
        if volume is None or claim is not None:
            return
        if volume["metadata"]["uid"] in self._removing:
            await self._remove(volume)
        elif decisions.reclaims(volume):
            if folded(owned.name) in world.definitions:
                world.delete_definition(owned.name)
            await self._remove(volume)
        elif self._is_left_to_the_admin(owned, volume):
            self.retained += owned.policy == "Delete"
            await self._remove(volume)

    def _is_left_to_the_admin(self, owned: Owned, volume: Json) -> bool:
        annotations = volume["metadata"].get("annotations") or {}
        preserved = owned.policy == "Retain" or ORIGINAL_POLICY_ANNOTATION in annotations
        idle = (volume.get("status") or {}).get("phase") in {"Released", "Available", "Failed"}
        return preserved and idle and "deletionTimestamp" not in volume["metadata"]

    async def _remove(self, volume: Json) -> None:
        """Delete this very incarnation, and let go of it where the provisioner holds it."""
        cluster, metadata = self._oracle.testbed.cluster, volume["metadata"]
        own = f"{VOLUMES}/{metadata['name']}"
        self._removing.add(metadata["uid"])
        exactly = {"preconditions": {"uid": metadata["uid"]}}
        await surely(cluster, "DELETE", own, exactly, fine={404, 409})
        left = await surely(cluster, "GET", own, fine={404})
        if left is None or left["metadata"]["uid"] != metadata["uid"]:
            return
        has = left["metadata"].get("finalizers") or []
        if decisions.PROVISIONER in has:
            left["metadata"]["finalizers"] = [x for x in has if x != decisions.PROVISIONER]
            await surely(cluster, "PUT", own, left, fine={404, 409})
