"""One trial: a fresh volume, a scenario, the service killed at some points, and a final check."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from tests.crashes.kill_points import Point, When
from tests.crashes.outcomes import faults_of, is_finished, remember
from tests.crashes.scenarios import Scenario
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import After, Asked, Instead
from tests.testbed.service import Service

QUIET = 0.4
"""Without a request for so long, all is done that is done at once. What a resumption rechecks
comes after a second.
"""
CONTEXT = {
    "linstor.csi.linbit.com/mount-options": "",
    "linstor.csi.linbit.com/post-mount-xfs-opts": "",
    "linstor.csi.linbit.com/remote-access-policy": "false",
    "linstor.csi.linbit.com/uses-volume-context": "true",
}
"""As linstor-csi writes it. A volume without it that is only in a saved PV on LINSTOR gets one."""
ATTEMPTS = 8
TIMEOUT = 30.0


@dataclass(slots=True)
class Outcome:
    """What became of one trial."""

    lives: list[list[Asked]] = field(default_factory=list)
    """What each instance asked for, the killed ones first."""
    unreached: list[Point] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is not as it must be."""


class Trials:
    """All trials of one scenario on one test bed, each with a volume of its own."""

    def __init__(self, proxied: ProxiedTestbed, scenario: type[Scenario]) -> None:
        self.proxied, self.testbed = proxied, proxied.testbed
        self.scenario = scenario(proxied)
        self._numbers = count(1)

    async def run(self, *kills: Point, moved_on: bool = False) -> Outcome:
        """Run the scenario, kill one instance at each of these points, and let the last one live.

        A point that was not reached is tried again, since how often something is asked for may
        vary. With `moved_on` the data goes on to n3 while the first instance is dead.
        """
        outcome = Outcome()
        for _ in range(ATTEMPTS):
            outcome = await self._run_trial(kills, moved_on=moved_on)
            if outcome.faults or not outcome.unreached:
                break
        return outcome

    async def _run_trial(self, kills: Sequence[Point], *, moved_on: bool) -> Outcome:
        outcome, volume, node = Outcome(), f"pvc-{next(self._numbers)}", "n2"
        self.proxied.forget()
        csi = {"driver": manifests.DRIVER, "volumeHandle": volume, "fsType": "ext4"}
        await self.testbed.add(volume, ["n1"], csi={**csi, "volumeAttributes": CONTEXT})
        await self.testbed.cluster.at_rest()
        await self.testbed.until_claim_at_rest(volume)
        try:
            before = await remember(self.testbed, volume)
            await self.scenario.prepare(volume)
            before.lost = len(self.testbed.observer.lost)
            for number, point in enumerate((*kills, None)):
                await self._live(volume, node, point, outcome, first=not number)
                if moved_on and node == "n2":
                    node = "n3"
                    self.testbed.world.move_silently(volume, "n2", node)
            outcome.faults += await faults_of(self.testbed, before, node)
        except AssertionError as error:
            outcome.faults.append(str(error))
        finally:
            await self._clear(volume)
        return outcome

    async def _live(
        self, volume: str, node: str, point: Point | None, outcome: Outcome, *, first: bool
    ) -> None:
        """One life of the service: to the point, else to a good end."""
        service = self.proxied.service()
        try:
            if first and not self.scenario.from_start:
                await service.start()
                await service.until_ready()
                await self.proxied.record.until_quiet(QUIET / 2)
            self.proxied.forget()
            killed = self._kill_at(service, point)
            if first and not self.scenario.from_start:
                self.scenario.begin(volume)
            else:
                await service.start()
            await self._until_over(service, volume, node, killed)
            if not killed.is_set() and (point is not None or first):
                # What comes after the end is recorded, and may be the point.
                await self.proxied.record.until_quiet(QUIET)
            outcome.lives.append(list(self.proxied.record))
            if point is None:
                if await service.stop():
                    outcome.faults.append("it did not end well")
            elif not killed.is_set():
                outcome.unreached.append(point)
        finally:
            await service.kill()
            # What was on its way arrives.
            await self.proxied.until_idle()

    def _kill_at(self, service: Service, point: Point | None) -> asyncio.Event:
        """Returns what is set once the service is dead."""
        killed = asyncio.Event()

        async def kill(asked: Asked) -> None:
            await service.kill()
            killed.set()

        if point is not None:
            action = Instead(kill) if point.when is When.BEFORE else After(kill)
            self.proxied.on(point.label, action, nth=point.number)
        return killed

    async def _until_over(
        self, service: Service, volume: str, node: str, killed: asyncio.Event
    ) -> None:
        """Wait until it is dead, or has read everything and brought the volume to its end."""

        async def over() -> bool:
            if killed.is_set():
                return True
            good = await is_finished(self.testbed, volume, node)
            return good and (await service.ask("/readyz"))[0] == 200

        try:
            await until(over, f"{volume} is finished", within=TIMEOUT)
        except AssertionError as error:
            raise AssertionError(f"{error}; {service.said()[-2000:]}") from None

    async def _clear(self, volume: str) -> None:
        self.proxied.forget()
        await self.testbed.clear()
        self.testbed.world.delete_definition(volume)
        await self.testbed.world.until_idle()
