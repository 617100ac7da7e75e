"""The three sidecars at work beside whatever else happens to the volumes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

from tests.fakes.kube_server.patches import JSON_PATCH, STRATEGIC
from tests.fakes.sidecars import decisions
from tests.fakes.sidecars.apis import CLAIMS, VOLUMES, Api

Json = dict[str, Any]

AGAIN = 0.5


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """Data that is gone: the provisioner had it deleted, for this volume as it was then."""

    name: str
    uid: str
    handle: str


class _Row:
    """Names to check, each once; a check that failed is repeated later."""

    def __init__(self, check: Callable[[str], Awaitable[bool]]) -> None:
        self._check = check
        self._waiting: dict[str, None] = {}
        self._event_arrived = asyncio.Event()

    def add(self, name: str) -> None:
        self._waiting[name] = None
        self._event_arrived.set()

    async def run(self) -> None:
        while True:
            while not self._waiting:
                self._event_arrived.clear()
                await self._event_arrived.wait()
            name = next(iter(self._waiting))
            del self._waiting[name]
            if not await self._check(name):
                asyncio.get_running_loop().call_later(AGAIN, self.add, name)


class Sidecars:
    """Use it as `async with Sidecars(api) as sidecars`.

    Each acts on what its watch sent last, `lag` seconds after it decided to: like the real ones it
    may find that the volume is another by then.
    """

    def __init__(self, api: Api, *, lag: float = 0.002) -> None:
        self._api, self._lag = api, lag
        self.attached: set[str] = set()
        """The volumes that pods use, as VolumeAttachments would say."""
        self.reclaimed: list[Reclaimed] = []
        self.on_reclaim: Callable[[Reclaimed], None] = lambda _: None
        self._volumes: dict[str, Json] = {}
        self._claims: dict[str, Json] = {}
        self._provisioner = _Row(self._provision)
        self._attacher = _Row(self._attach)
        self._resizer = _Row(self._resize)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for work, name in (
            (self._listen(VOLUMES, self._volume), "sidecars-volumes"),
            (self._listen(CLAIMS, self._claim), "sidecars-claims"),
            (self._provisioner.run(), "provisioner"),
            (self._attacher.run(), "attacher"),
            (self._resizer.run(), "resizer"),
        ):
            self._tasks.append(asyncio.create_task(work, name=name))
        return self

    async def __aexit__(self, *_: object) -> None:
        failed = [task for task in self._tasks if task.done()]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in failed:
            task.result()

    def attach(self, name: str) -> None:
        """A pod that uses the volume starts."""
        self.attached.add(name)
        self._attacher.add(name)

    def detach(self, name: str) -> None:
        self.attached.discard(name)
        self._attacher.add(name)

    async def _listen(self, plural: str, take: Callable[[str, Json], None]) -> None:
        async with aclosing(self._api.changes(plural)) as changes_seen:
            async for kind, changes in changes_seen:
                take(kind, changes)

    def _volume(self, kind: str, pv: Json) -> None:
        name = pv["metadata"]["name"]
        if kind == "DELETED":
            self._volumes.pop(name, None)
            return
        self._volumes[name] = pv
        self._provisioner.add(name)
        self._attacher.add(name)
        self._resizer.add(_claim_named_by(pv))

    def _claim(self, kind: str, claim: Json) -> None:
        name = f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"
        if kind == "DELETED":
            self._claims.pop(name, None)
            return
        self._claims[name] = claim
        self._resizer.add(name)

    async def _provision(self, name: str) -> bool:
        pv = self._volumes.get(name)
        if pv is None or not decisions.is_provisioners(pv):
            return True
        if not await self._send(name, decisions.provisioners_change(pv), STRATEGIC):
            return False
        return not decisions.reclaims(pv) or await self._reclaim(name, pv)

    async def _reclaim(self, name: str, pv: Json) -> bool:
        """Delete the data, and then the volume of that name, on what the watch sent last."""
        await asyncio.sleep(self._lag)
        if name in self.attached:
            return False
        metadata = pv["metadata"]
        done = Reclaimed(name, metadata["uid"], pv["spec"]["csi"]["volumeHandle"])
        self.reclaimed.append(done)
        self.on_reclaim(done)
        if not await self._api.delete(name):
            return False
        left = self._volumes.get(name)
        change = None if left is None else decisions.provisioners_farewell(left)
        return await self._send(name, change, STRATEGIC)

    async def _attach(self, name: str) -> bool:
        pv = self._volumes.get(name)
        if pv is None:
            return True
        return await self._send(name, decisions.attachers_change(pv, self.attached), JSON_PATCH)

    async def _send(self, name: str, change: Json | list[Json] | None, kind: str) -> bool:
        if change is None:
            return True
        await asyncio.sleep(self._lag)
        return await self._api.patch(name, change, kind)

    async def _resize(self, name: str) -> bool:
        """Grow the storage behind a claim, then say so on its volume, then on the claim."""
        claim = self._claims.get(name)
        pv = self._volumes.get((claim or {}).get("spec", {}).get("volumeName", ""))
        if claim is None or pv is None:
            return True
        size = decisions.expansion(claim, pv)
        if size is None:
            return True
        if not await self._api.set_status(claim, {"conditions": decisions.resizing(claim)}):
            return False
        await asyncio.sleep(self._lag)
        volume = pv["metadata"]["name"]
        if not await self._api.patch(volume, {"spec": {"capacity": {"storage": size}}}):
            return False
        await asyncio.sleep(self._lag)
        claim = self._claims.get(name)
        if claim is None:
            return True
        done = {"capacity": {"storage": size}, "conditions": decisions.resized(claim)}
        return await self._api.set_status(claim, done)


def _claim_named_by(pv: Json) -> str:
    """Empty where it names none: then nothing is found by it."""
    ref = pv["spec"].get("claimRef") or {}
    return f"{ref.get('namespace', '')}/{ref.get('name', '')}"
