"""The reasons of all Kubernetes Events that the service sends."""

from enum import StrEnum


class EventReason(StrEnum):
    """Each is described in docs/troubleshooting.md."""

    UPDATED = "VolumeAffinityUpdated"
    """Normal; all others are warnings."""

    NOT_UPDATED = "VolumeAffinityNotUpdated"
    """For every `Reason` of a decision, which the text explains."""

    DUPLICATE = "VolumeDuplicate"
    CREATED_DIFFERENT = "VolumeCreatedDifferent"
    UNFINISHED = "VolumeReplacementUnfinished"
    RECREATION_FAILING = "VolumeRecreationFailing"
    RETAINED = "VolumeRetained"
    NOT_TAKEN_OVER = "SavedVolumeNotTakenOver"
