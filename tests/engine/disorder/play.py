"""Plays one plan to its end on the virtual clock, and says what went wrong."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from linstor_affinity_events.engine.replacement_run import RELIED_ON_AFTER
from linstor_affinity_events.errors import Conflict, Unreachable
from tests.engine.disorder.instances import Call, Instance
from tests.engine.disorder.ledger import Ledger
from tests.engine.disorder.people import CLAIM, NAMESPACE, People
from tests.engine.disorder.schedule import AT_CALLS, DOWN, LAGS, LONG, Plan, Script, Turn, What
from tests.engine.disorder.watchman import SEEN, Watchman
from tests.engine.setup import PV, RD, bind
from tests.fakes.kube_server import Binder, FakeCluster, Refusal
from tests.fakes.linstor import FakeLinstor
from tests.fakes.sidecars import MemoryApi, Sidecars
from tests.fakes.volumes import CLAIMS, VOLUMES, FakeJournal
from tests.testbed import manifests

Json = dict[str, Any]

NODES = ("n1", "n2", "n3", "n4")
PLACES = (("n2",), ("n1",), ("n3", "n4"), ("n4",))
AT_MOST = 3
IDLE = 8.0
PLAYS_AT_MOST = 400.0
REST_WITHIN = 900.0
NEVER = 1e9
STAYS = 130.0
"""Two full passes: who would still fight, fights within it."""

HOSTILE = "hostile"


class Play:
    """Watches all the time; `wrong` is what must never be."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.script = plan, Script(plan.turns)
        self.wrong: list[str] = []
        self.instances: list[Instance] = []
        self.cluster, self.journal = FakeCluster(), FakeJournal()
        self.linstor = FakeLinstor(*NODES)
        self._running = False
        self.calls = self._resting = 0
        self.unsure = False
        """Whether a write was lost or late, an instance killed, or another there beside it."""
        self._writes: list[Call] = []
        self._begun: dict[int, float] = {}
        """When each instance that has begun a replacement itself did so last."""
        self._landings: set[asyncio.Task[None]] = set()
        self._starts: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Raises AssertionError for whatever went wrong."""
        plan = self.plan
        for name, parameters in manifests.CLASSES.items():
            self.cluster.create("storageclasses", manifests.storage_class(name, parameters))
        self.linstor.place(PV, "n1")
        async with AsyncExitStack() as stack:
            self.binder = await stack.enter_async_context(
                Binder(self.cluster, delay=0.001, resync_every=15.0 if plan.resync else NEVER)
            )
            self.sidecars = await stack.enter_async_context(
                Sidecars(MemoryApi(self.cluster), lag=0.001 + LAGS[plan.sidecar_lag])
            )
            await self._prepare(stack)
            try:
                await self._play()
                await self._come_to_rest()
            finally:
                for instance in self.instances:
                    instance.kill()
                for task in (*self._landings, *self._starts):
                    task.cancel()
                await asyncio.gather(*(instance.ended() for instance in self.instances))
        self._judge()

    async def _prepare(self, stack: AsyncExitStack) -> None:
        bind(self.cluster, PV, "n1", policy=self.plan.policy)
        hostile = manifests.claim(HOSTILE)
        hostile["metadata"]["annotations"] = {"pv.kubernetes.io/bind-completed": "yes"}
        hostile["spec"]["volumeName"] = PV
        self.cluster.create(CLAIMS, hostile, namespace=NAMESPACE)
        if self.plan.attached:
            self.sidecars.attach(PV)
        await asyncio.sleep(5.0)
        self.ledger = Ledger(original=self.volume(), policies=frozenset({self.plan.policy}))
        self.people = People(
            self.cluster,
            self.ledger,
            self.journal,
            self.sidecars,
            self.binder,
            self._nobody_can_tell,
        )
        self.watchman = await stack.enter_async_context(
            Watchman(self.cluster, self.ledger, self.journal, self.sidecars, self.people, self)
        )
        self.wrong = self.watchman.wrong

    @property
    def looks_are_old(self) -> bool:
        """Whether the volume may come back long after its claim was looked at: after the last look
        it is away at once, unless a call takes its time.
        """
        stalled = any(call.stalled for call in self._writes if call.verb == "create")
        return stalled or self.script.had(What.SLOW)

    @property
    def made_in_one_run(self) -> bool:
        """Whether who created the volume had itself begun to replace it, so short a time ago that
        it need not take the marks for somebody's wish.
        """
        maker = next(
            (
                call.asked_by
                for call in reversed(self._writes)
                if call.verb == "create" and call.landed
            ),
            0,
        )
        begun = self._begun.get(maker, -NEVER)
        return asyncio.get_running_loop().time() - begun < RELIED_ON_AFTER + SEEN

    def _stalled_creation_landed(self) -> bool:
        """Whether a creation took effect long after it was sent: nothing can guard it, so what
        changed since, while another instance went on, is not in it.
        """
        return any(call.stalled and call.landed for call in self._writes if call.verb == "create")

    def _nobody_can_tell(self) -> bool:
        """Whether a deletion now may be taken for the service's own, as far as calls go: one that
        creates the volume can't be taken back, and one of the last two before our own deletion
        is chosen on a sight that is older than this moment.
        """
        return any(
            call.under_way or (call.verb != "create" and not call.answered)
            for call in self._writes
            if call.verb in {"create", "patch", "save"}
        )

    def volume(self) -> Json:
        found = self.cluster.get(VOLUMES, PV)
        assert found is not None
        return found

    async def _play(self) -> None:
        self._start()
        await asyncio.sleep(5.0)
        self._running = True
        self._move(0)
        clock = asyncio.get_running_loop().time
        ends = clock() + PLAYS_AT_MOST
        while not self.script.over and not self.wrong and clock() < ends:
            before = self.calls
            await asyncio.sleep(IDLE)
            if self.calls == before and not self.script.over:
                self._when_idle()
        self._running = False

    def _when_idle(self) -> None:
        """What needs no call happens by itself; a fault waits for one that may yet come."""
        if self.script.next.what not in AT_CALLS:
            self._happen(self.script.skip())
        elif not self._resting:
            self.script.skip()

    # What befalls calls.

    async def before(self, instance: Instance, call: Call) -> None:
        if call.writes:
            self._writes.append(call)
        if call.verb == "note":
            self._begun[instance.number] = asyncio.get_running_loop().time()
        if not self._running:
            return
        self.calls += 1
        self.script.call()
        for turn in self.script.due(after=False):
            await self._befall(turn, instance, call, done=False)

    async def after(self, instance: Instance, call: Call) -> None:
        for turn in self.script.due(after=True) if self._running else ():
            await self._befall(turn, instance, call, done=True)

    async def _befall(self, turn: Turn, instance: Instance, call: Call, *, done: bool) -> None:
        match turn.what:
            case What.SLOW:
                call.stalled |= not done
                self._resting += 1
                await asyncio.sleep(LONG[turn.much])
                self._resting -= 1
            case What.LOST:
                self.unsure = True
                raise Unreachable(f"{call.verb} lost")
            case What.LATE:
                self.unsure = True
                if call.writes and not done:
                    call.late = call.stalled = True
                    self._spawn(self._landings, self._land(call, LONG[turn.much]))
                raise Unreachable(f"{call.verb} late")
            case What.CONFLICT:
                if call.writes and not done:
                    raise Conflict(f"{call.verb} in conflict")
            case What.CRASH:
                self.unsure = True
                instance.kill()
                self._spawn(self._starts, self._start_later(DOWN[turn.much]))
                raise asyncio.CancelledError
            case _:
                self._happen(turn)

    def _happen(self, turn: Turn) -> None:
        match turn.what:
            case What.MOVE:
                self._move(turn.much)
            case What.SECOND:
                if len(self._alive()) < AT_MOST:
                    self._start()
            case What.BINDER:
                self.binder.pause()
                asyncio.get_running_loop().call_later(DOWN[turn.much], self.binder.resume)
            case _:
                self.people.act(turn.what)

    async def _land(self, call: Call, after: float) -> None:
        await asyncio.sleep(after)
        try:
            await call.work()
            call.landed = True
        except (Conflict, Refusal):
            pass  # As it should be, mostly.
        finally:
            call.late = call.open = False

    def _spawn(self, kept: set[asyncio.Task[None]], work: Any) -> None:
        task = asyncio.create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)

    async def _start_later(self, after: float) -> None:
        self._resting += 1
        await asyncio.sleep(after)
        self._resting -= 1
        self._start()

    def _start(self) -> None:
        lag = LAGS[self.plan.watch_lag]
        number = len(self.instances) + 1
        made = Instance(number, self, self.cluster, self.linstor, self.journal, lag=lag)
        self.unsure |= bool(self._alive())
        self.instances.append(made)

    def _alive(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.alive]

    def _move(self, where: int) -> None:
        self.linstor.place(PV, *PLACES[where])
        for instance in self._alive():
            instance.setup.queue.add(RD, source="promotion")

    # What must hold in the end.

    async def _come_to_rest(self) -> None:
        if self.wrong:
            return
        while self._landings:
            await asyncio.wait(self._landings)
        for task in tuple(self._starts):
            task.cancel()
        self.binder.resume()
        staying = [] if self.plan.fresh_end else self._alive()[:1]
        for instance in self._alive():
            if instance not in staying:
                # What it had begun is all that the next one knows.
                self.unsure |= bool(self.journal.kept)
                instance.kill()
        if not staying:
            self._start()
        clock = asyncio.get_running_loop().time
        ends = clock() + REST_WITHIN
        while self._against() and clock() < ends and not self.wrong:
            await asyncio.sleep(60.0)
            # A claim that is Lost stays so until then.
            self.binder.look_at_everything()
            await asyncio.sleep(5.0)
        if why := self._against():
            self.wrong.append(f"at rest: {why}")
            return
        made = self.watchman.ours
        await asyncio.sleep(STAYS)
        if why := self._against():
            self.wrong.append(f"it was well, and then not: {why}")
        if self.watchman.ours != made:
            self.wrong.append("what is right is replaced again")

    def _against(self) -> str:
        if self.journal.kept:
            return "a note is left"
        if self._stalled_creation_landed():
            self.ledger.may_be_older = True
        return self.ledger.against(
            self.cluster.get(VOLUMES, PV),
            self.cluster.get(CLAIMS, CLAIM, NAMESPACE),
            frozenset(str(node) for node in self.linstor.placed[RD].serving_nodes),
        )

    def _judge(self) -> None:
        lost = [name for _, name in self.binder.lost_seen if name != HOSTILE]
        if self.plan.is_plain and lost:
            self.wrong.append("the claim was Lost")
        if self.watchman.ours > 3 + 2 * len(self.plan.turns):
            self.wrong.append(f"replaced {self.watchman.ours} times")
        if any(instance.failures for instance in self.instances):
            self.wrong.append("an error that nobody foresaw; see the log")
        assert not self.wrong, "; ".join(self.wrong)
