"""Notes of unfinished replacements: one ConfigMap each, in our own namespace."""

import hashlib
import logging
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from linstor_affinity_events.adapters.bodies import parse_json
from linstor_affinity_events.adapters.kube_api import KubeApi, escaped, list_metadata
from linstor_affinity_events.errors import BadNote, Conflict, Expired, Missing, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import OURSELVES
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.note import Note, read_note

log = logging.getLogger(__name__)

LABEL = f"{OURSELVES}/note"
_KEY = "note.json"
_PREFIX = "affinity-note-"
_LONGEST_NAME = 253


def note_name(pv: PvName) -> str:
    """The name of the ConfigMap for a volume; a hash stands for a name that leaves no room."""
    name = f"{_PREFIX}{pv}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{_PREFIX}{hashlib.sha256(pv.encode()).hexdigest()}"


class KubeJournal:
    """Implements engine.ports.Journal. A note is guarded by `uid/resourceVersion`."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{escaped(namespace)}/configmaps"
        self._told: dict[str, str] = {}

    async def all(self) -> Collection[Note]:
        notes: list[Note] = []
        query = {"labelSelector": f"{LABEL}=true", "limit": "100"}
        while True:
            try:
                page = await self._api.get(self._path, query)
            except Expired as error:
                raise Unreachable(str(error)) from error
            for manifest in page.get("items") or ():
                try:
                    notes.append(_note(manifest))
                except BadNote as error:
                    self._tell(manifest, error)
            more = list_metadata(page).get("continue")
            if not more:
                return notes
            query["continue"] = more

    def _tell(self, manifest: Mapping[str, Any], error: BadNote) -> None:
        name = manifest["metadata"]["name"]
        if self._told.get(name) != str(error):
            self._told[name] = str(error)
            log.error(
                "note refused; nothing is done for it until it is mended or deleted",
                extra=facts(configmap=name, why=error),
            )

    async def read(self, name: PvName) -> Note | None:
        try:
            manifest = await self._api.get(f"{self._path}/{escaped(note_name(name))}")
        except Missing:
            return None
        note = _note(manifest)
        if note.pv != name:
            raise BadNote(f"the note kept for {name} is for {note.pv}")
        return note

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
    metadata = manifest["metadata"]
    version = f"{metadata['uid']}/{metadata['resourceVersion']}"
    try:
        tree = parse_json(text, "the note")
    except Unreachable as error:
        raise BadNote(str(error)) from error
    return read_note(tree, version=version)
