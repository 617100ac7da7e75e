"""How long the simulated LINSTOR takes."""

from tests.fakes.linstor_server import Timing

REALISTIC = Timing(rest_delay=0.0005, property_write_delay=0.45)
"""How long LINSTOR itself takes, without what DRBD does: no event waits for that."""
