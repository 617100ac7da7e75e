"""What the engine needs from the world. Adapters implement it, tests fake it.

Every method that waits may raise Unreachable; only other errors are named.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.note import Note
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.policy import StorageClass
from linstor_affinity_events.model.pulse import PulseReading
from linstor_affinity_events.model.volume import Volume


class LinstorPulse(Protocol):
    """What LINSTOR answers from its memory, in a millisecond."""

    async def pulse(self) -> PulseReading:
        """All nodes, and the number of resources. May raise LoginRefused."""


class Linstor(LinstorPulse, Protocol):
    """What LINSTOR knows, always read afresh. All may raise LoginRefused."""

    async def nodes(self) -> Nodes:
        """All nodes with their labels."""

    async def definition(self, resource: ResourceName) -> Definition | None:
        """One resource definition; None if LINSTOR has none of that name."""

    async def definitions(self) -> Mapping[ResourceName, Definition]:
        """All resource definitions."""

    async def placement(self, resource: ResourceName) -> Placement | None:
        """The replicas of one resource; None if there is no such definition."""

    async def placements(self) -> Mapping[ResourceName, Placement]:
        """The replicas of all resources, in one request that a single hung satellite can fail."""

    async def forget_saved(self, resource: ResourceName, number: int) -> None:
        """Drop the reference controller's note; -1 for one on the definition. Fine if gone."""


class Index(Protocol):
    """The PersistentVolumes and StorageClasses of our driver, as last told."""

    def of(self, resource: ResourceName) -> Collection[Volume]:
        """All volumes of one resource definition."""

    def get(self, name: PvName) -> Volume | None:
        """One volume by its name."""

    def resources(self) -> Collection[ResourceName]:
        """Every resource definition that some volume names."""

    def astray(self) -> Collection[Volume]:
        """The volumes whose handle names no LINSTOR volume."""

    def storage_class(self, name: str) -> StorageClass | None:
        """A StorageClass by its name, whoever its provisioner is."""

    @property
    def classes_known(self) -> bool:
        """Whether all StorageClasses have been listed once."""


class Sighting(Protocol):
    """The news of one volume while it is being replaced."""

    latest: Manifest | None
    gone: Manifest | None
    """The volume that was removed last, as it was by then; None while there was none."""

    async def news(self) -> None:
        """Return once something was told of it since the last call."""


class Volumes(Protocol):
    """PersistentVolumes and their claims, one by one and uncached.

    Writes may raise Conflict (somebody wrote first), Invalid (schema, rules or admission said
    no) and Forbidden (we may not).
    """

    async def read(self, name: PvName) -> Manifest | None:
        """The volume as the API server has it now; None if it is gone."""

    async def read_claim(self, claim: ClaimName) -> Manifest | None:
        """The claim of that namespace and name, whatever its uid; None if there is none."""

    async def patch(self, name: PvName, patch: Patch) -> Manifest:
        """Apply a guarded merge patch; the answer is the volume afterwards. Conflict if gone."""

    async def delete(self, manifest: Manifest) -> Manifest | None:
        """Delete exactly this incarnation in this version; answers what finalizers still hold."""

    async def remove(self, manifest: Manifest) -> None:
        """Take the last finalizers off exactly this terminating version; fine if it is gone."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create it as given. Conflict if the name is taken."""

    async def rehearse(self, pv: Manifest, mark: Patch, wanted: Manifest) -> Manifest:
        """Have the API server try the patch, the deletion and the creation, and keep nothing;
        answers what the volume would be after the patch, as admission makes it.
        """

    async def rehearse_creation(self, wanted: Manifest) -> None:
        """Have the API server try the creation alone; a name that is taken is no objection."""

    def describe(self, manifest: Manifest) -> Volume | None:
        """What decisions need of a manifest; None if it is not of our driver."""

    def follow(self, name: PvName) -> AbstractContextManager[Sighting]:
        """Collect the news of one volume for the length of the block."""

    def last_phase_change(self) -> float:
        """When some volume's phase was last seen to change, by the loop's clock."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What the journal has, by what its entries are labelled with; none of it was read."""

    volumes: Mapping[PvName, VolumeKey]
    whole: bool = True
    """Whether these are all. If not, the next call goes on where this one ended."""


class Journal(Protocol):
    """Replacements that are not finished, kept where our own crash cannot reach.

    Writes may raise Conflict and, where nothing can be noted at all, Refused.
    """

    async def all(self) -> Listed:
        """The volumes that have a note, and the LINSTOR volume of each, as far as the notes are not
        known to be no good; at most so many at a time.
        """

    async def read(self, name: PvName) -> Note | None:
        """The note for one volume. Raises BadNote if it can't be trusted."""

    async def create(self, note: Note) -> Note:
        """Write a first note. Conflict if the volume has one already."""

    async def save(self, note: Note) -> Note:
        """Write over exactly the version that was read. Conflict if it changed or is gone."""

    async def drop(self, note: Note) -> None:
        """Forget exactly the version that was read; fine if it is gone. Conflict if changed."""


class Notices(Protocol):
    """Kubernetes Events, for people. Never waits, never fails; some may be lost under load."""

    def updated(self, volume: Volume, was: str, now: str) -> None:
        """The volume's affinity was changed; told on volume and claim."""

    def warn(self, volume: Volume, reason: str, why: str, *, reminder: int = 0) -> None:
        """Something is wrong with the volume; told on volume and claim. The first time is number 0,
        and the same thing told with the same number is told once.
        """


class Leadership(Protocol):
    """Whether this instance may begin anything."""

    @property
    def leading(self) -> bool:
        """True until shortly before somebody else could lead."""


class Telemetry(Protocol):
    """What happened, for metrics. Never waits, never fails."""

    def verdict(self, kind: str, reason: str) -> None: ...
    def changed(self, how: str, outcome: str, took: float, since_hint: float) -> None: ...
    def told_first(self, source: str) -> None: ...
    def drift_unannounced(self, cause: str) -> None: ...
    def swept(self, cause: str, took: float, volumes: int, *, bulk: bool) -> None: ...
    def census(self, found: Mapping[tuple[str, str], int]) -> None: ...
    def deferred(self, found: Mapping[str, int]) -> None: ...
    def unfinished(self, replacements: int) -> None: ...
    def absent(self, volumes: int) -> None: ...
    def stuck(self, volumes: int) -> None: ...
    def claim_lost(self) -> None: ...
    def looked_at_many(self, looks: int) -> None: ...
    def failed_look(self, kind: str) -> None: ...
    def failed_pass(self, kind: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Touched:
    """Something happened to this resource."""

    resource: ResourceName


@dataclass(frozen=True, slots=True)
class MissedSome:
    """We may have been deaf for a while, or it concerns all: look at everything."""

    cause: str


Hint = Touched | MissedSome
"""Cheap and lossy news that a resource may have moved: it starts a look and decides nothing. Hints
that come twice, late or never do no harm.
"""


class EventStream(Protocol):
    """One peer that tells us things as they happen."""

    name: str

    def connect(self) -> AbstractAsyncContextManager[AsyncIterator[Hint]]:
        """Open one connection. The iterator ends when the peer hangs up politely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All that the engine needs from the world."""

    index: Index
    linstor: Linstor
    volumes: Volumes
    journal: Journal
    notices: Notices
    telemetry: Telemetry
    leadership: Leadership
    now: Callable[[], float]
    """Seconds since the epoch."""

    parse_json: Callable[[str], object]
    """Raises ValueError for what is no JSON, or too much of it."""
