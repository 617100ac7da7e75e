"""Tries all writes of a replacement in a dry run, before anything is changed."""

from linstor_affinity_events.engine.ports import Volumes
from linstor_affinity_events.errors import Refused
from linstor_affinity_events.model.changes import changes_decision, taken_over
from linstor_affinity_events.model.decision import Reason, Refusal
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.markers import holder_of, is_marked, mark_patch


async def rejection(volumes: Volumes, pv: Manifest, entry: JournalEntry) -> Refusal | None:
    """Why Kubernetes would not let the volume be replaced, according to a dry run."""
    try:
        marked = await volumes.dry_run(pv, mark_patch(pv, entry.holder), entry.wanted)
    except Refused as error:
        return Refusal(
            Reason.NOT_ALLOWED,
            "Kubernetes would reject its replacement (tried by a dry run, so nothing was "
            f"changed): {error}",
        )
    changed = admission_conflict(entry, marked)
    return Refusal(Reason.NOT_ALLOWED, changed) if changed else None


def admission_conflict(entry: JournalEntry, marked: Manifest) -> str | None:
    """Why the dry run of our replacement markers shows an admission policy that prevents the
    replacement. Labels and annotations that a policy adds become part of the volume.
    """
    if not is_marked(marked) or holder_of(marked) != entry.holder:
        return (
            "an admission policy removes the finalizer, the reclaim policy or one of the "
            "annotations that protect its data during the replacement. Nothing was "
            "changed. Exempt the field manager linstor-affinity-events from that policy"
        )
    changed = changes_decision(entry.wanted, taken_over(entry.wanted, marked))
    return changed and f"an admission policy changes its {changed} on every update"
