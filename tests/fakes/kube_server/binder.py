"""The controllers that look after volumes and claims: binding, and protection from deletion."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Self

from tests.fakes.kube_server.bindings import Bindings, Work
from tests.fakes.kube_server.cluster import FakeCluster
from tests.fakes.kube_server.collection import Change, Key, Subscription
from tests.fakes.kube_server.refusals import Refusal
from tests.fakes.kube_server.resources import CLAIMS, VOLUMES


class Binder:
    """Use it as `async with Binder(cluster) as binder`.

    One worker takes objects in the order in which something happened to them, each once
    however often it happened meanwhile, and reads the cluster as it is by then. `delay` is
    how long each of its requests takes: like the request limit of the real one it makes a busy
    binder lag behind, while an idle one acts at once.
    """

    def __init__(
        self, cluster: FakeCluster, *, delay: float = 0.005, resync_every: float = 15.0
    ) -> None:
        self.delay = delay
        self._cluster = cluster
        self._bindings = Bindings(cluster)
        self._resync_every = resync_every
        self._queue: deque[Work] = deque()
        self._queued: set[Work] = set()
        self._event_arrived = asyncio.Event()
        self._runs = asyncio.Event()
        self._runs.set()
        self._idle = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriptions: list[Subscription] = []

    @property
    def lost_claims(self) -> list[Key]:
        """Claims that ever turned Lost, once for each time, in order."""
        return self._bindings.lost

    async def __aenter__(self) -> Self:
        for resource in (VOLUMES, CLAIMS):
            subscription = self._cluster.subscribe(resource.plural)
            self._subscriptions.append(subscription)
            self._start(self._listen(resource.plural, subscription), f"binder-{resource.plural}")
        self.resync()
        self._start(self._work(), "binder-worker")
        self._start(self._resync_often(), "binder-resync")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for subscription in self._subscriptions:
            subscription.__exit__(None, None, None)
        self._subscriptions.clear()

    def pause(self) -> None:
        """Stop acting; what happens meanwhile is checked later, as after a restart."""
        self._runs.clear()

    def resume(self) -> None:
        self._runs.set()

    async def until_idle(self) -> None:
        """Wait until nothing waits for a look."""
        while True:
            await self._idle.wait()
            # Listeners hear of a change one iteration of the loop later than its writer.
            await asyncio.sleep(0)
            waiting = any(subscription.pending for subscription in self._subscriptions)
            if self._idle.is_set() and not waiting:
                return

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _listen(self, plural: str, subscription: Subscription) -> None:
        async for change in subscription:
            self._heard(plural, change)

    def _heard(self, plural: str, change: Change) -> None:
        if plural == CLAIMS.plural:
            if change.kind != "DELETED":
                self._add((plural, change.now.key))
            elif volume := change.object["spec"].get("volumeName"):
                self._add((VOLUMES.plural, ("", volume)))
            return
        if change.kind != "DELETED":
            self._add((plural, change.now.key))
        # The claim that a lost volume points to is what finds out that it is lost.
        elif claim := change.object["spec"].get("claimRef"):
            self._add((CLAIMS.plural, (claim.get("namespace", ""), claim["name"])))

    def _add(self, work: Work) -> None:
        if work not in self._queued:
            self._queued.add(work)
            self._queue.append(work)
        self._idle.clear()
        self._event_arrived.set()

    async def _work(self) -> None:
        while True:
            if not self._queue:
                self._idle.set()
                self._event_arrived.clear()
                await self._event_arrived.wait()
            await self._runs.wait()
            work = self._queue.popleft()
            self._queued.discard(work)
            plural, key = work
            reconcile = self._bindings.claim if plural == CLAIMS.plural else self._bindings.volume
            try:
                for step in reconcile(key):
                    if isinstance(step, tuple):
                        self._add(step)
                    else:
                        await asyncio.sleep(self.delay)
            except Refusal:
                # Somebody wrote in between, so it rechecks at what is there now.
                self._add(work)
                await asyncio.sleep(self.delay)

    async def _resync_often(self) -> None:
        while True:
            await asyncio.sleep(self._resync_every)
            self.resync()

    def resync(self) -> None:
        """Do now what is done by itself every so often."""
        for resource in (VOLUMES, CLAIMS):
            for stored in self._cluster.collection(resource).sorted():
                self._add((resource.plural, stored.key))
