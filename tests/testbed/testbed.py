"""The test bed: volumes that exist in both LINSTOR and Kubernetes, and operations on them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.fakes.linstor_server import LinstorServer, LinstorWorld, Timing
from tests.testbed import manifests
from tests.testbed.clusters import ApiError, Cluster, until
from tests.testbed.observer import Observer

Json = dict[str, Any]

AT_ONCE = 20
WRITES_UNUSED = 37
"""The minor version of Kubernetes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Testbed:
    """LINSTOR, Kubernetes and an observer of it."""

    __test__ = False  # Not a class of tests, whatever its name begins with.

    cluster: Cluster
    world: LinstorWorld
    linstor: LinstorServer
    observer: Observer

    @classmethod
    @asynccontextmanager
    async def of(
        cls, cluster: Cluster, *, timing: Timing | None = None
    ) -> AsyncIterator["Testbed"]:
        world = LinstorWorld(timing=timing)
        try:
            async with (
                LinstorServer(world, with_control=True) as linstor,
                Observer.of(cluster) as observer,
            ):
                yield cls(cluster=cluster, world=world, linstor=linstor, observer=observer)
        finally:
            world.close()

    async def prepare(self, *, nodes: int = 4, zones: int = 2) -> None:
        """Nodes n1, n2, ... spread over zones z1, z2, ..., and the classes."""
        for number in range(nodes):
            labels = {manifests.ZONE: f"z{number % zones + 1}"}
            self.world.add_node(f"n{number + 1}", labels=labels)
        for name, parameters in manifests.CLASSES.items():
            try:
                await self.cluster.ask(
                    "POST",
                    "/apis/storage.k8s.io/v1/storageclasses",
                    manifests.storage_class(name, parameters),
                )
            except ApiError as error:
                if error.status != 409:
                    raise

    def place(self, resource: str, nodes: Iterable[str], **definition: Any) -> None:
        """A resource definition with a diskful replica on each node, made without an event."""
        self.world.add_definition(resource, **definition)
        for node in nodes:
            self.world.place(resource, node)

    async def bind(
        self,
        name: str,
        node_affinity: Json | None,
        *,
        storage_class: str = manifests.LOCAL_CLASS,
        **volume: Any,
    ) -> None:
        """A claim and its volume, bound to each other by the binder a little later."""
        wish = manifests.claim(f"claim-{name}", storage_class=storage_class)
        if "volumeAttributesClassName" in volume:
            wish["spec"]["volumeAttributesClassName"] = volume["volumeAttributesClassName"]
        claim = await self.cluster.ask("POST", manifests.CLAIMS, wish)
        await self.cluster.ask(
            "POST",
            "/api/v1/persistentvolumes",
            manifests.volume(
                name,
                claim=claim,
                node_affinity=node_affinity,
                storage_class=storage_class,
                **volume,
            ),
        )

    async def have_checked(self, claim: str) -> None:
        """Change a claim, so that the PersistentVolume controller checks it, as it also does at
        each of its resyncs.
        """
        found = await self.cluster.ask("GET", f"{manifests.CLAIMS}/{claim}")
        changed = {"changed-since": found["metadata"]["resourceVersion"]}
        await self.cluster.ask(
            "PATCH", f"{manifests.CLAIMS}/{claim}", {"metadata": {"annotations": changed}}
        )

    async def add(self, name: str, nodes: Iterable[str], **volume: Any) -> None:
        """A volume on these nodes, and an affinity that says so."""
        on = tuple(nodes)
        self.place(name, on)
        await self.bind(name, manifests.on_nodes(on), **volume)
        await self.until_bound(name)

    async def add_many(self, names: Iterable[str], node: str) -> None:
        """Many volumes with one replica each, on one node."""
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> None:
            async with limit:
                self.place(name, [node])
                await self.bind(name, manifests.on_nodes([node]))

        wanted = tuple(names)
        async with asyncio.TaskGroup() as group:
            for name in wanted:
                group.create_task(one(name))
        for name in wanted:
            await self.until_bound(name, within=300.0)

    async def until_bound(self, name: str, *, within: float = 60.0) -> None:
        def bound() -> bool:
            claim = self.observer.claims.get(("default", f"claim-{name}"), {})
            phases = [self.observer.volumes.get(name, {}), claim]
            return all(each.get("status", {}).get("phase") == "Bound" for each in phases)

        await self.observer.until(bound, f"{name} is bound", within=within)

    async def until_claim_at_rest(self, name: str) -> None:
        """Wait until Kubernetes has written on a claim that no pod uses it, as it does from 1.37 on
        some time after it is bound: one that is written to while its volume is absent becomes Lost.
        """
        if not self.cluster.is_real:
            return
        version = await self.cluster.ask("GET", "/version")
        if int(version["minor"].rstrip("+")) < WRITES_UNUSED:
            return

        def reported() -> bool:
            claim = self.observer.claims.get(("default", f"claim-{name}"), {})
            conditions = claim.get("status", {}).get("conditions") or ()
            return any(each["type"] == "Unused" for each in conditions)

        await self.observer.until(reported, f"the claim of {name} is known to be unused")

    async def until_on(self, name: str, *nodes: str, within: float = 60.0) -> float:
        """Wait until the affinity of a volume admits these nodes; returns since when."""
        terms = [{manifests.HOSTNAME: node} for node in nodes]
        return await self.observer.until_terms(name, *terms, within=within)

    async def entries(self, namespace: str = "default") -> list[str]:
        """The names of entries of unfinished replacements."""
        listed = await self.cluster.ask("GET", f"/api/v1/namespaces/{namespace}/configmaps")
        names = [item["metadata"]["name"] for item in listed["items"]]
        return [name for name in names if name.startswith("affinity-journal-")]

    async def until_nothing_is_unfinished(self) -> None:
        async def done() -> bool:
            return not await self.entries()

        await until(done, "no note is left")

    def secrets(self) -> list[str]:
        """What the service learns or is given on this test bed, and must keep to itself."""
        known = [definition.secret for definition in self.world.definitions.values()]
        known += [self.cluster.token, self.world.bearer or "", *(self.world.login or ())[1:]]
        if self.world.login is not None:
            known.append(":".join(self.world.login))
        return [secret for secret in known if secret]

    async def clear(self) -> None:
        """Remove every claim and volume, for the next test on the same cluster."""
        for path in (
            manifests.CLAIMS,
            "/api/v1/persistentvolumes",
            "/api/v1/namespaces/default/configmaps",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        ):
            listed = await self.cluster.ask("GET", path)
            for item in listed["items"]:
                await self._remove(f"{path}/{item['metadata']['name']}", item)

    async def _remove(self, path: str, item: Json) -> None:
        try:
            if item["metadata"].get("finalizers"):
                await self.cluster.ask("PATCH", path, {"metadata": {"finalizers": None}})
            await self.cluster.ask("DELETE", path)
            await self.cluster.ask("PATCH", path, {"metadata": {"finalizers": None}})
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
