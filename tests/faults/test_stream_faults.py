"""Event streams cut in mid-frame, silent, half-open, flooding."""

import os
import time
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.fakes.linstor_server import NODES, PROMOTION
from tests.fakes.linstor_server.streams import frame
from tests.faults.fleet import Fleet, MakeFleet
from tests.testbed.clusters import until
from tests.testbed.manifests import nodes_of
from tests.testbed.proxied import ProxiedTestbed

ELECTED = "--leader-election=true"
FEW_FULL_RECONCILES = "--reconcile-rate=10m"

NOTICED_WITHIN = 45.0
OPEN_STREAMS = {"linstor get events/drbd/promotion", "linstor get events/nodes"}

BURST, BURSTS = 10_000, 10
GROWTH = 16 * 2**20
"""What the memory may grow by: a burst is 1 MiB of text; without a bound 100,000 events that were
kept as triggers would take some 50 MiB.
"""

pytestmark = pytest.mark.parametrize("testbed", ["fake"], indirect=True)


async def test_streams_cut_within_a_frame(proxied: ProxiedTestbed, fleet: MakeFleet) -> None:
    linstor = proxied.testbed.linstor
    async with fleet(
        proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES), rested=True
    ) as moving:
        for _ in range(3):
            await linstor.subscribed(PROMOTION)
            moving.move_during()
            linstor.cut_streams(mid_frame=True)
            await linstor.subscribed(PROMOTION, 0)
        await linstor.subscribed(PROMOTION)


async def test_streams_cut_at_any_byte(proxied: ProxiedTestbed, fleet: MakeFleet) -> None:
    linstor = proxied.testbed.linstor
    said = frame("may-promote-change", {"resource_name": "pvc-3", "node_name": "n1"})
    async with fleet(
        proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES), rested=True
    ) as moving:
        for length in (1, 8, len(said) // 2, len(said) - 1):
            await linstor.subscribed(PROMOTION)
            linstor.send_raw(PROMOTION, said[:length])
            moving.move_during()
            proxied.linstor.drop_connections()
            await linstor.subscribed(PROMOTION, 0)


async def test_delayed_streams(proxied: ProxiedTestbed, fleet: MakeFleet) -> None:
    linstor = proxied.testbed.linstor
    async with fleet(
        proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES), rested=True
    ) as moving:
        linstor.pause_streams()
        moving.move_during()
        await proxied.testbed.world.until_idle()
        linstor.resume_streams()


@pytest.mark.long
async def test_linstor_disappears_without_closing_connections(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    async with fleet(
        proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES), rested=True
    ) as moving:
        await proxied.testbed.linstor.subscribed(NODES)
        proxied.record.forget()
        gone = time.monotonic()
        await proxied.linstor.vanish()
        moving.move_during()

        await proxied.record.until(lambda: set(proxied.record.labels()) >= OPEN_STREAMS)
        late = {each.label: each.at - gone for each in reversed(proxied.record.asked)}
        assert max(late[label] for label in OPEN_STREAMS) < NOTICED_WITHIN, late


async def test_floods_of_events(proxied: ProxiedTestbed, fleet: MakeFleet) -> None:
    """Half of the events are of volumes that are there, half of resources without any."""
    async with fleet(
        proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES), rested=True
    ) as moving:
        names = [*moving.names[:6], *(f"nobody-{n}" for n in range(6))]
        burst = b"".join(
            frame("may-promote-change", {"resource_name": name, "node_name": "n1"})
            for name in islice(cycle(names), BURST)
        )
        await flood(proxied, moving, burst)
        before, asked = memory(moving), len(proxied.record.asked)

        for _ in range(BURSTS):
            # The moves are reported behind a burst and before the next one.
            moving.move_during()
            await flood(proxied, moving, burst)
        for name in moving.names[2:4]:
            await proxied.testbed.until_on(name, *moving.place_of(name))

        assert memory(moving) - before < GROWTH
        # A reconcile takes two or three requests.
        assert len(proxied.record.asked) - asked < BURST * BURSTS / 20


async def test_a_move_during_a_flood_of_events_is_applied(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    """The flood continues until the move is seen: where it starved others, it would never be."""
    async with fleet(
        proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES), rested=True
    ) as moving:
        said = frame("may-promote-change", {"resource_name": "pvc-1", "node_name": "n1"})
        moving.move_during()

        def arrived() -> bool:
            volumes = proxied.testbed.observer.volumes
            return all(
                name in volumes and nodes_of(volumes[name]) == set(moving.place_of(name))
                for name in moving.names[2:4]
            )

        sent = 0
        while not arrived():
            await flood(proxied, moving, said * 1000)
            sent += 1000
            assert sent < 100 * BURST


async def flood(proxied: ProxiedTestbed, moving: Fleet, burst: bytes) -> None:
    """Send a burst, and wait until it was read."""

    async def read() -> float:
        return await moving.service.metric("linstor_affinity_stream_events_total")

    wanted = await read() + burst.count(b"\n\n")
    proxied.testbed.linstor.send_raw(PROMOTION, burst)

    async def whole() -> bool:
        return await read() >= wanted

    await until(whole, "the burst was read")


def memory(moving: Fleet) -> int:
    """What the service has in memory, in bytes."""
    process = moving.service.process
    assert process is not None
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
