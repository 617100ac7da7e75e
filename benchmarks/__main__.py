"""From event to PersistentVolume on a real kube-apiserver: one at a time, all at once, and where
LINSTOR sends no event.

`make bench` prints a table and, with ARGS=--json=FILE, writes the figures as JSON.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figures, figures
from benchmarks.silent import measure_silent
from tests.real_parts.build import HERE, BuildError, ensure_built
from tests.real_parts.cluster import RealCluster
from tests.stage import clusters
from tests.stage.service import Service, running
from tests.stage.stage import Stage

REAL_PARTS = ", ".join(
    re.findall(r"(?:etcd/server/v3|k8s\.io/kubernetes) v[\d.]+", (HERE / "go.mod").read_text())
)
VERSIONS = ("aiohttp", "kubernetes-asyncio", "orjson", "uvloop")


def last_event_before(stage: Stage, name: str, at: float) -> float:
    """When LINSTOR told for the last time of a volume's resource before the volume was right."""
    return max(
        event.at
        for event in stage.world.emitted
        if event.at <= at and event.payload.get("resource_name") == name
    )


def times_away(stage: Stage, names: list[str], since: float) -> list[float]:
    """Of each replacement, the time in which there was no volume."""
    found = []
    for name in names:
        history = [seen for seen in stage.observer.history[name] if seen.at >= since]
        found += [
            later.at - sooner.at
            for sooner, later in pairwise(history)
            if sooner.kind == "DELETED" and later.kind == "ADDED"
        ]
    return found


async def one_by_one(stage: Stage, names: list[str], here: str, there: str) -> list[float]:
    waits = []
    for name in names:
        stage.world.move(name, here, there)
        at = await stage.until_on(name, there)
        waits.append(at - last_event_before(stage, name, at))
        await stage.until_bound(name)
    return waits


async def at_once(stage: Stage, names: list[str], here: str, there: str) -> list[float]:
    stage.world.evacuate(here, target=there)
    waits = []
    for name in names:
        at = await stage.until_on(name, there, patience=600.0)
        waits.append(at - last_event_before(stage, name, at))
    for name in names:
        await stage.until_bound(name, patience=600.0)
    stage.world.restore(here)
    return waits


async def measure(limit: int | None, volumes: int, directory: Path) -> list[Figures]:
    """Both ways of moving, with one request limit of the controller-manager."""
    binaries = await asyncio.to_thread(ensure_built)
    shown = "default (20/s)" if limit is None else f"{limit}/s"
    names = [f"pvc-{number:04}" for number in range(volumes)]
    found = []
    async with (
        RealCluster(binaries=binaries, directory=directory, controller_qps=limit) as parts,
        clusters.real(parts) as cluster,
        Stage.of(cluster) as stage,
    ):
        await stage.prepare(nodes=4)
        await stage.add_many(names, "n1")
        service = Service(
            kubeconfig=cluster.kubeconfig, linstor=stage.linstor.url, log=directory / "service.log"
        )
        async with running(service):
            loop = asyncio.get_running_loop()
            for way, move in (("one by one", one_by_one), ("all at once", at_once)):
                here, there = ("n1", "n2") if way == "one by one" else ("n2", "n3")
                lost, began, since = len(stage.observer.lost), loop.time(), time.monotonic()
                waits = await move(stage, names, here, there)
                took = loop.time() - began
                lost = len(stage.observer.lost) - lost
                # The last note goes a moment after its volume is right.
                await asyncio.sleep(2.0)
                notes = len(await stage.notes())
                away = times_away(stage, names, since)
                run = f"{way}, binder limit {shown}"
                found.append(figures(run, waits, took, away, lost, notes))
            await service.stop()
    return found


def table(found: list[Figures]) -> Table:
    made = Table(title="From LINSTOR's event to the PersistentVolume (ms)", title_justify="left")
    made.add_column("run")
    columns = ("volumes", "p50", "p90", "p99", "max", "volumes/s", "away p50", "away max")
    for column in (*columns, "claims Lost", "notes left"):
        made.add_column(column, justify="right")
    for each in found:
        latencies = (each.p50, each.p90, each.p99, each.worst)
        times = (*latencies, each.per_second, each.away, each.away_worst)
        shown = [f"{time:.1f}" for time in times]
        made.add_row(each.run, str(each.volumes), *shown, str(each.lost), str(each.notes_left))
    return made


def machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, {libraries}; "
        f"{REAL_PARTS}, etcd without fsync"
    )


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    found: list[Figures] = []
    for limit in (500, None):
        with tempfile.TemporaryDirectory(prefix="linstor-affinity-bench-") as scratch:
            found += await measure(limit, given.volumes, Path(scratch))
    with tempfile.TemporaryDirectory(prefix="linstor-affinity-bench-") as scratch:
        found += await measure_silent(given.volumes, Path(scratch))
    shown = Console() if sys.stdout.isatty() else Console(width=120)
    shown.print(machine())
    shown.print(table(found))
    if given.json:
        written = {"machine": machine(), "figures": [asdict(each) for each in found]}
        given.json.write_text(json.dumps(written, indent=2) + "\n")
    return 1 if any(each.lost or each.notes_left for each in found) else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except BuildError as error:
        sys.exit(f"error: {error}")
