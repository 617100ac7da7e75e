"""The journal of unfinished replacements: one ConfigMap per entry, in the journal's namespace."""

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, escaped
from linstor_affinity_events.adapters.kubernetes.pages import PAGE, ListLimits, Pages
from linstor_affinity_events.adapters.kubernetes.recent import remember
from linstor_affinity_events.adapters.kubernetes.responses import object_of
from linstor_affinity_events.adapters.transport.bodies import MIB, parse_json
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.errors import (
    BadEntry,
    Conflict,
    Expired,
    Invalid,
    Missing,
    Refused,
    Unreachable,
)
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.heading import Heading, heading_of, read_heading
from linstor_affinity_events.model.journal_entry import JournalEntry, read_entry
from linstor_affinity_events.model.keys import OURSELVES, VolumeKey
from linstor_affinity_events.model.names import LONGEST_NAME, PvName

log = logging.getLogger(__name__)

Value = TypeVar("Value")

LABEL = f"{OURSELVES}/journal"
PAGE_LIMIT = 3 * MIB
"""The most bytes of a page of several entries. Half of it, which pages aim at, never has too many
values, not even if all of it is commas.
"""

MOST_ENTRIES, MOST_BYTES = 10_000, 64 * MIB
"""The most that one listing reads, plus at most one page. In steady state there are hardly more
entries than --workers, of some 1 KiB each.
"""

MOST_EXPIRED = 3
"""How often one listing continues after the API server has dropped the version it started at."""

MOST_READS = 20
"""How many entries without annotations one listing reads."""

MOST_REFUSED = 10_000

MOST_HELD = 50_000
"""How many deleted entries are remembered that a finalizer keeps. It takes about 10 MB."""

_KEY = "entry.json"
_PREFIX = "affinity-journal-"
_KIND = {"apiVersion": "v1", "kind": "ConfigMap"}


def configmap_name(pv: PvName) -> str:
    """Return the name of the ConfigMap for a volume, with a hash if the name is too long."""
    name = f"{_PREFIX}{pv}"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{_PREFIX}{hashlib.sha256(pv.encode()).hexdigest()}"


@dataclass(slots=True)
class _Listing:
    """What one listing has found, and what it may still read."""

    entries: int = 0
    found: dict[PvName, VolumeKey] = field(default_factory=dict)
    reads: int = MOST_READS
    unread: bool = False
    """Whether it left out entries that it could not read."""
    invalid: int = 0


class KubeJournal:
    """Implements engine.ports.Journal. Writes to an entry are guarded by `uid/resourceVersion`.

    A client that can write ConfigMaps can write any number of them, of any permitted size. So a
    listing reads only their metadata, up to a limit, and the next listing continues there.
    """

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self._path = f"/api/v1/namespaces/{escaped(namespace)}/configmaps"
        self._refused: dict[str, str] = {}
        """The version of each ConfigMap that is not a valid entry; that one is not read again."""
        self._held: dict[str, None] = {}
        """The version of each entry that was deleted here and that a finalizer keeps."""
        self._next = ""
        """Where the next listing continues; empty to start with the first entry."""
        self._size = PAGE
        self._warned_of_too_many = False

    async def all(self) -> Listed:
        pages = Pages(
            self._api,
            self._path,
            {"labelSelector": f"{LABEL}=true"},
            limits=ListLimits(
                page=PAGE_LIMIT, objects=MOST_ENTRIES, bytes=MOST_BYTES, restarts=MOST_EXPIRED
            ),
            metadata_only=True,
            token=self._next,
            size=self._size,
        )
        listing = _Listing()
        try:
            async for items in pages:
                listing.entries += len(items)
                for item in items:
                    await self._list(item, listing)
        except (Expired, Invalid, Missing) as error:
            # Nothing can be read from there on.
            self._next = ""
            raise Unreachable(str(error)) from error
        finally:
            self._size = pages.size
        # Set only now: if the listing fails, the next one must find the same entries again.
        self._next = pages.token
        first, last = pages.from_start, not pages.token
        whole = first and last and not listing.unread
        self._warn_of_too_many(listing, whole=whole)
        return Listed(
            listing.found,
            whole=whole,
            first=first,
            last=last,
            unread=listing.unread,
            invalid=listing.invalid,
        )

    async def _list(self, item: Mapping[str, Any], listing: _Listing) -> None:
        """Add an entry by its annotations or, if these are not usable, by its content."""
        metadata = item["metadata"]
        name = str(metadata["name"])
        version = _version(metadata)
        if version in self._held:
            return
        if self._refused.get(name) == version:
            listing.invalid += 1
            return
        heading = read_heading(metadata.get("annotations"))
        if heading is None or configmap_name(heading[0]) != name:
            if not listing.reads:
                listing.unread = True
                return
            listing.reads -= 1
            heading = await self._read_heading(name, listing)
        if heading is not None:
            listing.found[heading[0]] = heading[1]

    async def _read_heading(self, name: str, listing: _Listing) -> Heading | None:
        why = None
        try:
            entry = await self._read(name)
        except BadEntry as error:
            entry, why = None, error
        if why is not None:
            listing.invalid += 1
            log.error(
                "journal entry is not valid and is ignored until it is corrected or "
                "deleted. Find out who wrote it, and whether the PersistentVolume in "
                "the name of the ConfigMap is missing; see docs/reliability.md",
                extra=facts(namespace=self._namespace, configmap=name, error=why),
            )
        return None if entry is None else (entry.pv, entry.key)

    def _warn_of_too_many(self, listing: _Listing, *, whole: bool) -> None:
        """Warn once for as long as the condition lasts."""
        if not whole and not self._warned_of_too_many:
            log.warning(
                "too many journal entries to list all of them at once; the others are "
                "listed next, so an unfinished replacement may be completed minutes later. "
                "Find out who creates ConfigMaps with this label",
                extra=facts(
                    namespace=self._namespace,
                    label=f"{LABEL}=true",
                    configmaps_listed=listing.entries,
                ),
            )
        self._warned_of_too_many = not whole

    async def read(self, name: PvName) -> JournalEntry | None:
        return await self._read(configmap_name(name))

    async def _read(self, name: str) -> JournalEntry | None:
        """Read one ConfigMap. Raises BadEntry, and remembers its version."""
        try:
            response = await self._api.get(f"{self._path}/{escaped(name)}")
        except Missing:
            return None
        manifest = self._config_map(response)
        try:
            return _verified_entry(manifest)
        except BadEntry:
            remember(self._refused, name, _version(manifest["metadata"]), most=MOST_REFUSED)
            raise

    async def create(self, entry: JournalEntry) -> JournalEntry:
        return _entry(self._config_map(await self._create(_manifest(entry))))

    async def dry_run_creation(self) -> None:
        """Try to create an entry in a dry run. Raises Refused if the namespace does not exist, and
        Forbidden if the account may not create entries there.
        """
        metadata = {"name": f"{_PREFIX}check", "labels": {LABEL: "true"}}
        with suppress(Conflict):
            await self._create({**_KIND, "metadata": metadata}, dry_run=True)

    async def _create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Any:
        try:
            return await self._api.create(self._path, manifest, dry_run=dry_run)
        except Missing as error:
            raise Refused(
                f"namespace {self._namespace}, in which journal entries are kept, does not exist. "
                "Create it, or name another one with --journal-namespace "
                "(LINSTOR_AFFINITY_JOURNAL_NAMESPACE)"
            ) from error

    async def save(self, entry: JournalEntry) -> JournalEntry:
        path = f"{self._path}/{escaped(configmap_name(entry.pv))}"
        try:
            return _entry(self._config_map(await self._api.replace(path, _manifest(entry))))
        except Missing as error:
            raise Conflict(str(error)) from error

    async def drop(self, entry: JournalEntry) -> None:
        uid, _, version = entry.version.partition("/")
        path = f"{self._path}/{escaped(configmap_name(entry.pv))}"
        try:
            response = await self._api.delete(path, uid=uid, version=version)
        except Missing:
            return
        # Without finalizers it is deleted at once and the response is a Status.
        if response.get("kind") != "Status":
            held = self._config_map(response)
            remember(self._held, _version(held["metadata"]), None, most=MOST_HELD)

    def _config_map(self, response: dict[str, Any]) -> dict[str, Any]:
        return object_of("ConfigMap", response, self._path)


def _manifest(entry: JournalEntry) -> dict[str, Any]:
    """Raises Refused for an entry that nobody could read again: with texts of others, and labels
    of LINSTOR, it can have too many values. It must not be stored then.
    """
    try:
        text = orjson.dumps(entry.written()).decode()
        _read_text(text)
    except (BadEntry, orjson.JSONEncodeError) as error:
        raise Refused(
            f"the journal entry of PersistentVolume {entry.pv} is not written, since it could not "
            f"be read again: {error}"
        ) from error
    metadata: dict[str, Any] = {
        "name": configmap_name(entry.pv),
        "labels": {LABEL: "true", "app.kubernetes.io/managed-by": OURSELVES},
        "annotations": heading_of(entry),
    }
    if entry.version:
        metadata["uid"], _, metadata["resourceVersion"] = entry.version.partition("/")
    return {**_KIND, "metadata": metadata, "data": {_KEY: text}}


def _entry(manifest: Mapping[str, Any]) -> JournalEntry:
    text = (manifest.get("data") or {}).get(_KEY)
    if not isinstance(text, str):
        raise BadEntry(f"it has no key {_KEY}")
    return _read_text(text, _version(manifest["metadata"]))


def _read_text(text: str, version: str = "") -> JournalEntry:
    try:
        tree = parse_json(text, "the journal entry")
    except Unreachable as error:
        raise BadEntry(str(error)) from error
    return read_entry(tree, version=version)


def _verified_entry(manifest: Mapping[str, Any]) -> JournalEntry:
    """Return the entry in a ConfigMap, whose name must be that of the entry's volume."""
    entry, name = _entry(manifest), manifest["metadata"]["name"]
    if configmap_name(entry.pv) != name:
        raise BadEntry(f"ConfigMap {name} holds the entry of {entry.pv}")
    return entry


def _version(metadata: Mapping[str, Any]) -> str:
    return f"{metadata['uid']}/{metadata['resourceVersion']}"
