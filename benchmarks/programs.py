"""Ways to start the service."""

import sys

Program = tuple[str, ...]

SERVICE: Program = (sys.executable, "-m", "linstor_affinity_events")

_ASYNCIO_ONLY = """
import sys

sys.modules["uvloop"] = None
from linstor_affinity_events.cli import main

main()
"""
WITHOUT_UVLOOP: Program = (sys.executable, "-c", _ASYNCIO_ONLY)
"""An import of what is None fails, as where there is no uvloop."""

PROBED: Program = (sys.executable, "-m", "benchmarks.probed")

_PROBED_ON_ASYNCIO = """
import runpy
import sys

sys.modules["uvloop"] = None
runpy.run_module("benchmarks.probed", run_name="__main__")
"""
PROBED_WITHOUT_UVLOOP: Program = (sys.executable, "-c", _PROBED_ON_ASYNCIO)


def probed(program: Program) -> Program:
    """The same way of starting it, with the probe inside."""
    return {SERVICE: PROBED, WITHOUT_UVLOOP: PROBED_WITHOUT_UVLOOP}[program]
