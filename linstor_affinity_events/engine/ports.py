"""The ports of the engine. Adapters implement them, tests fake them.

Every method that waits may raise Unreachable; only other errors are named.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from linstor_affinity_events.engine.event_reasons import EventReason
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName, Uid
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.policy import StorageClass
from linstor_affinity_events.model.poll_result import PollResult
from linstor_affinity_events.model.volume import Volume


class LinstorPoll(Protocol):
    """What LINSTOR returns from memory, within a millisecond."""

    async def poll(self) -> PollResult:
        """All nodes, and the number of resources. May raise LoginRefused."""


class Linstor(LinstorPoll, Protocol):
    """The state in LINSTOR, never cached. All methods may raise LoginRefused."""

    async def nodes(self) -> Nodes:
        """All nodes with their labels, and those that are unreadable."""

    async def definition(self, resource: ResourceName) -> Definition | None:
        """One resource definition, maybe unreadable; None if LINSTOR has none of that name."""

    async def definitions(self) -> Mapping[ResourceName, Definition]:
        """All resource definitions, maybe without the texts of their saved PVs."""

    async def placement(self, resource: ResourceName) -> Placement | None:
        """The replicas of one resource; None if there is no such definition."""

    async def placements(self) -> Mapping[ResourceName, Placement]:
        """The replicas of all resources, in one request that a single hung satellite can fail."""

    async def forget_saved(self, resource: ResourceName, number: int) -> None:
        """Delete the saved-PV property; -1 for one on the definition. Fine if it is gone."""


class Index(Protocol):
    """The PersistentVolumes and StorageClasses of our driver, as last watched."""

    def of(self, resource: ResourceName) -> Collection[Volume]:
        """All volumes of one resource definition."""

    def of_key(self, key: VolumeKey) -> Collection[Volume]:
        """All volumes that refer to one LINSTOR volume."""

    def get(self, name: PvName) -> Volume | None:
        """One volume by its name."""

    def deleted_by_others(self, name: PvName, uid: Uid | None) -> bool:
        """Whether this instance saw how this incarnation was deleted, and that it had no policy
        Retain with skip-reclaim then, which each controller sets before that replaces volumes.
        Without a uid: the same of the last one of that name, if that is gone.
        """

    def resources(self) -> Collection[ResourceName]:
        """Every resource definition that a volume refers to."""

    def unmanaged(self) -> Collection[Volume]:
        """The volumes whose handle is not a valid LINSTOR volume."""

    def storage_class(self, name: str) -> StorageClass | None:
        """A StorageClass by its name, whoever its provisioner is."""

    @property
    def classes_known(self) -> bool:
        """Whether all StorageClasses have been listed once."""


class VolumeWatch(Protocol):
    """The watch events of one volume while it is being replaced."""

    latest: Manifest | None
    gone: Manifest | None
    """The last version of the volume that was removed last; None if there was none."""

    async def event(self) -> None:
        """Return once there was an event since the last call."""


class Volumes(Protocol):
    """PersistentVolumes and their claims, one by one and uncached.

    Writes may raise Conflict (another client wrote first), Invalid (rejected by schema, validation
    or admission) and Forbidden (not permitted).
    """

    async def read(self, name: PvName) -> Manifest | None:
        """The volume as the API server has it now; None if it is gone."""

    async def read_claim(self, claim: ClaimName) -> Manifest | None:
        """The claim of that namespace and name, whatever its uid; None if there is none."""

    async def patch(self, name: PvName, patch: Patch) -> Manifest:
        """Apply a guarded merge patch. Returns the patched volume. Conflict if it is gone."""

    async def delete(self, manifest: Manifest) -> Manifest | None:
        """Delete exactly this incarnation and version. Returns it if finalizers still hold it."""

    async def remove(self, manifest: Manifest) -> None:
        """Release the last finalizers of exactly this terminating version; fine if it is gone."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create it as given. Conflict if the name is taken."""

    async def set_bound(self, manifest: Manifest) -> None:
        """Write phase Bound into the status of exactly this version. Conflict if it changed."""

    async def dry_run(self, pv: Manifest, mark: Patch, wanted: Manifest) -> Manifest:
        """Dry-run the patch, the deletion and the creation. Returns the volume as it would be after
        the patch and admission.
        """

    async def dry_run_creation(self, wanted: Manifest) -> None:
        """Dry-run only the creation; an existing object of that name is fine."""

    def describe(self, manifest: Manifest) -> Volume | None:
        """The fields that decisions need; None if it is not of our driver."""

    def follow(self, name: PvName) -> AbstractContextManager[VolumeWatch]:
        """Watch one volume for the length of the block."""

    def last_phase_change(self) -> float:
        """When a phase change of any volume was last observed, by the loop's clock."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What the journal contains, according to the labels of its entries, which were not read."""

    volumes: Mapping[PvName, VolumeKey]
    whole: bool = True
    """Whether these are all. If not, the next call continues where this one ended."""

    first: bool = True
    """Whether it began with the first entry."""

    last: bool = True
    """Whether it reached the last one. Lists from one that began with the first entry to one that
    reached the last one are all of those that are labelled as this service labels them.
    """

    unread: bool = False
    """Whether it left out entries that it would have had to read. The next call reads others."""

    invalid: int = 0
    """How many it left out that are not valid."""


class Journal(Protocol):
    """Unfinished replacements, stored so that they survive a crash of the service.

    Writes may raise Conflict and, if nothing can be written at all, Refused.
    """

    async def all(self) -> Listed:
        """The volumes that have an entry, and the LINSTOR volume of each, except entries known to
        be not valid or, since their last change, dropped; limited per call.
        """

    async def read(self, name: PvName) -> JournalEntry | None:
        """The entry for one volume. Raises BadEntry if it can't be trusted."""

    async def create(self, entry: JournalEntry) -> JournalEntry:
        """Create an entry. Conflict if the volume has one already."""

    async def save(self, entry: JournalEntry) -> JournalEntry:
        """Replace exactly the version that was read. Conflict if it changed or is gone."""

    async def drop(self, entry: JournalEntry) -> None:
        """Delete exactly the version that was read; fine if it is gone. Conflict if changed.

        A finalizer may keep it, but it is not listed any more unless another client changes it.
        """


class Notices(Protocol):
    """Kubernetes Events, for users. Never waits, never fails; some may be lost under load."""

    def inform(self, volume: Volume, reason: EventReason, text: str) -> None:
        """Send a Normal Event to volume and claim."""

    def warn(self, volume: Volume, reason: EventReason, why: str, *, reminder: int = 0) -> None:
        """Send a Warning Event to volume and claim. The first has number 0; the same Event with the
        same number is sent only once.
        """


class Leadership(Protocol):
    """Whether this instance may begin anything."""

    @property
    def leading(self) -> bool:
        """True until shortly before another instance could become the leader."""

    @property
    def exclusive(self) -> bool:
        """Whether no other instance leads at the same time; not without an election."""

    async def confirmed(self) -> bool:
        """Whether this instance leads, and no other one may have led since it last renewed, by a
        fresh read. May raise Forbidden and other errors of single requests.
        """


class Telemetry(Protocol):
    """What happened, for metrics. Never waits, never fails."""

    def decision(self, kind: str, reason: str) -> None: ...
    def changed(
        self, how: str, outcome: str, took: float, since_trigger: float, trigger: str
    ) -> None: ...
    def drift_without_event(self, cause: str) -> None: ...
    def fully_reconciled(self, cause: str, took: float, volumes: int, *, bulk: bool) -> None: ...
    def census(self, found: Mapping[tuple[str, str], int]) -> None: ...
    def deferred(self, found: Mapping[str, int]) -> None: ...
    def unfinished(self, replacements: int) -> None: ...
    def absent(self, volumes: int) -> None: ...
    def stuck(self, volumes: int) -> None: ...
    def claim_lost(self) -> None: ...
    def volume_controller_timed_out(self) -> None: ...
    def read_from_bulk(self) -> None: ...
    def reconcile_failed(self, kind: str) -> None: ...
    def full_reconcile_failed(self, kind: str) -> None: ...


NO_TRIGGER = "none"
"""As the trigger in metrics: no event was received, and a full reconcile or a recheck found it."""


@dataclass(frozen=True, slots=True)
class ResourceTouched:
    """Something happened to this resource."""

    resource: ResourceName


@dataclass(frozen=True, slots=True)
class EventsMissed:
    """Events may have been missed, or all resources are affected: run a full reconcile."""

    cause: str


Trigger = ResourceTouched | EventsMissed
"""A cheap, lossy signal that a resource may have changed. It starts a reconcile and decides
nothing: an event is only a hint. Triggers that arrive twice, late or never do no harm.
"""


class EventStream(Protocol):
    """A source of events."""

    name: str

    def connect(self) -> AbstractAsyncContextManager[AsyncIterator[Trigger]]:
        """Open one connection. The iterator ends when the peer closes it normally."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All ports of the engine."""

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
    """Raises ValueError for text that is not valid JSON or is too large."""
