"""How long the controller and its satellites take for things."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """All in seconds. The defaults keep tests quick; `real` has the measured ones."""

    create_event_delay: float = 0.01
    """From the new replica in REST to DRBD being up, which is the event."""

    delete_event_delay: float = 0.0
    """From the DELETE flag to DRBD being down, which is the event."""

    delete_delay: float = 0.02
    """From there to the replica leaving REST."""

    toggle_delay: float = 0.03
    """From asking for a disk, or for none, to the last change that follows."""

    property_write_delay: float = 0.0
    """Re-adjusting the replicas after any write of properties."""

    satellite_timeout: float = 0.05
    """How long the controller waits for a hung satellite before it gives up."""

    view_delay: float = 0.0
    """Asking the satellites for sizes; only view/resources does."""

    rest_delay: float = 0.0
    """Added to every response but those of the event streams."""

    @classmethod
    def real(cls) -> Self:
        return cls(
            create_event_delay=0.8,
            delete_event_delay=0.4,
            delete_delay=0.9,
            toggle_delay=2.7,
            property_write_delay=0.45,
            satellite_timeout=5.0,
            view_delay=1.0,
            rest_delay=0.001,
        )
