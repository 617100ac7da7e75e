"""Takes over unfinished replacements of the reference controller, saved as a LINSTOR property.

Whoever can write to LINSTOR can write such a property, and other Kubernetes clusters may share the
LINSTOR cluster. So it is followed only if objects of this cluster confirm it: the PersistentVolume
exists in the state that the controller leaves, or its claim exists and refers to it.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

from linstor_affinity_events.engine.by_definition import ByDefinition, Where
from linstor_affinity_events.engine.cluster_view import ClusterView
from linstor_affinity_events.engine.event_reasons import EventReason
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.errors import Again, BadEntry, Conflict, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.journal_entry import JournalEntry, State, read_saved
from linstor_affinity_events.model.keys import VolumeKey, provisioned_for
from linstor_affinity_events.model.manifest import (
    RETAIN,
    Manifest,
    claim_of,
    is_terminating,
    name_of,
    phase_of,
    uid_of,
)
from linstor_affinity_events.model.markers import adoption_patch, reference_unmarking
from linstor_affinity_events.model.names import ResourceName, Uid, few
from linstor_affinity_events.model.ownership import (
    claim_is_as_recorded,
    claim_is_leaving,
    has_class_of,
    has_mode_of,
    left_by_the_reference,
)
from linstor_affinity_events.model.placement import Definition

log = logging.getLogger(__name__)

_IGNORED = (
    "saved PersistentVolume in LINSTOR is ignored, for the reason in the message: it is neither "
    "restored nor deleted. linstor-affinity-controller saves one while it recreates it. If no "
    "cluster lacks it, delete the property Aux/affinity-updater-saved-pv of this volume definition"
)
_NOT_DELETED = (
    "saved PersistentVolume in LINSTOR (property Aux/affinity-updater-saved-pv) is not needed any "
    "more, but LINSTOR rejects its deletion; that is retried. No volume is missing because of it"
)
_TOO_MANY = (
    "so many saved PersistentVolumes in LINSTOR are ignored that no further ones are read; delete "
    "their properties Aux/affinity-updater-saved-pv, if no cluster lacks these volumes"
)
OFF = "it is ignored because of --take-over-saved-volumes=off"
RETRY_APART = 0.1
"""Seconds, on average, between two tries of refused ones, of whatever number there are: LINSTOR
stores hundreds on one definition, and each try reads from Kubernetes.
"""

MOST_REFUSED = 20_000
"""While so many are refused, no further ones are tried. Each takes some 500 bytes of memory."""


@dataclass(frozen=True, slots=True)
class _Rejection:
    text: bytes
    why: bytes
    """Hashes, since both may be long."""
    at: float


def _hash(text: str) -> bytes:
    return sha256(text.encode(errors="surrogatepass")).digest()


class SavedVolumes:
    """Creates journal entries from saved PVs of unfinished replacements, and drops the others."""

    def __init__(
        self, ports: Ports, *, replacer: Replacer, cluster_view: ClusterView, enabled: bool = True
    ) -> None:
        self._linstor, self._volumes, self._index = ports.linstor, ports.volumes, ports.index
        self._replacer, self._cluster_view = replacer, cluster_view
        self._parse_json, self._enabled = ports.parse_json, enabled
        self._refused = ByDefinition[_Rejection]()
        self._done = ByDefinition[bytes]()
        """With a hash of the text, which may be long."""

    def __len__(self) -> int:
        """Number of saved PVs that are remembered, some of them twice."""
        return len(self._refused) + len(self._done)

    def keep(self, saved: Collection[ResourceName]) -> None:
        """Forget those of all other definitions: LINSTOR has them no longer."""
        self._refused.keep(saved)
        self._done.keep(saved)

    async def take_over(self, definition: Definition) -> None:
        """Take over each saved PV of a definition.

        One that can't be trusted, or belongs to another cluster, is reported once and stays. It is
        tried again, the less often the more such there are.
        """
        for remembered in (self._refused, self._done):
            remembered.keep_numbers(definition.resource, definition.saved)
        for number, text in definition.saved.items():
            where, known = (definition.resource, number), _hash(text)
            # Never take over twice one that could not be dropped: by now another client may have
            # deleted the volume.
            if self._done.get(where) != known:
                if self._is_too_early(where, known):
                    continue
                try:
                    if not await self._take_over(definition, number, text):
                        continue
                except BadEntry as error:
                    self._refuse(where, known, str(error))
                    continue
                self._done.put(where, known)
            try:
                await self._linstor.forget_saved(definition.resource, number)
            except (Again, Refused) as error:
                # The work is done; the volumes must not wait until LINSTOR accepts the write.
                self._refuse(where, known, str(error), _NOT_DELETED)
                continue
            self._refused.drop(where)
            self._done.drop(where)

    def _is_too_early(self, where: Where, text: bytes) -> bool:
        refused = self._refused.get(where)
        if refused is None or refused.text != text:
            return refused is None and len(self._refused) >= MOST_REFUSED
        age = asyncio.get_running_loop().time() - refused.at
        return age < len(self._refused) * RETRY_APART

    def _refuse(self, where: Where, text: bytes, why: str, message: str = _IGNORED) -> None:
        before = self._refused.get(where)
        now = _Rejection(text, _hash(why), asyncio.get_running_loop().time())
        self._refused.put(where, now)
        if before is not None and (before.text, before.why) == (now.text, now.why):
            return
        rd, number = where
        log.warning(message, extra=facts(resource=rd, volume_number=number, message=why))
        if len(self._refused) == MOST_REFUSED:
            log.warning(_TOO_MANY, extra=facts(number=MOST_REFUSED))

    async def _take_over(self, definition: Definition, number: int, text: str) -> bool:
        """Returns whether LINSTOR need not keep it any longer: the volume exists. Its journal entry
        is no reason to, which others may delete or have written. Raises BadEntry with the reason if
        it is not followed.
        """
        if not self._enabled:
            raise BadEntry(OFF)
        try:
            tree = self._parse_json(text)
        except ValueError as error:
            raise BadEntry(f"it is not valid JSON: {error}") from error
        # Before version 1.5 the reference kept it on the definition, for its only volume.
        key = VolumeKey(definition.resource, max(number, 0))
        saved = read_saved(tree, key)
        if name_of(saved) in self._replacer.unfinished.pending:
            return False
        pv = await self._volumes.read(name_of(saved))
        if pv is None:
            if not self._replacer.unfinished.complete:
                # Another absent volume, whose entry is not listed yet, may be for the same key.
                return False
            await self._bring_back(saved, key)
            return False
        if not self._is_the_same(saved, pv, key):
            raise BadEntry(
                f"PersistentVolume {name_of(saved)} of this cluster is for another claim or "
                "volume; it may belong to another Kubernetes cluster that uses this LINSTOR"
            )
        return not left_by_the_reference(pv) or await self._continue(saved, pv, key)

    def _is_the_same(self, saved: Manifest, pv: Manifest, key: VolumeKey) -> bool:
        volume = self._volumes.describe(pv)
        return volume is not None and volume.key == key and claim_of(pv) == claim_of(saved)

    async def _continue(self, saved: Manifest, pv: Manifest, key: VolumeKey) -> bool:
        """Continue with a volume that has the reference controller's markers. Returns whether that
        is all: it was not deleted.
        """
        entry = _entry(saved, key, uid_of(pv))
        policy = entry.policy
        if is_terminating(pv):
            if self._index.deleted_by_others(entry.pv, entry.uid):
                raise BadEntry(
                    "another client deleted its PersistentVolume, before anything had marked it "
                    "as linstor-affinity-controller does"
                )
            await self._try(entry)
            # The entry alone must not undo another client's deletion, so the volume says it as
            # well.
            if patch := adoption_patch(pv, policy):
                await self._volumes.patch(name_of(pv), patch)
            await self._adopt(entry)
            return False
        claim = None if entry.user is None else await self._volumes.read_claim(entry.user)
        # Whoever deletes a claim while its volume has policy Retain may rely on that.
        unmarked = reference_unmarking(
            pv, policy, keep=phase_of(pv) != "Bound" or claim_is_leaving(entry, claim)
        )
        await self._volumes.patch(name_of(pv), unmarked.patch)
        if unmarked.retained:
            self._replacer.unfinished.absent.report_retained(pv)
        kept = RETAIN if unmarked.retained else policy
        log.info(
            "undid a replacement that linstor-affinity-controller had begun: the volume "
            "exists, and was not deleted. Its node affinity is checked next",
            extra=facts(pv=name_of(pv), resource=key, reclaim_policy=kept),
        )
        return True

    async def _bring_back(self, saved: Manifest, key: VolumeKey) -> None:
        """Recreate an absent volume if its claim exists and refers to it."""
        entry = _entry(saved, key, Uid(""))
        if self._index.deleted_by_others(entry.pv, None):
            raise BadEntry("another client deleted its PersistentVolume")
        if entry.user is None:
            raise BadEntry("it has no claim uid")
        claim = await self._volumes.read_claim(entry.user)
        if claim is None or not claim_is_as_recorded(entry, claim):
            raise BadEntry(
                f"its PersistentVolume does not exist, and no claim {entry.user} "
                f"with uid {entry.user.uid} in this cluster refers to it; it may "
                "belong to another Kubernetes cluster that uses this LINSTOR"
            )
        if provisioned_for(key.resource) not in {None, entry.user.uid}:
            raise BadEntry(f"resource {key.resource} was provisioned for another claim")
        if provisioned_for(entry.pv) not in {None, provisioned_for(key.resource)}:
            raise BadEntry(
                f"csi-provisioner names the volume of a claim {entry.pv}, and linstor-csi its "
                f"resource as well, but this is resource {key.resource}; create the volume "
                "yourself if it is yours"
            )
        if not has_class_of(entry.wanted, claim):
            raise BadEntry("it has another StorageClass than its claim")
        if not has_mode_of(entry.wanted, claim):
            raise BadEntry("it has another volumeMode than its claim")
        entry = entry.wanting(self._cluster_view.with_volume_context(entry.wanted))
        if parts := self._cluster_view.unconfirmed(entry.wanted):
            raise BadEntry(
                f"it has {' and '.join(parts)}, which its StorageClass does not "
                "define; create the volume yourself if it is yours"
            )
        if others := self._replacer.others_for(key, but=entry.pv):
            raise BadEntry(f"{few(others)} refers to this LINSTOR volume now")
        await self._try(entry)
        await self._adopt(entry)

    async def _try(self, entry: JournalEntry) -> None:
        """Raises BadEntry if Kubernetes would reject the volume."""
        try:
            await self._volumes.dry_run_creation(entry.wanted)
        except Refused as error:
            why = f"Kubernetes would reject it: {error}"
            self._replacer.unfinished.absent.warn(entry.wanted, EventReason.NOT_TAKEN_OVER, why)
            raise BadEntry(why) from error

    async def _adopt(self, entry: JournalEntry) -> None:
        try:
            await self._replacer.adopt(entry)
        except Conflict:
            # Whoever wrote the other one, it is resumed or dropped first.
            log.debug("a journal entry exists already", extra=facts(pv=entry.pv))
            return
        log.info(
            "completing a replacement that linstor-affinity-controller had begun: the "
            "volume is recreated",
            extra=facts(pv=entry.pv, resource=entry.key),
        )


def _entry(saved: Manifest, key: VolumeKey, uid: Uid) -> JournalEntry:
    return JournalEntry(
        pv=name_of(saved),
        key=key,
        uid=uid,
        claim=claim_of(saved),
        state=State.DELETING,
        wanted=saved,
    )
