"""What importing the service costs: every start pays for it, before anything is asked of a peer."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Goal, Report

MOST_MODULES, MOST_CPU = 900, 5.0
"""620 modules and 0.6 s of CPU on 2026-11-26: wide enough for other Pythons and slow machines."""

_PROGRAM = """
import json, sys, time
import linstor_affinity_events.cli.run
print(json.dumps({"modules": len(sys.modules), "cpu": time.process_time()}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imports:
    """What `run` imports before it reads its settings."""

    modules: int
    cpu: float
    """Seconds, those of the interpreter's own start included."""


async def imported() -> Imports:
    """Import it in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    reported, _ = await process.communicate()
    found = json.loads(reported)
    return Imports(modules=found["modules"], cpu=found["cpu"])


async def report() -> Report:
    found = await imported()
    return Report(
        name="imports",
        title="What the command run imports",
        rows=[{"modules": found.modules, "CPU s": found.cpu}],
        goals=[
            Goal(what="modules imported", found=found.modules, most=MOST_MODULES),
            Goal(what="CPU of the imports", found=found.cpu, most=MOST_CPU, unit=" s"),
        ],
    )
