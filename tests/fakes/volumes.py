"""The ports to PersistentVolumes, claims and entries, in memory: a FakeCluster without the wire."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import orjson

from linstor_affinity_events.adapters.kubernetes.index import FollowedVolume, VolumeIndex
from linstor_affinity_events.adapters.kubernetes.objects import describe, reduced_claim
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.errors import (
    AffinityEventsError,
    BadEntry,
    Conflict,
    Forbidden,
    Invalid,
    Refused,
    Unreachable,
)
from linstor_affinity_events.model.journal_entry import JournalEntry, read_entry
from linstor_affinity_events.model.keys import OURSELVES, parse_handle
from linstor_affinity_events.model.manifest import (
    Manifest,
    Patch,
    bound_patch,
    name_of,
    uid_of,
    version_of,
)
from linstor_affinity_events.model.names import ClaimName, PvName
from linstor_affinity_events.model.recreation import released
from linstor_affinity_events.model.volume import Volume
from tests.fakes.kube_server import FakeCluster, Refusal
from tests.fakes.kube_server.metadata import Writer

VOLUMES, CLAIMS = "persistentvolumes", "persistentvolumeclaims"
T = TypeVar("T")


class Faults:
    """Breaks the nth write from now on, before it took effect or after, its response lost."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self._nth, self._when = 0, ""
        self._error: Callable[[str], AffinityEventsError] = Unreachable
        self._refused: dict[str, Callable[[str], AffinityEventsError]] = {}

    def break_write(self, nth: int, *, when: str) -> None:
        """`when` is "before" or "after"; the first write is number 1."""
        self.writes, self._nth, self._when = [], nth, when

    def refuse(self, verb: str, error: Callable[[str], AffinityEventsError] = Forbidden) -> None:
        """Refuse every write of this kind until `allow`."""
        self._refused[verb] = error

    def allow(self, verb: str) -> None:
        self._refused.pop(verb, None)

    @contextmanager
    def around(self, verb: str) -> Iterator[None]:
        self.writes.append(verb)
        if verb in self._refused:
            raise self._refused[verb](f"{verb} is refused")
        hit = len(self.writes) == self._nth
        if hit and self._when == "before":
            raise self._error(f"broken before {verb}")
        yield
        if hit and self._when == "after":
            raise self._error(f"broken after {verb}")


@contextmanager
def _sorted() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        status = refusal.status
        message = str(status.get("message"))
        if refusal.code in {404, 409}:
            raise Conflict(message) from refusal
        causes = (status.get("details") or {}).get("causes") or ()
        raise Invalid(message, fields=tuple(c.get("field", "") for c in causes)) from refusal


class FakeVolumes:
    """Implements engine.ports.Volumes; use `watching` so that its index hears of changes."""

    def __init__(self, cluster: FakeCluster, faults: Faults | None = None) -> None:
        self.cluster = cluster
        self.faults = faults or Faults()
        self.changed: list[Volume] = []
        self.index = VolumeIndex(self.changed.append)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keep the index in step, as an informer does."""
        with self.cluster.subscribe(VOLUMES) as changes:
            self.index.begin_list()
            for manifest in self.cluster.objects(VOLUMES):
                self.index.listed(manifest)
            self.index.end_list()
            self.index.classes.begin_list()
            for manifest in self.cluster.objects("storageclasses"):
                self.index.classes.listed(manifest)
            self.index.classes.end_list()

            async def follow() -> None:
                async for change in changes:
                    # Without kind and apiVersion, as the items of a list in pages come.
                    if change.kind == "DELETED":
                        self.index.gone(change.object)
                    else:
                        self.index.changed(change.object)

            async with asyncio.TaskGroup() as group:
                task = group.create_task(follow())
                try:
                    yield
                finally:
                    task.cancel()

    async def read(self, name: PvName) -> Manifest | None:
        return self._get(VOLUMES, name)

    async def read_claim(self, claim: ClaimName) -> Manifest | None:
        found = self._get(CLAIMS, claim.name, claim.namespace)
        return None if found is None else reduced_claim(found)

    def _get(self, resource: str, name: str, namespace: str = "") -> Manifest | None:
        try:
            return copy.deepcopy(self.cluster.get(resource, name, namespace))
        except Refusal:
            return None

    async def patch(self, name: PvName, patch: Patch) -> Manifest:
        with self.faults.around("patch"), _sorted():
            return self.cluster.patch(VOLUMES, name, _sent(patch), writer=Writer(name=OURSELVES))

    async def delete(self, manifest: Manifest) -> Manifest | None:
        with self.faults.around("delete"), _sorted():
            left, gone = self.cluster.delete(
                VOLUMES, name_of(manifest), uid=uid_of(manifest), version=version_of(manifest)
            )
            return None if gone else left

    async def remove(self, manifest: Manifest) -> None:
        with self.faults.around("remove"), _sorted():
            if self._get(VOLUMES, name_of(manifest)) is not None:
                body = _sent(released(manifest))
                self.cluster.update(VOLUMES, name_of(manifest), body, writer=Writer(name=OURSELVES))

    async def create(self, manifest: Manifest) -> Manifest:
        with self.faults.around("create"), _sorted():
            return self.cluster.create(VOLUMES, _sent(manifest), writer=Writer(name=OURSELVES))

    async def set_bound(self, manifest: Manifest) -> None:
        with self.faults.around("set_bound"), _sorted():
            writer = Writer(name=OURSELVES, subresource="status")
            self.cluster.patch(VOLUMES, name_of(manifest), bound_patch(manifest), writer=writer)

    async def dry_run(self, pv: Manifest, mark: Patch, wanted: Manifest) -> Manifest:
        with self.faults.around("rehearse"), _sorted():
            trial = Writer(name=OURSELVES, dry_run=True)
            return self.cluster.patch(VOLUMES, name_of(pv), _sent(mark), writer=trial)

    async def dry_run_creation(self, wanted: Manifest) -> None:
        # That the volume exists is found only after its validation.
        with self.faults.around("rehearse creation"), suppress(Conflict), _sorted():
            trial = Writer(name=OURSELVES, dry_run=True)
            self.cluster.create(VOLUMES, _sent(wanted), writer=trial)

    def describe(self, manifest: Manifest) -> Volume | None:
        return describe(manifest)

    @contextmanager
    def follow(self, name: PvName) -> Iterator[FollowedVolume]:
        with self.index.follow(name) as following:
            yield following

    def last_phase_change(self) -> float:
        return self.index.phase_changed_at


def _sent(body: T) -> T:
    """Return what arrives of a body, unless that can't be encoded."""
    try:
        arrived: T = orjson.loads(orjson.dumps(body))
    except orjson.JSONEncodeError as error:
        raise Invalid(str(error)) from error
    return arrived


class FakeJournal:
    """Implements engine.ports.Journal: entries as trees, read back as from outside."""

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults or Faults()
        self._count = 0
        self.entries: dict[PvName, tuple[str, Any]] = {}
        self.finalizers: set[PvName] = set()
        """The volumes whose entry has a finalizer, so that its deletion does not end."""
        self._held: set[tuple[PvName, str]] = set()
        self.at_a_time = 1000
        """How many entries one list returns; the next one continues."""
        self._next = 0

    async def all(self) -> Listed:
        there = (n for n, (version, _) in self.entries.items() if (n, version) not in self._held)
        begun, rest = self._next, sorted(there)[self._next :]
        self._next = 0 if len(rest) <= self.at_a_time else begun + self.at_a_time
        # The volume that an entry is labelled with is not in question, whatever else it says.
        keys = {
            name: parse_handle(self.entries[name][1]["volume"]) for name in rest[: self.at_a_time]
        }
        first, last = not begun, not self._next
        return Listed(keys, whole=first and last, first=first, last=last)

    async def read(self, name: PvName) -> JournalEntry | None:
        if name not in self.entries:
            return None
        version, tree = self.entries[name]
        return read_entry(tree, version=version)

    async def create(self, entry: JournalEntry) -> JournalEntry:
        with self._faults.around("note"):
            if entry.pv in self.entries:
                raise Conflict(f"a note for {entry.pv} is there")
            return self._keep(entry)

    async def save(self, entry: JournalEntry) -> JournalEntry:
        with self._faults.around("save"):
            self._guard(entry)
            return self._keep(entry)

    async def drop(self, entry: JournalEntry) -> None:
        with self._faults.around("drop"):
            if entry.pv in self.entries:
                self._guard(entry)
                if entry.pv in self.finalizers:
                    self._held.add((entry.pv, entry.version))
                else:
                    del self.entries[entry.pv]

    def _keep(self, entry: JournalEntry) -> JournalEntry:
        try:
            read_entry(_sent(entry.written()))
        except BadEntry as error:
            raise Refused(str(error)) from error
        self._count += 1
        self.entries[entry.pv] = (str(self._count), copy.deepcopy(entry.written()))
        return read_entry(self.entries[entry.pv][1], version=str(self._count))

    def _guard(self, entry: JournalEntry) -> None:
        if entry.pv not in self.entries or self.entries[entry.pv][0] != entry.version:
            raise Conflict(f"the note for {entry.pv} changed")
