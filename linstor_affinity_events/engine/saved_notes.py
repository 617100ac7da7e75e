"""Takes over what the reference controller left half-done, noted as a property on LINSTOR."""

import logging
from collections.abc import Callable

from linstor_affinity_events.engine.picture import Picture
from linstor_affinity_events.engine.ports import Linstor, Volumes
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.errors import BadNote, Conflict
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import is_terminating, uid_of
from linstor_affinity_events.model.note import Note, read_saved
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.replacement import left_half_marked
from linstor_affinity_events.model.verdict import Change, decide

log = logging.getLogger(__name__)


class SavedNotes:
    """Makes them notes of our own where a volume is on its way, and drops the others."""

    def __init__(
        self,
        *,
        linstor: Linstor,
        volumes: Volumes,
        replacer: Replacer,
        picture: Picture,
        parse_json: Callable[[str], object],
    ) -> None:
        self._linstor, self._volumes = linstor, volumes
        self._replacer, self._picture = replacer, picture
        self._parse_json = parse_json
        self._refused: dict[tuple[str, int], str] = {}
        self._taken: dict[tuple[str, int], str] = {}

    async def take_over(self, definition: Definition, placement: Placement | None) -> None:
        """See to each saved PersistentVolume of a definition.

        One that can't be trusted is told once and left: an operator may want to see it.
        """
        for number, text in definition.saved.items():
            where = (definition.resource, number)
            try:
                note = self._read(definition, number, text, placement)
            except BadNote as error:
                if self._refused.get(where) != text:
                    self._refused[where] = text
                    log.warning(
                        "saved PersistentVolume on LINSTOR refused",
                        extra=facts(rd=definition.resource, volume=number, why=error),
                    )
                continue
            # One that was taken over and could not be dropped is not taken over again: by now the
            # volume may be gone because somebody deleted it.
            if self._taken.get(where) != text and await self._wanted(note):
                try:
                    await self._replacer.adopt(note)
                except Conflict:
                    log.debug("a note of our own is there already", extra=facts(pv=note.pv))
                self._taken[where] = text
                log.info("saved PersistentVolume taken over", extra=facts(pv=note.pv, rd=note.key))
            await self._linstor.forget_saved(definition.resource, number)
            self._refused.pop(where, None)
            self._taken.pop(where, None)

    def _read(
        self, definition: Definition, number: int, text: str, placement: Placement | None
    ) -> Note:
        try:
            tree = self._parse_json(text)
        except ValueError as error:
            raise BadNote(f"it is no JSON: {error}") from error
        # Before version 1.5 the reference kept it on the definition, for its only volume.
        key = VolumeKey(definition.resource, max(number, 0))
        note = read_saved(tree, key, affinity=None)
        wanted = self._wish(note, definition, placement)
        return note if wanted is None else read_saved(tree, key, affinity=wanted)

    def _wish(
        self, note: Note, definition: Definition, placement: Placement | None
    ) -> NodeAffinity | None:
        volume = self._volumes.describe(note.wanted)
        if volume is None:
            raise BadNote("its PersistentVolume is not one of ours")
        case = self._picture.case(volume, definition, placement)
        if case.twins:
            raise BadNote(f"{', '.join(case.twins)} stands for this LINSTOR volume now")
        verdict = decide(case)
        return verdict.wanted if isinstance(verdict, Change) else None

    async def _wanted(self, note: Note) -> bool:
        """Whether the volume is on its way, so that the note is needed to finish it."""
        pv = await self._volumes.read(note.pv)
        if pv is None:
            return True
        return uid_of(pv) == note.uid and (is_terminating(pv) or left_half_marked(note, pv))
