"""A LINSTOR controller made of dictionaries, speaking the real protocol on loopback.

`LinstorWorld` is the cluster, `LinstorServer` its API. Manners follow what was measured on a
real controller 1.33.3; the recorded responses are in tests/data/linstor.
"""

from tests.fakes.linstor_server.event_log import NODES, PROMOTION, Event
from tests.fakes.linstor_server.faults import Faults
from tests.fakes.linstor_server.objects import (
    Definition,
    Node,
    NotThere,
    Replica,
    Taken,
    VolumeDefinition,
)
from tests.fakes.linstor_server.server import LinstorServer
from tests.fakes.linstor_server.timing import Timing
from tests.fakes.linstor_server.world import LinstorWorld

__all__ = [
    "NODES",
    "PROMOTION",
    "Definition",
    "Event",
    "Faults",
    "LinstorServer",
    "LinstorWorld",
    "Node",
    "NotThere",
    "Replica",
    "Taken",
    "Timing",
    "VolumeDefinition",
]
