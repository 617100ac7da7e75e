"""LINSTOR's own database in Kubernetes, as Piraeus keeps it: a mirror of the fake LINSTOR."""

import asyncio
import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import aiohttp

from tests.fakes.linstor_server import LinstorWorld
from tests.testbed.clusters import ApiError, Cluster, until

Json = dict[str, Any]

GROUP, VERSION = "internal.linstor.linbit.com", "v1-33-1"
OLDER = "v1-31-1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
AT_ONCE = 20

MASKS = {"CLEAN": 1, "DELETE": 2, "DISKLESS": 4}
"""Some bits of LINSTOR's mask of flags; which they are matters to nobody here."""


def _crd(plural: str, fields: Json) -> Json:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": plural.capitalize(),
                "plural": plural,
                "singular": plural,
                "listKind": f"{plural.capitalize()}List",
            },
            "versions": [
                {
                    "name": name,
                    "served": True,
                    "storage": name == VERSION,
                    "schema": {"openAPIV3Schema": schema},
                }
                for name in (OLDER, VERSION)
            ],
        },
    }


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "format": "int64"}
TABLES = {
    "resources": {
        "uuid": TEXT,
        "node_name": TEXT,
        "resource_name": TEXT,
        "snapshot_name": TEXT,
        "resource_flags": NUMBER,
        "create_timestamp": NUMBER,
    },
    "propscontainers": {"props_instance": TEXT, "prop_key": TEXT, "prop_value": TEXT},
}
"""The second is there as on every LINSTOR; nobody may read it."""


class Database:
    """Rows as custom resources; `mirror` writes what changed since the last time."""

    def __init__(self, cluster: Cluster, world: LinstorWorld) -> None:
        self._cluster, self._world = cluster, world
        self._rows: dict[tuple[str, str], Json] = {}

    async def make(self) -> None:
        """Make the kinds, and wait until they are served."""
        for plural, fields in TABLES.items():
            if await self._cluster.find(f"{CRDS}/{plural}.{GROUP}") is None:
                await self._cluster.ask("POST", CRDS, _crd(plural, fields))

        async def served() -> bool:
            try:
                lists = [await self._cluster.find(self.path(plural)) for plural in TABLES]
            except ApiError as error:
                if error.status == 429:  # Its storage is being made.
                    return False
                raise
            return all(each is not None for each in lists)

        await until(served, "LINSTOR's tables are served")

    async def unmake(self) -> None:
        """Take the kinds away, and all rows with them."""
        for plural in TABLES:
            if await self._cluster.find(f"{CRDS}/{plural}.{GROUP}") is not None:
                await self._cluster.ask("DELETE", f"{CRDS}/{plural}.{GROUP}")

        async def gone() -> bool:
            found = [await self._cluster.find(f"{CRDS}/{plural}.{GROUP}") for plural in TABLES]
            return found == [None] * len(TABLES)

        await until(gone, "LINSTOR's tables are gone")

    async def clear(self) -> None:
        """Drop all rows and keep the kinds."""
        for plural in TABLES:
            if await self._cluster.find(f"{CRDS}/{plural}.{GROUP}") is not None:
                await until(partial(self._cleared, plural), f"{plural} has no rows", within=600)
        self._rows.clear()

    async def _cleared(self, plural: str) -> bool:
        try:
            await self._cluster.ask("DELETE", self.path(plural))
        except ApiError as error:
            if error.status in {429, 504}:  # So many take longer than one request may.
                return False
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError):
            # Or longer than the API server takes for a response, which ends before or within it.
            return False
        return True

    @staticmethod
    def path(plural: str) -> str:
        return f"/apis/{GROUP}/{VERSION}/{plural}"

    async def mirror(self) -> None:
        """Write each row that differs, as LINSTOR does when it commits."""
        wanted = {_key(plural, spec): spec for plural, spec in self._wanted()}
        limit = asyncio.Semaphore(AT_ONCE)

        async def write(key: tuple[str, str]) -> None:
            async with limit:
                await self._write(key, wanted.get(key))

        changed = [
            key
            for key in wanted.keys() | self._rows.keys()
            if wanted.get(key) != self._rows.get(key)
        ]
        async with asyncio.TaskGroup() as group:
            for key in changed:
                group.create_task(write(key))
        self._rows = wanted

    async def _write(self, key: tuple[str, str], spec: Json | None) -> None:
        plural, name = key
        path = self.path(plural)
        if spec is None:
            await self._cluster.ask("DELETE", f"{path}/{name}")
        elif key in self._rows:
            await self._cluster.ask("PATCH", f"{path}/{name}", {"spec": spec})
        else:
            kind = plural.capitalize()
            row = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}}
            await self._cluster.ask("POST", path, {**row, "spec": spec})

    async def add_snapshot(self, name: str, node: str, snapshot: str) -> None:
        """Write the row of a replica's snapshot, which is in the same table as replicas."""
        spec = {
            "node_name": node.upper(),
            "resource_name": name.upper(),
            "snapshot_name": snapshot.upper(),
        }
        await self._write(_key("resources", spec), spec)

    def _wanted(self) -> Iterator[tuple[str, Json]]:
        for definition in self._world.definitions.values():
            for replica in definition.replicas.values():
                yield (
                    "resources",
                    {
                        "uuid": replica.uuid,
                        "node_name": replica.node.name.upper(),
                        "resource_name": definition.name.upper(),
                        "snapshot_name": "",
                        "resource_flags": sum(
                            MASKS.get(flag, 1 << 40) for flag in sorted(replica.flags)
                        ),
                        "create_timestamp": replica.created_ms,
                    },
                )
            where = f"/resourcedefinitions/{definition.name.upper()}"
            yield from _properties(where, definition.props)
        for node in self._world.nodes.values():
            yield from _properties(f"/nodes/{node.name.upper()}", node.props)


def _properties(where: str, properties: dict[str, str]) -> Iterator[tuple[str, Json]]:
    for key, value in properties.items():
        yield (
            "propscontainers",
            {"props_instance": where, "prop_key": key, "prop_value": value},
        )


def _key(plural: str, spec: Json) -> tuple[str, str]:
    """LINSTOR names rows by a hash of their primary key."""
    columns = ("node_name", "resource_name", "snapshot_name", "props_instance", "prop_key")
    text = ":".join(str(spec.get(column, "")) for column in columns)
    return plural, hashlib.sha256(text.encode()).hexdigest()
