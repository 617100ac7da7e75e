"""The store behind the API server, the disk and the clock."""

import re
import sys
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet, MakeFleet
from tests.faults.wall_clock import WallClock
from tests.testbed.clusters import until
from tests.testbed.fixtures import BOTH, MakeService
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.service import Service
from tests.testbed.testbed import Testbed

ELECTED = "--leader-election=true"
FEW_FULL_RECONCILES = "--reconcile-rate=10m"
SHORT_LEASE = (
    "--leader-election-lease-duration=3s",
    "--leader-election-renew-deadline=2s",
    "--leader-election-retry-period=500ms",
)
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/linstor-affinity-events"


@pytest.mark.parametrize("testbed", [BOTH[1]], indirect=True)
async def test_etcd_is_killed_and_restarted(proxied: ProxiedTestbed, fleet: MakeFleet) -> None:
    real = proxied.testbed.cluster.real
    assert real is not None
    async with fleet(proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES)) as moving:
        moving.move_during()
        with moving.without_api_server(proxied.record):
            await real.restart_etcd()


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_the_wall_clock_jumps_by_hours(
    testbed: Testbed, service_on: MakeService, fleet: MakeFleet, tmp_path: Path
) -> None:
    """Leadership, pauses and full reconciles go by the monotonic clock."""
    clock = WallClock.within(tmp_path)
    flags = (ELECTED, *SHORT_LEASE, "--reconcile-rate=1s", "--new-volume-grace=2s")
    service = service_on(testbed, *flags, cold=True, **clock.env)
    async with fleet(testbed, service) as moving:
        for hours in (5.0, -5.0, 0.0):
            clock.set(hours)
            await renewed(testbed, hours)
            moving.move_during()
            await full_reconciles(moving)

    assert service.said().count("INFO became the leader") == 1
    assert "leadership lost" not in service.said()


async def renewed(testbed: Testbed, hours: float) -> None:
    """Wait until the lease says that the jump has been heard of."""
    hour = re.compile(r"T(\d\d):")
    before = await testbed.cluster.ask("GET", LEASE)

    async def other_hour() -> bool:
        lease = await testbed.cluster.ask("GET", LEASE)
        found = [hour.search(each["spec"]["renewTime"]) for each in (before, lease)]
        return found[0] is not None and found[1] is not None and found[0][1] != found[1][1]

    await until(other_hour, f"the lease tells of a clock that is {hours} h off")


async def full_reconciles(moving: Fleet) -> None:
    """Wait for two more full reconciles."""
    name = "linstor_affinity_full_reconcile_seconds_count"
    wanted = await moving.service.metric(name) + 2

    async def reconciled() -> bool:
        return await moving.service.metric(name) >= wanted

    await until(reconciled, "full passes go on")


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_a_full_disk(testbed: Testbed, fleet: MakeFleet, tmp_path: Path) -> None:
    """Nowhere a byte may be written, as on a disk that is full: the log goes through a pipe."""
    script = 'exec > >(exec cat) 2>&1; ulimit -f 0; cd /; exec "$@"'
    service = Service(
        kubeconfig=testbed.cluster.kubeconfig,
        linstor=testbed.linstor.url,
        log=tmp_path / "service.log",
        flags=("-v", "1", ELECTED, FEW_FULL_RECONCILES),
        program=("bash", "-c", script, "bash", sys.executable, "-m", "linstor_affinity_events"),
        env={"TMPDIR": "/nowhere", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    async with fleet(testbed, service) as moving:
        moving.move_during()
    assert "File too large" not in service.said()
