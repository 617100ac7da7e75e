"""The main scenario: what can happen to volumes, one step after another, and the results."""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from demo.pods import WAITING, Scheduled, prepare, schedule
from demo.pods import table as pod_table
from demo.report import Row, console, table
from tests.testbed import manifests
from tests.testbed.manifests import HOSTNAME, ZONE
from tests.testbed.scheduling import Pods
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]
Goal = tuple[str, tuple[Json, ...]]

TIMEOUT = 30.0
FULL_RECONCILE_EVERY = "5s"


@dataclass(slots=True)
class Scenario:
    """The test bed, the service on it, and the rows of the table so far."""

    testbed: Testbed
    service: Service
    shown: Console
    rows: list[Row] = field(default_factory=list)

    async def step(
        self,
        name: str,
        happened: str,
        change: Callable[[], object],
        goals: Iterable[Goal],
        *,
        counted_from: str = "the event",
    ) -> None:
        """Let something happen, wait for every volume that it concerns, and record the result."""
        self.shown.print(f"  [bold]{name}[/bold]: {happened} ...", end="")
        wanted, lost = dict(goals), len(self.testbed.observer.lost)
        began = time.monotonic()
        done = change()
        if isinstance(done, Awaitable):
            await done
        moments = {pv: await self._reached(pv, terms) for pv, terms in wanted.items()}
        reached = {pv: at for pv, at in moments.items() if at is not None}
        for pv in reached:
            await self.testbed.until_bound(pv)
        self.rows.append(
            Row(
                step=name,
                happened=happened,
                updated=len(reached),
                expected=len(wanted),
                waits=tuple(at - self._origin(pv, at, began) for pv, at in reached.items()),
                lost=len(self.testbed.observer.lost) - lost,
                counted_from=counted_from,
            )
        )
        row = self.rows[-1]
        self.shown.print(f" {row.updated} of {row.expected} PVs, {row.milliseconds} ms")

    async def _reached(self, name: str, terms: tuple[Json, ...]) -> float | None:
        try:
            return await self.testbed.observer.until_terms(name, *terms, within=TIMEOUT)
        except AssertionError:
            return None

    def _origin(self, name: str, at: float, began: float) -> float:
        """The last event about the volume's resource before it was updated, else the start."""
        resource = self.testbed.observer.volumes[name]["spec"]["csi"]["volumeHandle"].split("/")[0]
        events = [
            event.at
            for event in self.testbed.world.emitted
            if began <= event.at <= at and event.payload.get("resource_name") == resource
        ]
        return events[-1] if events else began


def on(*nodes: str) -> tuple[Json, ...]:
    return tuple({HOSTNAME: node} for node in nodes)


async def run(testbed: Testbed, directory: Path, pods: Pods | None, *, volumes: int) -> int:
    """Run all steps and print the tables. Returns the exit code."""
    shown = console()
    kind = "real kube-apiserver" if testbed.cluster.is_real else "fake kube-apiserver"
    shown.print(f"LINSTOR {testbed.linstor.url}, {kind} {testbed.cluster.url}")
    evacuated = [f"pvc-{number:03}" for number in range(volumes)]
    count = volumes + 6 + (len(WAITING) if pods else 0)
    shown.print(f"Creating {count} volumes and claims, and waiting until they are bound ...")
    await _set_up(testbed, evacuated)
    scheduled = list[Scheduled]()
    if pods is not None:
        await prepare(testbed, pods)
    log = directory / "service.log"
    service = Service(
        kubeconfig=testbed.cluster.kubeconfig,
        linstor=testbed.linstor.url,
        log=log,
        flags=(f"--reconcile-rate={FULL_RECONCILE_EVERY}",),
    )
    async with running(service):
        shown.print("The service runs as a separate process and is ready.")
        scenario = Scenario(testbed, service, shown)
        if pods is not None:
            shown.print(
                "  [bold]pending pods[/bold]: the only node of their volume is cordoned ...",
                end="",
            )
            scheduled = await schedule(testbed, pods)
            shown.print(f" {len(scheduled)} scheduled")
        await _all(scenario, evacuated)
        code = await service.stop()
    if scheduled:
        shown.print()
        shown.print(pod_table(scheduled))
    shown.print()
    shown.print(table(scenario.rows, f"From LINSTOR to the PersistentVolume, on a {kind}"))
    return _result(shown, scenario, await testbed.entries(), code, log)


async def _set_up(testbed: Testbed, evacuated: list[str]) -> None:
    await testbed.add("data", ["n1", "n2"])
    testbed.place("zoned", ["n1"])
    zone = manifests.affinity({ZONE: "z1"})
    await testbed.bind("zoned", zone, storage_class=manifests.ZONE_CLASS)
    testbed.place("pair", ["n2"], volumes=2)
    await testbed.bind("pair-0", manifests.on_nodes(["n2"]), handle="pair")
    await testbed.bind("pair-1", manifests.on_nodes(["n2"]), handle="pair/1")
    await testbed.add("cut", ["n3"])
    await testbed.add("silent", ["n3"])
    await testbed.add_many(evacuated, "n5")
    for name in ("zoned", "pair-0", "pair-1"):
        await testbed.until_bound(name)


async def _all(scenario: Scenario, evacuated: list[str]) -> None:
    testbed, world = scenario.testbed, scenario.testbed.world
    await scenario.step(
        "replica moved",
        "data: n2 -> n3",
        lambda: world.move("data", "n2", "n3"),
        [("data", on("n1", "n3"))],
    )
    await scenario.step(
        "zone policy",
        "zoned: n1 -> n2, zone z1 -> z2",
        lambda: world.move("zoned", "n1", "n2"),
        [("zoned", ({ZONE: "z2"},))],
    )
    await scenario.step(
        "two volumes",
        "pair: n2 -> n4, both volumes of one definition",
        lambda: world.move("pair", "n2", "n4"),
        [("pair-0", on("n4")), ("pair-1", on("n4"))],
    )
    await scenario.step(
        "evacuation",
        f"n5 is evacuated to n6, {len(evacuated)} volumes",
        lambda: world.evacuate("n5", target="n6"),
        [(name, on("n6")) for name in evacuated],
    )

    def cut() -> None:
        testbed.linstor.cut_streams(mid_frame=True)
        world.move_silently("cut", "n3", "n1")

    await scenario.step(
        "stream cut",
        "in the middle of a frame, while cut moves: n3 -> n1",
        cut,
        [("cut", on("n1"))],
        counted_from="the cut",
    )
    await scenario.step(
        "no event",
        f"silent: n3 -> n4, found by the full reconcile every {FULL_RECONCILE_EVERY}",
        lambda: world.move_silently("silent", "n3", "n4"),
        [("silent", on("n4"))],
        counted_from="the change",
    )


def _result(shown: Console, scenario: Scenario, entries: list[str], code: int, log: Path) -> int:
    wrong = [
        f"{row.step}: not all volumes were updated, or a claim was Lost"
        for row in scenario.rows
        if not row.good
    ]
    if entries:
        wrong.append(f"journal entries of unfinished replacements are left: {', '.join(entries)}")
    if code != 0:
        wrong.append(f"the service exited with {code}")
    phases = scenario.testbed.observer.phases()
    if set(phases) != {"Bound"}:
        wrong.append(f"claims are in phases {phases}")
    if wrong:
        for line in wrong:
            shown.print(f"[bold red]{line}[/bold red]")
        shown.print("The end of the log of the service:")
        shown.print(log.read_text()[-4000:], markup=False)
        return 1
    shown.print(
        f"All {phases['Bound']} claims are Bound, and none was ever Lost. "
        "No journal entry is left. The service exited with 0."
    )
    return 0
