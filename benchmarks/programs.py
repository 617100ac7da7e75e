"""Ways to start the service."""

import sys

Program = tuple[str, ...]

SERVICE: Program = (sys.executable, "-m", "linstor_affinity_events")
PROBED: Program = (sys.executable, "-m", "benchmarks.probed")

_ASYNCIO_ONLY = """
import sys

sys.modules["uvloop"] = None
from linstor_affinity_events.cli import main

main()
"""
WITHOUT_UVLOOP: Program = (sys.executable, "-c", _ASYNCIO_ONLY)
"""An import of what is None fails, as where there is no uvloop."""
