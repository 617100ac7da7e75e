"""Replicas that come, go and change, and their events in the promotion stream."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from tests.fakes.linstor_server.event_log import PROMOTION, Event, EventLog, Listener
from tests.fakes.linstor_server.objects import Definition, Replica, folded
from tests.fakes.linstor_server.state import NO_DISK, State
from tests.fakes.linstor_server.timing import Timing


class Transitions(State):
    """State with a clock and a voice."""

    def __init__(self, timing: Timing) -> None:
        super().__init__()
        self.timing = timing
        self.event_log = EventLog()
        self._timers: set[asyncio.TimerHandle] = set()
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    @property
    def emitted(self) -> deque[Event]:
        """The latest events of both streams, oldest first."""
        return self.event_log.emitted

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Hand every event to the listener from now on; call what it returns to end that."""
        return self.event_log.listen(listener)

    async def until_idle(self) -> None:
        """Wait until nothing is in motion any more."""
        await self._at_rest.wait()

    def close(self) -> None:
        """Stop all motion where it is."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._at_rest.set()

    def create_replica(
        self,
        rd: str,
        node: str,
        diskless: bool = False,
        *,
        flags: Iterable[str] = (),
        once_up: Callable[[], None] | None = None,
    ) -> Replica:
        """Add a replica: in REST at once, with an event when DRBD is up."""
        replica = self._put(rd, node, diskless=diskless, flags=flags, up=False)
        self._later(
            self.timing.create_event_delay, partial(self._bring_up, replica, once_up=once_up)
        )
        return replica

    def delete_replica(self, rd: str, node: str) -> None:
        """Mark a replica at once; it leaves later, or on an offline node not before its return."""
        replica = self.replica(rd, node)
        if "DELETE" in replica.flags:
            return
        replica.flags |= {"DELETE"}
        if replica.definition.has_drbd:
            replica.flags |= {"DRBD_DELETE"}
        if not replica.node.online:
            return
        if self.timing.delete_event_delay:
            self._later(self.timing.delete_event_delay, partial(self._take_down, replica))
        else:
            self._take_down(replica)

    def delete_definition(self, rd: str) -> None:
        """Delete all replicas; the definition goes with the last of them."""
        definition = self.definition(rd)
        definition.deleting = True
        definition.encoded.clear()
        if not definition.replicas:
            del self.definitions[folded(rd)]
        for replica in tuple(definition.replicas.values()):
            self.delete_replica(rd, replica.node.name)

    def move(self, rd: str, from_node: str, to_node: str) -> None:
        """Create a replica like the old one, and delete the old one once the new one is up."""
        old = self.replica(rd, from_node)

        def retire() -> None:
            if self._is_there(old):
                self.delete_replica(rd, from_node)

        self.create_replica(rd, to_node, not old.diskful, once_up=retire)

    def toggle_disk(self, rd: str, node: str, diskless: bool) -> None:
        """Take the disk from a replica or give it one.

        As measured: without a disk DRBD's event comes after the flags are stable, with one it
        comes while they are still in motion and nothing follows.
        """
        replica = self.replica(rd, node)
        if replica.diskful is not diskless:
            return
        verb, step = ("REMOVE", "REMOVING") if diskless else ("ADD", "ADDING")
        wish, doing = f"DISK_{verb}_REQUESTED", f"DISK_{step}"
        until_idle = replica.flags - {"TIE_BREAKER"} - NO_DISK
        if diskless:
            until_idle |= NO_DISK if replica.definition.has_drbd else {"DISKLESS"}

        def notify() -> None:
            with self._watching([replica.definition]):
                replica.has_disk = not diskless

        last = [lambda: self._flag(replica, until_idle), notify]
        steps = [
            lambda: self._flag(replica, (replica.flags - {wish}) | {doing}),
            *(last if diskless else reversed(last)),
        ]
        self._flag(replica, replica.flags | {wish})
        for number, action in enumerate(steps, start=1):
            self._later(self.timing.toggle_delay * number / len(steps), action)

    def promote(self, rd: str, node: str) -> None:
        """Start a pod there; the others may not promote any more."""
        replica = self.replica(rd, node)
        with self._watching([replica.definition]):
            replica.in_use = True

    def demote(self, rd: str, node: str) -> None:
        """Stop the pod there; the others may promote again."""
        replica = self.replica(rd, node)
        with self._watching([replica.definition]):
            replica.in_use = False

    def send_current_state(self) -> None:
        """Send all DRBD replicas to every listener, as for `Last-Event-ID: current`."""
        self._emit_replicas(
            replica
            for definition in self.definitions.values()
            for replica in definition.replicas.values()
        )

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            try:
                action()
            finally:
                if not self._timers:
                    self._at_rest.set()

        timer = asyncio.get_running_loop().call_later(delay, run)
        self._timers.add(timer)
        self._at_rest.clear()

    def _bring_up(self, replica: Replica, *, once_up: Callable[[], None] | None) -> None:
        if not self._is_there(replica) or "DELETE" in replica.flags or not replica.node.online:
            return
        with self._watching([replica.definition]):
            replica.up = True
        if once_up:
            once_up()

    def _take_down(self, replica: Replica) -> None:
        if not self._is_there(replica) or not replica.node.online:
            return
        with self._watching([replica.definition], anyway=[replica]):
            replica.up = replica.in_use = False
        self._later(self.timing.delete_delay, partial(self._drop, replica))

    def _drop(self, replica: Replica) -> None:
        if self._is_there(replica) and replica.node.online:
            self._remove(replica)

    def _flag(self, replica: Replica, flags: frozenset[str]) -> None:
        if "DELETE" not in replica.flags:
            replica.flags = flags

    @contextmanager
    def _watching(
        self, definitions: Collection[Definition], *, anyway: Iterable[Replica] = ()
    ) -> Iterator[None]:
        """Send an event for every replica whose `may_promote` the block changes, and for some
        anyway.
        """
        before = {
            replica.uuid: replica.may_promote
            for definition in definitions
            for replica in definition.replicas.values()
        }
        forced = {replica.uuid for replica in anyway}
        yield
        self._emit_replicas(
            replica
            for definition in definitions
            for replica in definition.replicas.values()
            if replica.uuid in forced or before.get(replica.uuid) is not replica.may_promote
        )

    def _emit_replicas(self, replicas: Iterable[Replica]) -> None:
        self.event_log.emit(PROMOTION, [_promotion(r) for r in replicas if r.definition.has_drbd])


def _promotion(replica: Replica) -> tuple[str, Mapping[str, object]]:
    payload: dict[str, object] = {
        "resource_name": replica.definition.name,
        "node_name": replica.node.name,
    }
    may_promote = replica.may_promote
    if may_promote is not None:
        payload["may_promote"] = may_promote
    return "may-promote-change", payload
