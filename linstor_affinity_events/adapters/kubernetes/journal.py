"""Notes of unfinished replacements: one ConfigMap each, in our own namespace."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from linstor_affinity_events.adapters.bodies import MIB, parse_json
from linstor_affinity_events.adapters.kubernetes.api import (
    BODY_LIMIT,
    KubeApi,
    escaped,
    list_metadata,
)
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.errors import (
    BadNote,
    Conflict,
    Expired,
    Invalid,
    Missing,
    TooLong,
    Unreachable,
)
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.heading import Heading, heading_of, read_heading
from linstor_affinity_events.model.keys import OURSELVES, VolumeKey
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.note import Note, read_note

log = logging.getLogger(__name__)

LABEL = f"{OURSELVES}/note"
PAGE, PAGE_LIMIT = 500, 4 * MIB
"""Entries in one page at most, and its size; the metadata of one can't exceed it."""

MOST_ENTRIES, MOST_BYTES = 10_000, 64 * MIB
"""What one list reads, a page more at most. There are hardly more entries than --workers, if all is
well, of some 1 KiB each.
"""

MOST_EXPIRED = 3
"""How often one list is continued after the API server has forgotten what it began with."""

MOST_READS = 20
"""How many entries without annotations are read while the others are listed."""

MOST_REFUSED = 10_000

_KEY = "note.json"
_PREFIX = "affinity-note-"
_LONGEST_NAME = 253


def note_name(pv: PvName) -> str:
    """The name of the ConfigMap for a volume; a hash stands for a name that leaves no room."""
    name = f"{_PREFIX}{pv}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{_PREFIX}{hashlib.sha256(pv.encode()).hexdigest()}"


@dataclass(slots=True)
class _Round:
    """What one list has found, and what it may still cost."""

    token: str
    """Where it goes on; empty to begin, and at the end."""

    entries: int
    bytes: int
    found: dict[PvName, VolumeKey] = field(default_factory=dict)
    expired: int = MOST_EXPIRED
    reads: int = MOST_READS
    unread: bool = False
    whole: bool = True
    """Whether it has begun with the first of all entries."""


class KubeJournal:
    """Implements engine.ports.Journal. A note is guarded by `uid/resourceVersion`.

    Whoever can write ConfigMaps can write any number of them, as large as they may be. So a list
    asks for their metadata alone, for so much in one go and no more, and goes on the next time.
    """

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{escaped(namespace)}/configmaps"
        self._refused: dict[str, str] = {}
        """The version of each ConfigMap that was read and is no note; it is not read again."""
        self._next = ""
        """Where the next list goes on; empty to begin with the first entry."""
        self._size = PAGE
        self._told_of_many = False

    async def all(self) -> Listed:
        round_ = _Round(self._next, MOST_ENTRIES, MOST_BYTES, whole=not self._next)
        while True:
            page = await self._page(round_)
            for item in page.get("items") or ():
                await self._list(item, round_)
            round_.token = str(list_metadata(page).get("continue") or "")
            if not round_.token or round_.entries <= 0 or round_.bytes <= 0:
                break
        # Not before: what a list that fails has found by then is for the next one to find.
        self._next = round_.token
        whole = round_.whole and not round_.token and not round_.unread
        self._tell_of_many(round_, whole=whole)
        return Listed(round_.found, whole=whole)

    async def _page(self, round_: _Round) -> Mapping[str, Any]:
        """One page of the metadata; a shorter one where the entries are large."""
        while True:
            size = max(1, min(self._size, PAGE, round_.entries))
            query = {"labelSelector": f"{LABEL}=true", "limit": str(size)}
            if round_.token:
                query["continue"] = round_.token
            limit = PAGE_LIMIT if size > 1 else BODY_LIMIT
            try:
                page, read = await self._api.get_metadata(self._path, query, limit=limit)
            except TooLong:
                if size == 1:
                    raise
                round_.bytes -= limit
                self._size = size // 4
            except Expired as error:
                self._go_on(round_, error)
            except Invalid as error:
                self._next = ""
                raise Unreachable(str(error)) from error
            else:
                found = len(page.get("items") or ())
                round_.entries -= found
                round_.bytes -= read
                if found:
                    self._size = max(1, PAGE_LIMIT // 2 * found // read)
                return page

    def _go_on(self, round_: _Round, error: Expired) -> None:
        """Continue with what is there by now, as the API server offers, or begin again. Otherwise
        nothing behind the entries that can be read in five minutes would ever be listed.
        """
        if not round_.expired:
            self._next = ""
            raise Unreachable(str(error)) from error
        round_.expired -= 1
        round_.token = error.go_on
        round_.whole |= not round_.token

    async def _list(self, item: Mapping[str, Any], round_: _Round) -> None:
        """Take note of an entry by its annotations or, without any to go by, by what it says."""
        metadata = item["metadata"]
        name = str(metadata["name"])
        if self._refused.get(name) == _version(metadata):
            return
        heading = read_heading(metadata.get("annotations"))
        if heading is None or note_name(heading[0]) != name:
            if not round_.reads:
                round_.unread = True
                return
            round_.reads -= 1
            heading = await self._read_alone(name)
        if heading is not None:
            round_.found[heading[0]] = heading[1]

    async def _read_alone(self, name: str) -> Heading | None:
        why = None
        try:
            note = await self._read(name)
        except BadNote as error:
            note, why = None, error
        if why is not None:
            log.error(
                "note refused; nothing is done for it until it is mended or deleted",
                extra=facts(configmap=name, why=why),
            )
        return None if note is None else (note.pv, note.key)

    def _tell_of_many(self, round_: _Round, *, whole: bool) -> None:
        """Once for as long as it lasts."""
        if not whole and not self._told_of_many:
            log.warning(
                "too many journal entries to list all of them in one full reconcile; the others "
                "are listed in the next ones. Check who creates ConfigMaps with this label",
                extra=facts(label=LABEL, listed=MOST_ENTRIES - round_.entries),
            )
        self._told_of_many = not whole

    async def read(self, name: PvName) -> Note | None:
        return await self._read(note_name(name))

    async def _read(self, name: str) -> Note | None:
        """Read one ConfigMap. Raises BadNote, and remembers that."""
        try:
            manifest = await self._api.get(f"{self._path}/{escaped(name)}")
        except Missing:
            return None
        try:
            return _note_in(manifest)
        except BadNote:
            self._refused.pop(name, None)
            self._refused[name] = _version(manifest["metadata"])
            if len(self._refused) > MOST_REFUSED:
                del self._refused[next(iter(self._refused))]
            raise

    async def create(self, note: Note) -> Note:
        return _note(await self._api.create(self._path, _manifest(note)))

    async def save(self, note: Note) -> Note:
        path = f"{self._path}/{escaped(note_name(note.pv))}"
        try:
            return _note(await self._api.replace(path, _manifest(note)))
        except Missing as error:
            raise Conflict(str(error)) from error

    async def drop(self, note: Note) -> None:
        uid, _, version = note.version.partition("/")
        path = f"{self._path}/{escaped(note_name(note.pv))}"
        try:
            await self._api.delete(path, uid=uid, version=version)
        except Missing:
            return


def _manifest(note: Note) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": note_name(note.pv),
        "labels": {LABEL: "true", "app.kubernetes.io/managed-by": OURSELVES},
        "annotations": heading_of(note),
    }
    if note.version:
        metadata["uid"], _, metadata["resourceVersion"] = note.version.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {_KEY: orjson.dumps(note.written()).decode()},
    }


def _note(manifest: Mapping[str, Any]) -> Note:
    text = (manifest.get("data") or {}).get(_KEY)
    if not isinstance(text, str):
        raise BadNote(f"it has no {_KEY}")
    try:
        tree = parse_json(text, "the note")
    except Unreachable as error:
        raise BadNote(str(error)) from error
    return read_note(tree, version=_version(manifest["metadata"]))


def _note_in(manifest: Mapping[str, Any]) -> Note:
    """The note in a ConfigMap, which has to be the one for that note."""
    note, name = _note(manifest), manifest["metadata"]["name"]
    if note_name(note.pv) != name:
        raise BadNote(f"the note kept in {name} is for {note.pv}")
    return note


def _version(metadata: Mapping[str, Any]) -> str:
    return f"{metadata['uid']}/{metadata['resourceVersion']}"
