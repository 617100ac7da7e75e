"""What `make bench` and `make bench-full` measure."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.burst import measure_burst
from benchmarks.latency import measure_latency
from benchmarks.linstor_timing import REALISTIC
from benchmarks.no_event import measure_no_event
from benchmarks.programs import Program
from benchmarks.report import Report
from benchmarks.scale import measure_scale
from benchmarks.side_by_side import measure_side_by_side
from tests.fakes.linstor_server import Timing

NAMES = ("side-by-side", "latency", "burst", "no-event", "scale")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One of NAMES, ready to be made in a directory of its own."""

    name: str
    measure: Callable[[Path], Awaitable[list[Report]]]


def _side_by_side(timing: Timing | None, program: Program) -> Measurement:
    return Measurement(
        name="side-by-side",
        measure=lambda logs: measure_side_by_side(
            logs, timing=timing or REALISTIC, program=program
        ),
    )


def short(timing: Timing | None, program: Program) -> tuple[Measurement, ...]:
    """Some minutes; enough to see what a change of the code does."""
    return (
        _side_by_side(timing, program),
        Measurement(
            name="latency",
            measure=lambda logs: measure_latency(100, logs, timing=timing, program=program),
        ),
        Measurement(
            name="latency",
            measure=lambda logs: measure_latency(
                100, logs, timing=timing, program=program, minimal=True
            ),
        ),
        Measurement(
            name="burst",
            measure=lambda logs: measure_burst((100,), logs, timing=timing, program=program),
        ),
        Measurement(
            name="burst",
            measure=lambda logs: measure_burst(
                (100,), logs, binder_limit=None, timing=timing, program=program
            ),
        ),
        Measurement(
            name="no-event",
            measure=lambda logs: measure_no_event(30, logs, few=5, timing=timing, program=program),
        ),
        Measurement(
            name="scale",
            measure=lambda logs: measure_scale(
                (1_000,), logs, starts=3, full_reconciles=2, flood_sizes=(1_000,), program=program
            ),
        ),
    )


def full(timing: Timing | None, program: Program) -> tuple[Measurement, ...]:
    """All that goals are set for; some hours."""
    return (
        _side_by_side(timing, program),
        Measurement(
            name="latency",
            measure=lambda logs: measure_latency(500, logs, timing=timing, program=program),
        ),
        Measurement(
            name="latency",
            measure=lambda logs: measure_latency(
                500, logs, timing=timing, program=program, minimal=True
            ),
        ),
        Measurement(
            name="latency",
            measure=lambda logs: measure_latency(
                500, logs, binder_limit=None, timing=timing, program=program
            ),
        ),
        Measurement(
            name="burst",
            measure=lambda logs: measure_burst(
                (100, 1_000, 5_000), logs, timing=timing, program=program
            ),
        ),
        Measurement(
            name="burst",
            measure=lambda logs: measure_burst(
                (100, 1_000, 5_000), logs, binder_limit=None, timing=timing, program=program
            ),
        ),
        Measurement(
            name="no-event",
            measure=lambda logs: measure_no_event(200, logs, timing=timing, program=program),
        ),
        Measurement(
            name="scale",
            measure=lambda logs: measure_scale(
                (1_000, 10_000, 50_000), logs, seconds=300.0, program=program
            ),
        ),
    )
