"""Changes for which LINSTOR sends no event: with its database as a trigger source, and without."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.absence import absences
from benchmarks.figures import percentile
from benchmarks.programs import SERVICE, Program
from benchmarks.report import Goal, Report, Row
from tests.fakes.linstor_server import Timing
from tests.real_parts.build import ensure_built
from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters, manifests
from tests.testbed.database import Database
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

FEW = 20
"""Volumes that the full reconcile is to find: each waits for up to a minute."""

APART = 3.0
"""Seconds between their moves, so that these are spread over the reconcile period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoEvent:
    """One run. Times in milliseconds, in order."""

    triggers: str
    waits: list[float]
    """From the change to the right volume."""
    absent: list[float]
    """Between the watch events of removal and creation, of each replacement."""
    took: float
    lost: int
    """Claims that a watch saw become Lost."""
    entries_left: int

    def row(self) -> Row:
        return {
            "database hints": self.triggers,
            "volumes": len(self.waits),
            "p50": percentile(self.waits, 0.5),
            "p90": percentile(self.waits, 0.9),
            "p99": percentile(self.waits, 0.99),
            "max": self.waits[-1],
            "volumes/s": len(self.waits) / self.took,
            "away p50": percentile(self.absent, 0.5),
            "away max": self.absent[-1],
            "Lost": self.lost,
            "entries left": self.entries_left,
        }

    def goals(self) -> list[Goal]:
        what = f"database hints {self.triggers}"
        return [
            Goal(what=f"claims seen Lost, {what}", found=self.lost, most=0, must=True),
            Goal(what=f"entries left, {what}", found=self.entries_left, most=0, must=True),
        ]


async def measure_no_event(
    volumes: int,
    directory: Path,
    *,
    few: int = FEW,
    timing: Timing | None = None,
    program: Program = SERVICE,
) -> list[Report]:
    """Move storage-only replicas: one by one with triggers on, and a few, spread out, with off."""
    binaries = await asyncio.to_thread(ensure_built)
    found = []
    async with (
        RealCluster(binaries=binaries, directory=directory) as parts,
        clusters.real(parts) as cluster,
        Testbed.of(cluster, timing=timing) as testbed,
    ):
        await testbed.prepare(nodes=4)
        names = [f"pvc-{number:04}" for number in range(volumes)]
        for name in names:
            testbed.place(name, ["n1"], layers=("STORAGE",))
            await testbed.bind(name, manifests.on_nodes(["n1"]))
            await testbed.until_bound(name)
        database = Database(cluster, testbed.world)
        await database.make()
        await database.mirror()
        for wish, moved, apart in (("on", names, 0.0), ("off", names[:few], APART)):
            service = Service(
                kubeconfig=cluster.kubeconfig,
                linstor=testbed.linstor.url,
                log=directory / f"no-event-{wish}.log",
                flags=(f"--watch-linstor-database={wish}",),
                program=program,
            )
            found.append(await _run(testbed, database, service, wish, moved, apart))
    return [_report(found)]


async def _run(
    testbed: Testbed,
    database: Database,
    service: Service,
    wish: str,
    names: list[str],
    apart: float,
) -> NoEvent:
    here, there = ("n1", "n2") if wish == "on" else ("n2", "n3")
    changed: dict[str, float] = {}
    waits = []
    async with running(service):
        # The full reconciles at the start are not to find what is changed from here on.
        await asyncio.sleep(5.0)
        began, lost = time.monotonic(), len(testbed.observer.lost)
        for name in names:
            testbed.world.move_silently(name, here, there)
            changed[name] = time.monotonic()
            await database.mirror()
            if not apart:
                waits.append(await testbed.until_on(name, there) - changed[name])
                await testbed.until_bound(name)
            await asyncio.sleep(apart)
        if apart:
            waits = [
                await testbed.until_on(name, there, within=200) - changed[name] for name in names
            ]
        took = time.monotonic() - began
        # The last entry is deleted a moment after its volume is right.
        await asyncio.sleep(2.0)
        entries = len(await testbed.entries())
        await service.stop()
    return NoEvent(
        triggers=wish,
        waits=sorted(1000 * wait for wait in waits),
        absent=sorted(1000 * gap for gap in absences(testbed.observer, names, began)),
        took=took,
        lost=len(testbed.observer.lost) - lost,
        entries_left=entries,
    )


def _report(found: Sequence[NoEvent]) -> Report:
    return Report(
        name="no-event",
        title="Changes that LINSTOR tells nobody of: from the change to the volume, ms",
        rows=[each.row() for each in found],
        goals=[goal for each in found for goal in each.goals()],
    )
