"""What LINSTOR's streams don't report, its database in Kubernetes does: no full reconcile runs
here.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.figures import Figures
from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters, manifests
from tests.testbed.command import command
from tests.testbed.database import GROUP, Database
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import CutBody, Reset, Respond
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed
from tests.testbed.warm import WarmStarts

pytestmark = pytest.mark.real

NEVER = "--reconcile-rate=10h"
EXPIRED = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n'
WATCH = re.compile(rf"^watch resources\.{re.escape(GROUP)}")


@dataclass(frozen=True)
class Scenario:
    """A real cluster with LINSTOR's tables, proxies before it, and no regular full reconcile."""

    proxied: ProxiedTestbed
    database: Database

    @property
    def testbed(self) -> Testbed:
        return self.proxied.testbed

    def service(self, *flags: str) -> Service:
        return self.proxied.service(NEVER, *flags)

    async def on(self, service: Service) -> None:
        """Until the table is watched and what that led to is over."""
        await service.until_said("stream=database")
        await until_idle(service)

    async def put(self, name: str, *nodes: str, layers: tuple[str, ...] = ("STORAGE",)) -> None:
        self.testbed.place(name, nodes, layers=layers)
        await self.testbed.bind(name, manifests.on_nodes(nodes))
        await self.testbed.until_bound(name)


async def until_idle(service: Service) -> None:
    """Until the full reconciles that connections asked for have ended, so that none helps."""

    async def full_reconciles() -> float:
        return await service.metric("linstor_affinity_full_reconcile_seconds_count")

    before = -1.0
    while before != (now := await full_reconciles()) or now == 0:
        before = now
        await asyncio.sleep(1.5)


@pytest_asyncio.fixture
async def scenario(
    real_cluster_database: RealCluster, tmp_path: Path, warm_starts: WarmStarts
) -> AsyncIterator[Scenario]:
    async with clusters.real(real_cluster_database) as cluster, Testbed.of(cluster) as testbed:
        await testbed.clear()
        await testbed.prepare()
        database = Database(cluster, testbed.world)
        await database.make()
        try:
            async with ProxiedTestbed.of(testbed, tmp_path, warm_starts) as proxied:
                yield Scenario(proxied, database)
        finally:
            await database.clear()
            await testbed.clear()


def moved_without_drbd(testbed: Testbed) -> None:
    testbed.world.move_silently("pvc-1", "n1", "n3")


def deleted_on_an_offline_node(testbed: Testbed) -> None:
    testbed.world.delete_replica("pvc-1", "n1")


def node_lost(testbed: Testbed) -> None:
    testbed.world.node_lost("n1")


CHANGES_WITHOUT_EVENT = [
    pytest.param(("STORAGE",), moved_without_drbd, ("n2", "n3"), id="storage-only"),
    pytest.param(("LUKS", "STORAGE"), moved_without_drbd, ("n2", "n3"), id="luks"),
    pytest.param(("NVME", "STORAGE"), moved_without_drbd, ("n2", "n3"), id="nvme"),
    pytest.param(("DRBD", "STORAGE"), deleted_on_an_offline_node, ("n2",), id="offline"),
    pytest.param(("DRBD", "STORAGE"), node_lost, ("n2",), id="node-lost"),
]


@pytest.mark.parametrize(("layers", "change", "nodes"), CHANGES_WITHOUT_EVENT)
async def test_a_change_without_event_is_applied_at_once(
    scenario: Scenario,
    layers: tuple[str, ...],
    change: Callable[[Testbed], None],
    nodes: tuple[str, ...],
) -> None:
    await scenario.put("pvc-1", "n1", "n2", layers=layers)
    await scenario.database.mirror()
    if change is deleted_on_an_offline_node:
        scenario.testbed.world.go_offline("n1")

    async with running(scenario.service()) as service:
        await scenario.on(service)
        change(scenario.testbed)
        await scenario.database.mirror()

        await scenario.testbed.until_on("pvc-1", *nodes, within=20)
        await service.until_said("volume affinity updated")
        _, metrics = await service.ask("/metrics")

    assert 'linstor_affinity_changes_by_trigger_total{trigger="database"} 1.0' in metrics
    assert "linstor_affinity_drift_without_event_total" not in drift(metrics)


def drift(metrics: str) -> str:
    """The lines of drift that no event announced and that is there."""
    lines = [line for line in metrics.splitlines() if "drift_without_event_total{" in line]
    return "\n".join(line for line in lines if not line.endswith(" 0.0"))


async def test_properties_in_the_database_are_never_read(scenario: Scenario) -> None:
    """Its master key lies among those of the controller."""
    await scenario.put("pvc-1", "n1")
    await scenario.database.mirror()

    async with running(scenario.service()) as service:
        await scenario.on(service)
    said = await command(scenario.testbed, "check")

    assert said.code == 0
    asked = [each.path for each in scenario.proxied.record if f"/{GROUP}/" in each.path]
    assert any(path.partition("?")[0].endswith("/resources") for path in asked)
    assert not [path for path in asked if "propscontainers" in path]


async def test_a_row_written_ahead_of_the_controller_is_rechecked(scenario: Scenario) -> None:
    await scenario.put("pvc-1", "n1")
    await scenario.database.mirror()

    async with running(scenario.service()) as service:
        await scenario.on(service)
        scenario.testbed.world.move_silently("pvc-1", "n1", "n2")
        row = scenario.database
        # What REST shows lags behind by less than the reconciles that follow.
        scenario.testbed.world.move_silently("pvc-1", "n2", "n1")
        scenario.testbed.world.set_flags("pvc-1", "n1", ["CLEAN"])
        await row.mirror()
        await asyncio.sleep(0.3)
        scenario.testbed.world.move_silently("pvc-1", "n1", "n2")

        await scenario.testbed.until_on("pvc-1", "n2", within=20)


async def test_rows_unrelated_to_volumes_trigger_no_reconcile(scenario: Scenario) -> None:
    await scenario.put("pvc-1", "n1")
    await scenario.database.mirror()

    async with running(scenario.service()) as service:
        await scenario.on(service)
        events = await service.metric("linstor_affinity_stream_events_total")
        for number in range(20):
            await scenario.database.add_snapshot("pvc-1", "n1", f"snapshot-{number}")
        scenario.testbed.world.move_silently("pvc-1", "n1", "n2")
        await scenario.database.mirror()

        await scenario.testbed.until_on("pvc-1", "n2", within=20)
        # One row came and one went.
        assert await service.metric("linstor_affinity_stream_events_total") == events + 2


async def test_with_off_the_database_is_not_watched(scenario: Scenario) -> None:
    async with running(scenario.service("--watch-linstor-database=off")) as service:
        await until_idle(service)

    assert not [each for each in scenario.proxied.record if GROUP in each.path]


async def test_with_auto_a_forbidden_database_is_skipped(scenario: Scenario) -> None:
    denied = Respond(201, b'{"status": {"allowed": false}}')
    scenario.proxied.kubernetes.on(re.compile("selfsubjectaccessreviews"), denied, times=100)

    async with running(scenario.service()) as service:
        await service.until_said("LINSTOR's database in Kubernetes is not watched")
        assert f"the service account is not allowed to list resources.{GROUP}" in service.said()
        code, why = await service.ask("/readyz")

    assert (code, why) == (200, "ok\n")


async def test_with_no_database_auto_continues_and_on_is_not_ready(scenario: Scenario) -> None:
    await scenario.database.unmake()

    async with running(scenario.service()) as service:
        await service.until_said("LINSTOR does not keep its database in this Kubernetes")
    required = scenario.service("--watch-linstor-database=on")
    try:
        await required.start()
        await required.until_said("LINSTOR's database in Kubernetes is not watched")
        code, why = await required.ask("/readyz")
        assert code == 503
        assert "LINSTOR's database in Kubernetes: not connected yet" in why
        await scenario.database.make()
        await required.until_ready()
    finally:
        await required.kill()


async def test_check_reports_the_database_watch(scenario: Scenario) -> None:
    there = await command(scenario.testbed, "check")
    off = await command(scenario.testbed, "check", "--watch-linstor-database=off")
    await scenario.database.unmake()
    gone = await command(scenario.testbed, "check")
    wanted = await command(scenario.testbed, "check", "--watch-linstor-database=on")

    assert "ok    watch-linstor-database: enabled: watching version v1-33-1" in there.out
    assert "ok    watch-linstor-database: disabled by --watch-linstor-database" in off.out
    assert "ok    watch-linstor-database: disabled: LINSTOR does not keep its database" in gone.out
    assert "fail  watch-linstor-database: LINSTOR does not keep its database" in wanted.out


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(Reset(forwarded=False), id="reset"),
        pytest.param(CutBody(100), id="cut"),
        pytest.param(Respond(503), id="unavailable"),
        pytest.param(Respond(410, b'{"kind":"Status","code":410,"message":"old"}'), id="gone"),
        pytest.param(Respond(200, EXPIRED), id="expired"),
        pytest.param(Respond(403, b'{"kind":"Status","code":403,"message":"no"}'), id="forbidden"),
    ],
)
async def test_a_broken_watch_is_reopened_and_misses_nothing(
    scenario: Scenario, action: Respond | Reset | CutBody, figures: Figures
) -> None:
    await scenario.put("pvc-1", "n1")
    await scenario.database.mirror()
    rule = scenario.proxied.kubernetes.on(WATCH, action, times=2)

    async with running(scenario.service()):
        await rule.struck.wait()
        scenario.testbed.world.move_silently("pvc-1", "n1", "n2")
        await scenario.database.mirror()

        await scenario.testbed.until_on("pvc-1", "n2", within=60)
    figures.count("faults survived, real")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_twenty_thousand_rows_are_not_stored(scenario: Scenario) -> None:
    for number in range(10_000):
        scenario.testbed.place(f"rd-{number}", ["n1", "n2"])
    await scenario.database.mirror()

    async with running(scenario.service("--watch-linstor-database=off")) as service:
        await until_idle(service)
        without = await service.metric("process_resident_memory_bytes")
    async with running(scenario.service()) as service:
        await scenario.on(service)
        with_rows = await service.metric("process_resident_memory_bytes")

    assert with_rows < without + 16 * 2**20


async def test_while_the_database_is_watched_linstor_is_not_polled(scenario: Scenario) -> None:
    async with running(scenario.service("--poll-rate=300ms")) as service:
        await scenario.on(service)
        before = scenario.testbed.world.requests["GET /v1/stats/resources"]
        await asyncio.sleep(1.5)

        assert scenario.testbed.world.requests["GET /v1/stats/resources"] == before
