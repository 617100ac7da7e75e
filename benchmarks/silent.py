"""Changes for which LINSTOR sends no event: with its database as a source of hints, and without."""

import asyncio
import time
from pathlib import Path

from benchmarks.figures import Figures, figures
from tests.real_parts.build import ensure_built
from tests.real_parts.cluster import RealCluster
from tests.stage import clusters, manifests
from tests.stage.database import Database
from tests.stage.service import Service, running
from tests.stage.stage import Stage

APART = 3.0
"""Seconds between moves that the full pass is to find: they fall all over its period."""


async def measure_silent(volumes: int, directory: Path) -> list[Figures]:
    """Move storage-only replicas: one by one with hints on, and a few, spread in time, with off."""
    binaries = await asyncio.to_thread(ensure_built)
    found = []
    async with (
        RealCluster(binaries=binaries, directory=directory) as parts,
        clusters.real(parts) as cluster,
        Stage.of(cluster) as stage,
    ):
        await stage.prepare(nodes=4)
        names = [f"pvc-{number:04}" for number in range(volumes)]
        for name in names:
            stage.place(name, ["n1"], layers=("STORAGE",))
            await stage.bind(name, manifests.on_nodes(["n1"]))
            await stage.until_bound(name)
        database = Database(cluster, stage.world)
        await database.make()
        await database.mirror()
        for wish, few, apart in (("on", names, 0.0), ("off", names[:20], APART)):
            found.append(await _run(stage, database, wish, few, apart, directory))
    return found


async def _run(
    stage: Stage, database: Database, wish: str, names: list[str], apart: float, directory: Path
) -> Figures:
    here, there = ("n1", "n2") if wish == "on" else ("n2", "n3")
    service = Service(
        kubeconfig=stage.cluster.kubeconfig,
        linstor=stage.linstor.url,
        log=directory / f"silent-{wish}.log",
        flags=(f"--database-hints={wish}",),
    )
    changed: dict[str, float] = {}
    waits = []
    async with running(service):
        # The passes at the start are not to find what is changed from here on.
        await asyncio.sleep(5.0)
        began, lost = time.monotonic(), len(stage.observer.lost)
        for name in names:
            stage.world.move_silently(name, here, there)
            changed[name] = time.monotonic()
            await database.mirror()
            if not apart:
                waits.append(await stage.until_on(name, there) - changed[name])
                await stage.until_bound(name)
            await asyncio.sleep(apart)
        if apart:
            waits = [
                await stage.until_on(name, there, patience=200) - changed[name] for name in names
            ]
        took = time.monotonic() - began
        # The last note goes a moment after its volume is right.
        await asyncio.sleep(2.0)
        notes = len(await stage.notes())
        await service.stop()
    lost = len(stage.observer.lost) - lost
    return figures(f"no event, database hints {wish}", waits, took, [0.0], lost, notes)
