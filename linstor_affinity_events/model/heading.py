"""What a journal entry is labelled with, so that a list of entries need not read them.

The labels are written by whoever can write entries, so they start a look at the entry itself and
nothing else.
"""

from collections.abc import Mapping
from typing import Any

from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import OURSELVES, VolumeKey, parse_handle
from linstor_affinity_events.model.names import PvName, is_pv_name

PV_ANNOTATION = f"{OURSELVES}/persistent-volume"
VOLUME_ANNOTATION = f"{OURSELVES}/linstor-volume"

Heading = tuple[PvName, VolumeKey]


def heading_of(entry: JournalEntry) -> dict[str, str]:
    """The annotations of its entry."""
    return {PV_ANNOTATION: entry.pv, VOLUME_ANNOTATION: str(entry.key)}


def read_heading(annotations: object) -> Heading | None:
    """The volume that an entry says that it is for; None if it does not say so properly."""
    found: Mapping[str, Any] = annotations if isinstance(annotations, Mapping) else {}
    name, volume = found.get(PV_ANNOTATION), found.get(VOLUME_ANNOTATION)
    if not is_pv_name(name) or not isinstance(volume, str):
        return None
    try:
        key = parse_handle(volume)
    except BadHandle:
        return None
    return (PvName(str(name)), key) if volume == str(key) else None
