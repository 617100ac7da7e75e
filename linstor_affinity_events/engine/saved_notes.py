"""Takes over what the reference controller left half-done, noted as a property on LINSTOR.

Whoever can write to LINSTOR can write such a property, and other Kubernetes clusters may share the
LINSTOR. So it is followed only where this cluster's own objects say the same: the PersistentVolume
is here as that controller leaves it, or the claim that it belongs to is here and asks for it.
"""

import logging

from linstor_affinity_events.engine.picture import Picture
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.errors import Again, BadNote, Conflict, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import VolumeKey, provisioned_for
from linstor_affinity_events.model.manifest import (
    Manifest,
    claim_of,
    is_terminating,
    name_of,
    phase_of,
    reference_unmarking,
    uid_of,
)
from linstor_affinity_events.model.names import Uid
from linstor_affinity_events.model.note import Note, State, read_saved
from linstor_affinity_events.model.placement import Definition
from linstor_affinity_events.model.replacement import (
    claim_is_as_noted,
    left,
    left_by_the_reference,
)

log = logging.getLogger(__name__)

SAVED_REASON = "SavedVolumeNotTakenOver"
OFF = "it is left alone, as --take-over-saved-volumes=off says"


class SavedNotes:
    """Makes them notes of our own where a volume is on its way, and drops the others."""

    def __init__(
        self, ports: Ports, *, replacer: Replacer, picture: Picture, enabled: bool = True
    ) -> None:
        self._linstor, self._volumes = ports.linstor, ports.volumes
        self._replacer, self._picture = replacer, picture
        self._parse_json, self._enabled = ports.parse_json, enabled
        self._refused: dict[tuple[str, int], tuple[str, str]] = {}
        self._taken: dict[tuple[str, int], str] = {}

    async def take_over(self, definition: Definition) -> None:
        """See to each saved PersistentVolume of a definition.

        One that can't be trusted, or is another cluster's, is told once and left where it is.
        """
        for number, text in definition.saved.items():
            where = (definition.resource, number)
            # One that was seen to and could not be dropped is not seen to again: by now the volume
            # may be gone because somebody deleted it.
            if self._taken.get(where) != text:
                try:
                    await self._see_to(definition, number, text)
                except BadNote as error:
                    self._refuse(where, text, str(error))
                    continue
                self._taken[where] = text
            try:
                await self._linstor.forget_saved(definition.resource, number)
            except (Again, Refused) as error:
                # What it was for is done; its volumes must not wait for LINSTOR to take a write.
                self._refuse(where, text, f"it was seen to, and can't be dropped: {error}")
                continue
            self._refused.pop(where, None)
            self._taken.pop(where, None)

    def _refuse(self, where: tuple[str, int], text: str, why: str) -> None:
        if self._refused.get(where) == (text, why):
            return
        self._refused[where] = (text, why)
        rd, number = where
        log.warning(
            "saved PersistentVolume on LINSTOR not taken over; the property stays, and nothing is "
            "done for it",
            extra=facts(rd=rd, volume=number, why=why),
        )

    async def _see_to(self, definition: Definition, number: int, text: str) -> None:
        """Raises BadNote that says why it is left."""
        if not self._enabled:
            raise BadNote(OFF)
        try:
            tree = self._parse_json(text)
        except ValueError as error:
            raise BadNote(f"it is no JSON: {error}") from error
        # Before version 1.5 the reference kept it on the definition, for its only volume.
        key = VolumeKey(definition.resource, max(number, 0))
        saved = read_saved(tree, key)
        pv = await self._volumes.read(name_of(saved))
        if pv is None:
            await self._bring_back(saved, key)
        elif not self._is_the_same(saved, pv, key):
            raise BadNote(
                f"PersistentVolume {name_of(saved)} of this cluster is for another claim or "
                "volume; it may belong to another Kubernetes cluster that uses this LINSTOR"
            )
        elif left_by_the_reference(pv):
            await self._go_on(saved, pv, key)

    def _is_the_same(self, saved: Manifest, pv: Manifest, key: VolumeKey) -> bool:
        volume = self._volumes.describe(pv)
        return volume is not None and volume.key == key and claim_of(pv) == claim_of(saved)

    async def _go_on(self, saved: Manifest, pv: Manifest, key: VolumeKey) -> None:
        """From a volume that wears what the reference puts on it."""
        if is_terminating(pv):
            await self._adopt(_note(saved, key, uid_of(pv)))
            return
        policy = str(saved["spec"].get("persistentVolumeReclaimPolicy", "Retain"))
        note = _note(saved, key, uid_of(pv))
        claim = None if note.user is None else await self._volumes.read_claim(note.user)
        # Whoever deletes a claim whose volume says Retain may rely on that.
        unmarked = reference_unmarking(
            pv, policy, keep=phase_of(pv) != "Bound" or left(note, claim)
        )
        await self._volumes.patch(name_of(pv), unmarked.patch)
        if unmarked.kept:
            self._replacer.unfinished.kept(pv)
        log.info(
            "replacement that the reference controller had begun taken back",
            extra=facts(pv=name_of(pv), rd=key, policy=policy),
        )

    async def _bring_back(self, saved: Manifest, key: VolumeKey) -> None:
        """A volume that is gone, where its claim is here and asks for it."""
        note = _note(saved, key, Uid(""))
        if note.user is None:
            raise BadNote("it names no claim by uid")
        if not claim_is_as_noted(note, await self._volumes.read_claim(note.user)):
            raise BadNote(
                f"its PersistentVolume is gone, and no claim {note.user} of uid {note.user.uid} in "
                "this cluster names it; it may belong to another Kubernetes cluster that uses this "
                "LINSTOR"
            )
        if provisioned_for(key.resource) not in {None, note.user.uid}:
            raise BadNote(f"resource {key.resource} was provisioned for another claim")
        if parts := self._picture.unconfirmed(note.wanted):
            raise BadNote(
                f"it has {' and '.join(parts)}, which its StorageClass does not give to its "
                "volumes; create the volume yourself if it is yours"
            )
        if others := self._replacer.used_by_others(key, but=note.pv):
            raise BadNote(f"{', '.join(others)} stands for this LINSTOR volume now")
        try:
            await self._volumes.rehearse_creation(note.wanted)
        except Refused as error:
            why = f"Kubernetes would not create it: {error}"
            self._replacer.unfinished.warn(note.wanted, SAVED_REASON, why)
            raise BadNote(why) from error
        await self._adopt(note)

    async def _adopt(self, note: Note) -> None:
        try:
            await self._replacer.adopt(note)
        except Conflict:
            log.debug("a note of our own is there already", extra=facts(pv=note.pv))
        log.info("saved PersistentVolume taken over", extra=facts(pv=note.pv, rd=note.key))


def _note(saved: Manifest, key: VolumeKey, uid: Uid) -> Note:
    return Note(
        pv=name_of(saved),
        key=key,
        uid=uid,
        claim=claim_of(saved),
        state=State.DELETING,
        wanted=saved,
    )
