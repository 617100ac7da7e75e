"""What `make bench` and `make bench-full` measure."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.burst import measure_burst
from benchmarks.latency import measure_latency
from benchmarks.no_event import measure_no_event
from benchmarks.programs import Program
from benchmarks.report import Report
from benchmarks.scale import measure_scale
from tests.fakes.linstor_server import Timing

NAMES = ("latency", "burst", "no-event", "scale")

REALISTIC = Timing(rest_delay=0.0005, property_write_delay=0.45)
"""How long LINSTOR itself takes, without what DRBD does: no event waits for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One of NAMES, ready to be made in a directory of its own."""

    name: str
    measure: Callable[[Path], Awaitable[list[Report]]]


def short(timing: Timing | None, program: Program) -> tuple[Measurement, ...]:
    """Some minutes; enough to see what a change of the code does."""
    return (
        Measurement(
            name="latency",
            measure=lambda logs: measure_latency(100, logs, timing=timing, program=program),
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
        Measurement(
            name="latency",
            measure=lambda logs: measure_latency(500, logs, timing=timing, program=program),
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
