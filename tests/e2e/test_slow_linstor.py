"""A LINSTOR that is slow while one of its satellites hangs."""

from dataclasses import replace

from tests.e2e.conftest import MakeService
from tests.testbed.testbed import Testbed

NAMES = [f"pvc-{number}" for number in range(40)]
EACH = 0.1
"""Seconds that LINSTOR takes for each request. All of NAMES, read 4 at a time, take 1 s."""


async def test_a_full_reconcile_slower_than_its_timeout_completes_and_corrects_drift(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    testbed = fake_testbed
    await testbed.add_many(NAMES, "n1")
    for name in NAMES:
        testbed.world.move_silently(name, "n1", "n2")
    testbed.world.hung_satellites.add("n4")
    testbed.world.timing = replace(testbed.world.timing, rest_delay=EACH, satellite_timeout=0.0)
    # The nodes, the definitions and the attempt to read all at once take their time as well.
    service = service_on(testbed, "--timeout=1s", "--workers=1")

    await service.start()
    try:
        await service.until_said("the next one continues there")
        await service.until_ready()
        for name in NAMES:
            await testbed.until_on(name, "n2")
    finally:
        await service.kill()

    assert testbed.observer.lost == []
