"""The annotations of a journal entry, so that listing entries does not require reading them.

Whoever can write entries can write them, so they only start a reconcile that reads the entry
itself.
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
    """The annotations for this entry."""
    return {PV_ANNOTATION: entry.pv, VOLUME_ANNOTATION: str(entry.key)}


def read_heading(annotations: object) -> Heading | None:
    """The volume that the annotations name; None if they are not valid."""
    found: Mapping[str, Any] = annotations if isinstance(annotations, Mapping) else {}
    name, volume = found.get(PV_ANNOTATION), found.get(VOLUME_ANNOTATION)
    if not is_pv_name(name) or not isinstance(volume, str):
        return None
    try:
        key = parse_handle(volume)
    except BadHandle:
        return None
    return (PvName(str(name)), key) if volume == str(key) else None
