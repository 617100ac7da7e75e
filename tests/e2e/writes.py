"""Each write of a replacement, and how it is seen that it took effect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from linstor_affinity_events.model.keys import FINALIZER, OURSELVES
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


async def took_effect(stage: Stage, write: Write) -> bool:
    note = await stage.cluster.find(f"{NOTES}/affinity-note-pvc-1")
    pv = await stage.cluster.find(f"{PV}/pvc-1")
    return write.done(pv, None if note is None else note["data"])
