"""The service as ever, with a clock on its event loop: `python -m benchmarks.instrumented run ...`.

What was seen goes, as JSON, to the file that MEASUREMENTS_FILE names, once the service has ended.
With MEASUREMENTS_PROFILE the loop's thread is profiled, which slows it down, and the profile goes
there; with MEASUREMENTS_MEMORY the greatest owners of memory after the second full reconcile are
reported there.
"""

import asyncio
import cProfile
import gc
import json
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from linstor_affinity_events.cli import main
from linstor_affinity_events.cli import run as command
from linstor_affinity_events.engine import engine
from linstor_affinity_events.engine.full_reconcile import FullReconciler

EVERY = 0.005
WORTH_REPORTING = 0.01
"""Seconds from which on a pause of the loop, or a garbage collection, is written down."""

STACK_AFTER = 0.02
OWNERS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A time in which the loop came to nothing else."""

    phase: str
    at: float
    """By the machine's monotonic clock, when it was over."""
    wall: float
    cpu: float
    """Of the loop's thread alone: what others on a busy machine took does not count."""
    stack: str
    """What ran at some moment of it; empty where nobody looked in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    phase: str
    generation: int
    wall: float
    collected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedReconcile:
    """One full reconcile; `cpu` is that of the whole process meanwhile."""

    cause: str
    bulk: bool | None
    """None for one that failed."""
    wall: float
    cpu: float


@dataclass(slots=True)
class Instrumentation:
    """Written to by what follows, and to the file at the end."""

    phase: str = "start"
    blocks: list[Block] = field(default_factory=list)
    collections: list[Collection] = field(default_factory=list)
    full_reconciles: list[CompletedReconcile] = field(default_factory=list)
    ticks: int = 0
    due: float = float("inf")
    """When the loop is to be back next."""
    stack: str = ""

    async def watch_loop(self) -> None:
        """Sleep again and again, and see how late the loop wakes us."""
        while True:
            cpu, self.stack = time.thread_time(), ""
            self.due = time.monotonic() + EVERY
            await asyncio.sleep(EVERY)
            now = time.monotonic()
            late = now - self.due
            self.ticks += 1
            if late >= WORTH_REPORTING:
                used = min(late, time.thread_time() - cpu)
                reported = Block(phase=self.phase, at=now, wall=late, cpu=used, stack=self.stack)
                self.blocks.append(reported)

    def watch_stacks(self, thread: int) -> None:
        """See from beside what the loop is at when it is late."""
        while True:
            time.sleep(EVERY)
            if not self.stack and time.monotonic() - self.due > STACK_AFTER:
                self.stack = _stack_of(thread)

    def watch_collections(self) -> None:
        begun = 0.0

        def entry(phase: str, reported: dict[str, int]) -> None:
            nonlocal begun
            if phase == "start":
                begun = time.perf_counter()
            elif (took := time.perf_counter() - begun) >= WORTH_REPORTING:
                self.stack = f"garbage collection, generation {reported['generation']}"
                self.collections.append(
                    Collection(
                        phase=self.phase,
                        generation=reported["generation"],
                        wall=took,
                        collected=reported["collected"],
                    )
                )

        gc.callbacks.append(entry)


MEASURED = Instrumentation()


class MeasuredFullReconciler(FullReconciler):
    """Measures when a full reconcile begins and ends."""

    async def reconcile_all(self, cause: str) -> None:
        before = self.last
        wall, cpu = time.perf_counter(), time.process_time()
        MEASURED.phase = "first full reconcile" if before is None else "full reconcile"
        try:
            await super().reconcile_all(cause)
        finally:
            done = self.last if self.last is not before else None
            MEASURED.full_reconciles.append(
                CompletedReconcile(
                    cause=cause,
                    bulk=None if done is None else done.bulk,
                    wall=time.perf_counter() - wall,
                    cpu=time.process_time() - cpu,
                )
            )
            MEASURED.phase = "rest"
            if len(MEASURED.full_reconciles) == 2 and tracemalloc.is_tracing():
                _write_owners(Path(os.environ["MEASUREMENTS_MEMORY"]))


def _stack_of(thread: int) -> str:
    """The innermost functions of a thread, each as module:line function."""
    found: list[str] = []
    frame = sys._current_frames().get(thread)  # noqa: SLF001, no other way to see it
    while frame is not None and len(found) < 8:
        code = frame.f_code
        module = frame.f_globals.get("__name__", "?")
        found.append(f"{module}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(found)


def _write_owners(file: Path) -> None:
    """Write down which lines own the most memory that is not free."""
    gc.collect()
    taken = tracemalloc.take_snapshot()
    lines = [f"{tracemalloc.get_traced_memory()[0] / 2**20:.1f} MiB in all"]
    lines += [str(each) for each in taken.statistics("lineno")[:OWNERS]]
    file.write_text("\n".join(lines) + "\n")


def _watched(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    watch: Coroutine[Any, Any, None] = MEASURED.watch_loop()
    # The loop holds its tasks weakly.
    _tasks.append(loop.create_task(watch, name="instrumentation"))
    return loop


_tasks: list[asyncio.Task[None]] = []


def run_instrumented() -> None:
    """Be the command, and write down what was seen when it ends."""
    new_event_loop = command.new_event_loop
    command.new_event_loop = lambda: _watched(new_event_loop())
    # The engine looks this class up by name when it is built, so it can be replaced here.
    vars(engine)["FullReconciler"] = MeasuredFullReconciler
    MEASURED.watch_collections()
    threading.Thread(
        target=MEASURED.watch_stacks,
        args=(threading.get_ident(),),
        daemon=True,
        name="instrumentation",
    ).start()
    if "MEASUREMENTS_MEMORY" in os.environ:
        tracemalloc.start()
    profile = cProfile.Profile() if "MEASUREMENTS_PROFILE" in os.environ else None
    if profile is not None:
        profile.enable()
    try:
        main(prog_name="linstor-affinity-events")
    finally:
        if profile is not None:
            profile.disable()
            profile.dump_stats(os.environ["MEASUREMENTS_PROFILE"])
        reported = {
            "ticks": MEASURED.ticks,
            "blocks": [asdict(each) for each in MEASURED.blocks],
            "collections": [asdict(each) for each in MEASURED.collections],
            "full reconciles": [asdict(each) for each in MEASURED.full_reconciles],
        }
        Path(os.environ["MEASUREMENTS_FILE"]).write_text(json.dumps(reported, indent=1))


if __name__ == "__main__":
    run_instrumented()
