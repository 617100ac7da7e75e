"""How the sidecars reach a cluster: a fake one in memory, or any over HTTP."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

import orjson

from tests.fakes.kube_server import FakeCluster, Refusal
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.kube_server.patches import MERGE
from tests.testbed.clusters import ApiError, Cluster

Json = dict[str, Any]

VOLUMES, CLAIMS = "persistentvolumes", "persistentvolumeclaims"


class Api(Protocol):
    """Writes return whether they were accepted; what was not is tried again later."""

    def changes(self, plural: str) -> AsyncGenerator[tuple[str, Json], None]:
        """Every object of the kind as it is, and each change from then on."""

    async def patch(self, name: str, patch: Json | list[Json], kind: str = MERGE) -> bool:
        """A patch by name, whatever incarnation has it."""

    async def delete(self, name: str) -> bool:
        """By name, without any precondition."""

    async def set_status(self, claim: Json, status: Json) -> bool:
        """A merge patch of a claim's status, guarded by its version."""


class MemoryApi:
    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    async def changes(self, plural: str) -> AsyncGenerator[tuple[str, Json], None]:
        with self._cluster.subscribe(plural) as changes:
            for found in self._cluster.objects(plural):
                yield "ADDED", found
            async for change in changes:
                yield change.kind, change.object

    async def patch(self, name: str, patch: Json | list[Json], kind: str = MERGE) -> bool:
        writer = Writer(name="csi")
        try:
            self._cluster.patch(VOLUMES, name, patch, content_type=kind, writer=writer)
        except Refusal:
            return False
        return True

    async def delete(self, name: str) -> bool:
        try:
            self._cluster.delete(VOLUMES, name)
        except Refusal as refusal:
            return refusal.code == 404
        return True

    async def set_status(self, claim: Json, status: Json) -> bool:
        metadata = claim["metadata"]
        try:
            self._cluster.patch(
                CLAIMS,
                metadata["name"],
                _guarded(claim, status),
                namespace=metadata["namespace"],
                writer=Writer(name="csi", subresource="status"),
            )
        except Refusal:
            return False
        return True


class HttpApi:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def changes(self, plural: str) -> AsyncGenerator[tuple[str, Json], None]:
        path = f"/api/v1/{plural}"
        while True:
            listed = await self._cluster.ask("GET", path)
            for found in listed.get("items", ()):
                yield "ADDED", found
            query = {"watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"]}
            async with self._cluster.session.get(path, params=query, timeout=None) as response:
                try:
                    async for line in response.content:
                        event = orjson.loads(line)
                        yield event["type"], event["object"]
                finally:
                    if response.connection is not None and response.connection.transport:
                        response.connection.transport.abort()

    async def patch(self, name: str, patch: Json | list[Json], kind: str = MERGE) -> bool:
        return await self._write("PATCH", f"/api/v1/{VOLUMES}/{name}", patch, kind=kind)

    async def delete(self, name: str) -> bool:
        return await self._write("DELETE", f"/api/v1/{VOLUMES}/{name}", None, missing=True)

    async def set_status(self, claim: Json, status: Json) -> bool:
        metadata = claim["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/{CLAIMS}/{metadata['name']}/status"
        return await self._write("PATCH", path, _guarded(claim, status))

    async def _write(
        self,
        method: str,
        path: str,
        body: Json | list[Json] | None,
        *,
        missing: bool = False,
        kind: str = MERGE,
    ) -> bool:
        try:
            await self._cluster.ask(method, path, body, patch_type=kind)
        except ApiError as error:
            return missing and error.status == 404
        return True


def _guarded(claim: Json, status: Json) -> Json:
    return {
        "metadata": {"resourceVersion": claim["metadata"]["resourceVersion"]},
        "status": status,
    }
