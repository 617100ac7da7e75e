"""The play: what can happen to volumes, one thing after another, and what came of it."""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from demo.pods import WAITING, Scheduled, prepare, schedule
from demo.pods import table as pod_table
from demo.report import Row, console, table
from tests.stage import manifests
from tests.stage.manifests import HOSTNAME, ZONE
from tests.stage.scheduling import Pods
from tests.stage.service import Service, running
from tests.stage.stage import Stage

Json = dict[str, Any]
Goal = tuple[str, tuple[Json, ...]]

PATIENCE = 30.0
PACE = "5s"


@dataclass(slots=True)
class Play:
    """The stage, the service on it, and the rows of the table so far."""

    stage: Stage
    service: Service
    shown: Console
    rows: list[Row] = field(default_factory=list)

    async def act(
        self,
        step: str,
        happened: str,
        act: Callable[[], object],
        goals: Iterable[Goal],
        *,
        told_by: str = "the event",
    ) -> None:
        """Let something happen, wait for every volume it concerns, and write down what came."""
        self.shown.print(f"  [bold]{step}[/bold]: {happened} ...", end="")
        wanted, lost = dict(goals), len(self.stage.observer.lost)
        began = time.monotonic()
        done = act()
        if isinstance(done, Awaitable):
            await done
        moments = {name: await self._reached(name, terms) for name, terms in wanted.items()}
        reached = {name: at for name, at in moments.items() if at is not None}
        for name in reached:
            await self.stage.until_bound(name)
        self.rows.append(
            Row(
                step=step,
                happened=happened,
                updated=len(reached),
                expected=len(wanted),
                waits=tuple(at - self._origin(name, at, began) for name, at in reached.items()),
                lost=len(self.stage.observer.lost) - lost,
                told_by=told_by,
            )
        )
        row = self.rows[-1]
        self.shown.print(f" {row.updated} of {row.expected} PVs, {row.milliseconds} ms")

    async def _reached(self, name: str, terms: tuple[Json, ...]) -> float | None:
        try:
            return await self.stage.observer.until_terms(name, *terms, patience=PATIENCE)
        except AssertionError:
            return None

    def _origin(self, name: str, at: float, began: float) -> float:
        """The last event about the volume's resource before it was right, or what began it all."""
        resource = self.stage.observer.volumes[name]["spec"]["csi"]["volumeHandle"].split("/")[0]
        told = [
            event.at
            for event in self.stage.world.emitted
            if began <= event.at <= at and event.payload.get("resource_name") == resource
        ]
        return told[-1] if told else began


def on(*nodes: str) -> tuple[Json, ...]:
    return tuple({HOSTNAME: node} for node in nodes)


async def play(stage: Stage, directory: Path, pods: Pods | None, *, volumes: int) -> int:
    """Play all acts and print the tables; answers the exit code."""
    shown = console()
    kind = "real kube-apiserver" if stage.cluster.is_real else "pretended kube-apiserver"
    shown.print(f"LINSTOR {stage.linstor.url}, {kind} {stage.cluster.url}")
    evacuated = [f"pvc-{number:03}" for number in range(volumes)]
    count = volumes + 6 + (len(WAITING) if pods else 0)
    shown.print(f"Making {count} volumes and claims, bound by the binder ...")
    await _set_up(stage, evacuated)
    scheduled = list[Scheduled]()
    if pods is not None:
        await prepare(stage, pods)
    log = directory / "service.log"
    service = Service(
        kubeconfig=stage.cluster.kubeconfig,
        linstor=stage.linstor.url,
        log=log,
        flags=(f"--reconcile-rate={PACE}",),
    )
    async with running(service):
        shown.print("The service runs as a process of its own and is ready.")
        acts = Play(stage, service, shown)
        if pods is not None:
            shown.print(
                "  [bold]pods wait[/bold]: for volumes whose only node is cordoned ...", end=""
            )
            scheduled = await schedule(stage, pods)
            shown.print(f" {len(scheduled)} scheduled")
        await _all(acts, evacuated)
        code = await service.stop()
    if scheduled:
        shown.print()
        shown.print(pod_table(scheduled))
    shown.print()
    shown.print(table(acts.rows, f"From LINSTOR to the PersistentVolume, on a {kind}"))
    return _decision(shown, acts, await stage.entries(), code, log)


async def _set_up(stage: Stage, evacuated: list[str]) -> None:
    await stage.add("data", ["n1", "n2"])
    stage.place("zoned", ["n1"])
    zone = manifests.affinity({ZONE: "z1"})
    await stage.bind("zoned", zone, storage_class=manifests.ZONE_CLASS)
    stage.place("pair", ["n2"], volumes=2)
    await stage.bind("pair-0", manifests.on_nodes(["n2"]), handle="pair")
    await stage.bind("pair-1", manifests.on_nodes(["n2"]), handle="pair/1")
    await stage.add("cut", ["n3"])
    await stage.add("silent", ["n3"])
    await stage.add_many(evacuated, "n5")
    for name in ("zoned", "pair-0", "pair-1"):
        await stage.until_bound(name)


async def _all(acts: Play, evacuated: list[str]) -> None:
    stage, world = acts.stage, acts.stage.world
    await acts.act(
        "replica moves",
        "data: n2 -> n3",
        lambda: world.move("data", "n2", "n3"),
        [("data", on("n1", "n3"))],
    )
    await acts.act(
        "zone rule",
        "zoned: n1 -> n2, zone z1 -> z2",
        lambda: world.move("zoned", "n1", "n2"),
        [("zoned", ({ZONE: "z2"},))],
    )
    await acts.act(
        "two volumes",
        "pair: n2 -> n4, both volumes of one definition",
        lambda: world.move("pair", "n2", "n4"),
        [("pair-0", on("n4")), ("pair-1", on("n4"))],
    )
    await acts.act(
        "evacuation",
        f"n5 is evacuated to n6, {len(evacuated)} volumes",
        lambda: world.evacuate("n5", target="n6"),
        [(name, on("n6")) for name in evacuated],
    )

    def cut() -> None:
        stage.linstor.cut_streams(mid_frame=True)
        world.move_silently("cut", "n3", "n1")

    await acts.act(
        "stream cut",
        "in mid-frame; cut: n3 -> n1 meanwhile",
        cut,
        [("cut", on("n1"))],
        told_by="the cut",
    )
    await acts.act(
        "no event",
        f"silent: n3 -> n4, found by the full pass every {PACE}",
        lambda: world.move_silently("silent", "n3", "n4"),
        [("silent", on("n4"))],
        told_by="the change",
    )


def _decision(shown: Console, acts: Play, entries: list[str], code: int, log: Path) -> int:
    wrong = [f"{row.step}: not as it should be" for row in acts.rows if not row.good]
    if entries:
        wrong.append(f"notes of unfinished replacements left: {', '.join(entries)}")
    if code != 0:
        wrong.append(f"the service ended with {code}")
    phases = acts.stage.observer.phases()
    if set(phases) != {"Bound"}:
        wrong.append(f"claims are in phases {phases}")
    if wrong:
        for line in wrong:
            shown.print(f"[bold red]{line}[/bold red]")
        shown.print("The end of the service's log:")
        shown.print(log.read_text()[-4000:], markup=False)
        return 1
    shown.print(
        f"All {phases['Bound']} claims are Bound and none was ever Lost; no note is left; "
        "the service ended with 0."
    )
    return 0
