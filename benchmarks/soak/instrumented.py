"""The service's own command, which also reports on SIGUSR1 which tasks it has, and never pauses the
changes of one volume: here replicas move all the time.

`python -m benchmarks.soak.instrumented run ...` with a file to write to in SOAK_TASKS. The service
publishes no such figure, and nobody but a soak run needs it.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from linstor_affinity_events.cli import main
from linstor_affinity_events.engine import change_backoff

VARIABLE = "SOAK_TASKS"


def _emit(*_: object) -> None:
    file = Path(os.environ[VARIABLE])
    tasks = Counter(_kind(task) for task in asyncio.all_tasks())
    # Whoever waits for the file must not find half of it.
    half = file.with_suffix(".half")
    half.write_text(json.dumps(tasks))
    half.replace(file)


def _kind(task: "asyncio.Task[object]") -> str:
    """What a task runs; its own name may have a number that no other task has."""
    return getattr(task.get_coro(), "__qualname__", "unknown")


if __name__ == "__main__":
    change_backoff.BURST = sys.maxsize
    signal.signal(signal.SIGUSR1, _emit)
    main(prog_name="linstor-affinity-events")
