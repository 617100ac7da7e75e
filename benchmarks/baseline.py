"""The smallest client that could do the job: the service's requests in their order, and nothing of
what makes them safe.

It trusts the first state that it sees, records what it does but could not resume, and
fails at the first response that it did not expect. What the service takes longer than this is
the price of its care.

With --minimal it records nothing and tries nothing in a dry run either: the least that keeps claims
bound, and loses a volume for good if it ends at the wrong moment.
"""

import argparse
import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
import uvloop
import yaml

Json = dict[str, Any]

DRIVER = "baseline.invalid"
"""Of the volumes that are the baseline's, so that it and the service leave each other's alone."""

VOLUMES = "/api/v1/persistentvolumes"
MANAGER = "?fieldManager=baseline"
OURS = "baseline.invalid/hold"
PROTECTION = "kubernetes.io/pv-protection"
NO_DATA = {"DISKLESS", "DELETE"}
MERGE = {"Content-Type": "application/merge-patch+json"}
JSON = {"Content-Type": "application/json"}


class Baseline:
    """Moves volumes one after another, or several at a time."""

    def __init__(
        self, kube: aiohttp.ClientSession, linstor: aiohttp.ClientSession, *, minimal: bool = False
    ) -> None:
        self._kube, self._linstor, self._minimal = kube, linstor, minimal
        self._latest: dict[str, Json] = {}
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._wanted: dict[str, None] = {}
        self._held: set[str] = set()
        self._work = asyncio.Event()
        self._reported: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()

    async def run(self, workers: int) -> None:
        listed = await self._ask("GET", VOLUMES)
        for item in listed["items"]:
            self._latest[item["metadata"]["name"]] = item
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(listed["metadata"]["resourceVersion"]))
            group.create_task(self._emit())
            for _ in range(workers):
                group.create_task(self._alternate())
            async with self._linstor.get(
                "/v1/events/drbd/promotion", headers={"Accept": "text/event-stream"}
            ) as stream:
                print("ready", flush=True)
                async for line in stream.content:
                    if line.startswith(b"data:"):
                        self._trigger(orjson.loads(line[5:])["resource_name"])

    def _trigger(self, name: str) -> None:
        self._wanted[name] = None
        self._work.set()

    async def _alternate(self) -> None:
        while True:
            name = next((name for name in self._wanted if name not in self._held), None)
            if name is None:
                self._work.clear()
                await self._work.wait()
                continue
            del self._wanted[name]
            self._held.add(name)
            await self._read(name)
            self._held.discard(name)
            self._work.set()

    async def _watch(self, version: str) -> None:
        query = f"?watch=1&allowWatchBookmarks=true&resourceVersion={version}"
        async with self._kube.get(VOLUMES + query) as response:
            async for line in response.content:
                event = orjson.loads(line)
                pv = event["object"]
                if event["type"] == "BOOKMARK":
                    continue
                name = pv["metadata"]["name"]
                if event["type"] == "DELETED":
                    self._latest.pop(name, None)
                else:
                    self._latest[name] = pv
                if name in self._events:
                    self._events[name].set()

    async def _emit(self) -> None:
        while True:
            namespace, event = await self._reported.get()
            await self._ask("POST", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)

    async def _read(self, name: str) -> None:
        # The watch may lag behind the end of the replacement before.
        while (known := self._latest.get(name)) is not None and is_detached(known):
            self._events[name].clear()
            await self._events[name].wait()
        self._events.pop(name, None)
        if known is None or known["spec"]["csi"]["driver"] != DRIVER:
            return
        _, replicas = await asyncio.gather(
            self._linstor_get(
                "/v1/resource-definitions?with_volume_definitions=true&resource_definitions=" + name
            ),
            self._linstor_get(f"/v1/resource-definitions/{name}/resources"),
        )
        nodes = sorted(r["node_name"] for r in replicas if not NO_DATA & set(r.get("flags", ())))
        if affinity_on(nodes) != known["spec"].get("nodeAffinity"):
            await self._replace(known, nodes)

    async def _replace(self, known: Json, nodes: list[str]) -> None:
        name, ref = known["metadata"]["name"], known["spec"]["claimRef"]
        path = f"{VOLUMES}/{name}"
        claim = f"/api/v1/namespaces/{ref['namespace']}/persistentvolumeclaims/{ref['name']}"
        entries = "/api/v1/namespaces/default/configmaps"
        pv, _ = await asyncio.gather(self._ask("GET", path), self._ask("GET", claim))
        body, mark = copy_for_create(pv, nodes), markers(pv)
        saved: Json | None = None
        if self._minimal:
            pv = await self._ask("PATCH", path + MANAGER, mark)
        else:
            prepared, *_ = await asyncio.gather(
                self._ask("POST", entries + MANAGER, entry_for(name, body, "prepared", {})),
                self._ask("PATCH", path + MANAGER + "&dryRun=All", mark),
                self._ask("DELETE", path, deletion(pv) | {"dryRun": ["All"]}),
                self._ask("POST", VOLUMES + MANAGER + "&dryRun=All", body, fine=(409,)),
            )
            pv, saved = await asyncio.gather(
                self._ask("PATCH", path + MANAGER, mark),
                self._ask(
                    "PUT",
                    f"{entries}/affinity-journal-{name}{MANAGER}",
                    entry_for(name, body, "deleting", guard(prepared)),
                ),
            )
        pv = await self._ask("DELETE", path, deletion(pv))
        pv = await self._ask("PATCH", path + MANAGER, tombstone(pv))
        pv, _ = await asyncio.gather(self._until_let_go(pv), self._ask("GET", claim))
        _, made = await asyncio.gather(self._remove(path, pv), self._create(body))
        # One that turned Lost is left to the binder: the baseline guards against nothing.
        await self._ask("GET", claim)
        if saved is not None:
            await self._ask("DELETE", f"{entries}/affinity-journal-{name}", deletion(saved))
        for kind, namespace, uid in (
            ("PersistentVolume", "default", made["metadata"]["uid"]),
            ("PersistentVolumeClaim", ref["namespace"], ref["uid"]),
        ):
            self._reported.put_nowait((namespace, event_on(kind, name, namespace, uid)))

    async def _remove(self, path: str, pv: Json) -> None:
        """Ask until nobody has written in between: the protection finalizer may go any time."""
        while True:
            gone = {**pv, "metadata": {**pv["metadata"], "finalizers": []}}
            response = await self._ask("PUT", path + MANAGER, gone, fine=(409,))
            if response["kind"] != "Status":
                return
            pv = await self._ask("GET", path)

    async def _create(self, body: Json) -> Json:
        """Ask until the old one is gone."""
        while True:
            made = await self._ask("POST", VOLUMES + MANAGER, body, fine=(409,))
            if made["kind"] == "PersistentVolume":
                return made

    async def _until_let_go(self, detached: Json) -> Json:
        """Wait for the binder's phase, and a moment longer for the protection finalizer to go.

        A binder that resyncs just then bends the claimRef back, and writes no phase.
        """
        version = int(detached["metadata"]["resourceVersion"])
        observed = await self._until(
            detached,
            lambda pv: (
                int(pv["metadata"]["resourceVersion"]) > version
                and (not is_detached(pv) or pv["status"]["phase"] != "Bound")
            ),
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                observed = await self._until(
                    detached, lambda pv: PROTECTION not in pv["metadata"].get("finalizers", ())
                )
        self._events.pop(detached["metadata"]["name"], None)
        return observed

    async def _until(self, detached: Json, holds: Callable[[Json], bool]) -> Json:
        name, uid = detached["metadata"]["name"], detached["metadata"]["uid"]
        while True:
            latest = self._latest.get(name)
            if latest is not None and latest["metadata"]["uid"] == uid and holds(latest):
                return latest
            self._events[name].clear()
            await self._events[name].wait()

    async def _linstor_get(self, path: str) -> list[Json]:
        async with self._linstor.get(path) as response:
            found: list[Json] = orjson.loads(await response.read())
            return found

    async def _ask(
        self, method: str, path: str, body: Json | None = None, *, fine: tuple[int, ...] = ()
    ) -> Json:
        async with self._kube.request(
            method,
            path,
            data=None if body is None else orjson.dumps(body),
            headers=MERGE if method == "PATCH" else JSON,
        ) as response:
            raw = await response.read()
            if response.status >= 400 and response.status not in fine:
                raise SystemExit(f"{method} {path}: {response.status} {raw.decode()}")
            shown: Json = orjson.loads(raw)
            return shown


def affinity_on(nodes: list[str]) -> Json:
    terms = [
        {"matchExpressions": [{"key": "linbit.com/hostname", "operator": "In", "values": [node]}]}
        for node in nodes
    ]
    return {"required": {"nodeSelectorTerms": terms}}


def copy_for_create(pv: Json, nodes: list[str]) -> Json:
    """The volume to create: what the server sets left out."""
    metadata = {
        key: pv["metadata"][key]
        for key in ("name", "labels", "annotations", "finalizers")
        if key in pv["metadata"]
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata,
        "spec": {**pv["spec"], "nodeAffinity": affinity_on(nodes)},
    }


def guard(pv: Json) -> Json:
    return {key: pv["metadata"][key] for key in ("uid", "resourceVersion")}


def markers(pv: Json) -> Json:
    finalizers = [*pv["metadata"].get("finalizers", ()), OURS]
    annotations = {"linstor.csi.linbit.com/skip-reclaim": "true"}
    return {
        "metadata": {**guard(pv), "finalizers": finalizers, "annotations": annotations},
        "spec": {"persistentVolumeReclaimPolicy": "Retain"},
    }


def tombstone(pv: Json) -> Json:
    others = [f for f in pv["metadata"]["finalizers"] if not f.startswith("external-provisioner")]
    return {
        "metadata": {**guard(pv), "finalizers": others},
        "spec": {"claimRef": {"name": f"gone-{pv['metadata']['uid']}"}},
    }


def is_detached(pv: Json) -> bool:
    return bool(pv["spec"]["claimRef"]["name"].startswith("gone-"))


def deletion(thing: Json) -> Json:
    return {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": guard(thing)}


def entry_for(name: str, wanted: Json, state: str, metadata: Json) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": f"affinity-journal-{name}"},
        "data": {"entry.json": orjson.dumps({"state": state, "wanted": wanted}).decode()},
    }


def event_on(kind: str, name: str, namespace: str, uid: str) -> Json:
    regarding = {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}
    if kind != "PersistentVolume":
        regarding["namespace"] = namespace
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"baseline-{uuid4().hex}", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "baseline",
        "reportingInstance": "baseline",
        "action": "UpdateNodeAffinity",
        "reason": "VolumeAffinityUpdated",
        "regarding": regarding,
        "note": "Node affinity changed",
        "type": "Normal",
    }


@asynccontextmanager
async def kubernetes(kubeconfig: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A session signed in as the kubeconfig file says, which has one user and one cluster."""
    tree = yaml.safe_load(await asyncio.to_thread(kubeconfig.read_text))
    cluster, user = tree["clusters"][0]["cluster"], tree["users"][0]["user"]
    tls: ssl.SSLContext | bool = True
    if cluster["server"].startswith("https"):
        tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
    headers = {"Authorization": f"Bearer {user['token']}"} if user.get("token") else {}
    async with aiohttp.ClientSession(
        cluster["server"],
        headers=headers,
        connector=aiohttp.TCPConnector(ssl=tls, limit=100),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=2**22,
    ) as session:
        yield session


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--linstor", required=True, help="URL of the LINSTOR controller")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--minimal", action="store_true", help="without records and dry runs")
    given = parser.parse_args()
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        kubernetes(given.kubeconfig) as kube,
        aiohttp.ClientSession(given.linstor, timeout=timeout) as linstor,
    ):
        await Baseline(kube, linstor, minimal=given.minimal).run(given.workers)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
