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

INSTRUMENTED: Program = (sys.executable, "-m", "benchmarks.instrumented")

_INSTRUMENTED_ON_ASYNCIO = """
import runpy
import sys

sys.modules["uvloop"] = None
runpy.run_module("benchmarks.instrumented", run_name="__main__")
"""
INSTRUMENTED_WITHOUT_UVLOOP: Program = (sys.executable, "-c", _INSTRUMENTED_ON_ASYNCIO)


def instrumented(program: Program) -> Program:
    """The same way of starting it, with the instrumentation inside."""
    return {SERVICE: INSTRUMENTED, WITHOUT_UVLOOP: INSTRUMENTED_WITHOUT_UVLOOP}[program]
