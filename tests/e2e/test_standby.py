"""As sidecars: each instance sees the controller in its own pod, of which only one is active."""

from tests.e2e.conftest import MakeService
from tests.real_parts.daemon import free_port
from tests.testbed.clusters import until
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

QUICK_LEASE = (
    "--leader-election-lease-duration=4s",
    "--leader-election-renew-deadline=3s",
    "--leader-election-retry-period=500ms",
)


async def leads(service: Service) -> bool:
    return await service.metric("linstor_affinity_leader") == 1


async def test_beside_a_standby_controller_the_service_is_live_and_yields_leadership(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    nobody = f"http://127.0.0.1:{free_port()}"
    standby = service_on(testbed, *QUICK_LEASE, "--leader-election-id=standby", linstor=nobody)
    active = service_on(testbed, *QUICK_LEASE, "--leader-election-id=active")

    try:
        await standby.start()
        await until(lambda: leads(standby), "the one beside the standby controller leads")
        async with running(active):
            await until(lambda: leads(active), "the one that sees LINSTOR leads")
            testbed.world.move("pvc-1", "n1", "n2")
            await testbed.until_on("pvc-1", "n2")
        assert await standby.ask("/healthz") == (200, "ok\n")
        code, why = await standby.ask("/readyz")
        assert code == 503
        assert "linstor promotion stream: not connected" in why
        warnings = [line for line in standby.said().splitlines() if " WARNING " in line]
        assert len(warnings) <= 4
        assert await standby.stop() == 0
    finally:
        await standby.kill()
