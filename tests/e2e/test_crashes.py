"""SIGKILL before and after each write of a replacement, and a start after it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from linstor_affinity_events.model.keys import FINALIZER, OURSELVES
from tests.e2e.conftest import MakeService
from tests.e2e.test_life import LEASE, finished
from tests.e2e.test_main_job import kept
from tests.stage.clusters import until
from tests.stage.manifests import nodes_of
from tests.stage.service import running
from tests.stage.stage import Stage

Json = dict[str, Any]

PV = "/api/v1/persistentvolumes"
NOTES = "/api/v1/namespaces/default/configmaps"
NOT_REHEARSED = r"\?(?!.*dryRun)"


Look = Callable[[Json | None, Json | None], bool]
"""Sees the volume and the data of its note, None for what is not there."""


def is_new(pv: Json | None) -> bool:
    return pv is not None and pv["metadata"]["managedFields"][0]["manager"] == OURSELVES


@dataclass(frozen=True, slots=True)
class Write:
    """One request of a replacement, found by what it looks like on the wire."""

    method: str
    path: str
    done: Look
    """Whether it took effect."""

    earlier: int = 0
    """How many of the same look come before it."""


WRITES = {
    "note": Write("POST", f"{NOTES}{NOT_REHEARSED}", lambda _, note: note is not None),
    "mark": Write(
        "PATCH",
        f"{PV}/pvc-1{NOT_REHEARSED}",
        lambda pv, _: pv is not None and FINALIZER in pv["metadata"]["finalizers"],
        earlier=1,
    ),
    "save": Write(
        "PUT",
        f"{NOTES}/affinity-note-pvc-1",
        lambda _, note: note is not None and '"state":"deleting"' in note["note.json"],
    ),
    "delete": Write(
        "DELETE",
        f"{PV}/pvc-1",
        lambda pv, _: pv is not None and "deletionTimestamp" in pv["metadata"],
        earlier=1,
    ),
    "point away": Write(
        "PATCH",
        f"{PV}/pvc-1{NOT_REHEARSED}",
        lambda pv, _: pv is not None and pv["spec"]["claimRef"]["name"].startswith("gone-"),
        earlier=2,
    ),
    "remove": Write("PUT", f"{PV}/pvc-1", lambda pv, _: pv is None or is_new(pv)),
    # Asked for while the removal is under way, it may come too early once and take no effect.
    "create": Write("POST", f"{PV}{NOT_REHEARSED}", lambda pv, _: pv is None or is_new(pv)),
    "drop": Write("DELETE", f"{NOTES}/affinity-note-pvc-1", lambda _, note: note is None),
}
"""In their order. The first PATCH tries whether the cluster changes an affinity in place, the first
DELETE is the rehearsal.
"""

STILL = 600.0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", [pytest.param(w, id=name) for name, w in WRITES.items()])
async def test_killed_at_any_write_the_next_start_brings_it_to_its_end(
    fake_stage: Stage, service_on: MakeService, write: Write, when: str
) -> None:
    stage = fake_stage
    server: Any = stage.cluster.server
    await stage.add("pvc-1", ["n1"])
    before = await stage.cluster.ask("GET", f"{PV}/pvc-1")

    async with running(service_on(stage)) as service:
        for _ in range(write.earlier):
            server.faults.add(method=write.method, path_regex=write.path, delay=0.001)
        stop = {"delay": STILL} if when == "before" else {"delay_after": STILL}
        fault = server.faults.add(method=write.method, path_regex=write.path, **stop)
        stage.world.move("pvc-1", "n1", "n2")

        async def hit() -> bool:
            return bool(fault.hits)

        await until(hit, "the service came to this write")
        if when == "after":

            async def done() -> bool:
                note = await stage.cluster.find(f"{NOTES}/affinity-note-pvc-1")
                pv = await stage.cluster.find(f"{PV}/pvc-1")
                return write.done(pv, None if note is None else note["data"])

            await until(done, "the write took effect")
        await service.kill()
    server.faults.clear()
    # The killed instance holds the lease until it runs out.
    await stage.cluster.ask("DELETE", LEASE)

    async with running(service_on(stage)):
        await stage.until_on("pvc-1", "n2")
        await until(lambda: finished(stage), "no note is left")
        await stage.until_bound("pvc-1")

    after = await stage.cluster.ask("GET", f"{PV}/pvc-1")
    assert nodes_of(after) == {"n2"}
    assert kept(after) == kept(before)
    assert stage.observer.lost == []
