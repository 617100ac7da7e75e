"""Runs one plan to its end on the virtual clock, and reports what went wrong."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from linstor_affinity_events.engine.replacement_run import RELIED_ON_AFTER
from linstor_affinity_events.errors import Conflict, Unreachable
from tests.engine.random_operations.instances import Call, Instance
from tests.engine.random_operations.invariants import READ_WITHIN, Invariants
from tests.engine.random_operations.oracle import Oracle
from tests.engine.random_operations.plan import (
    AT_CALLS,
    DOWN,
    LAGS,
    LONG,
    Operation,
    Plan,
    Script,
    What,
)
from tests.engine.random_operations.users import CLAIM, NAMESPACE, Users
from tests.engine.setup import PV, RD, bind
from tests.fakes.kube_server import Binder, FakeCluster, Refusal
from tests.fakes.linstor import FakeLinstor
from tests.fakes.sidecars import MemoryApi, Sidecars
from tests.fakes.volumes import CLAIMS, VOLUMES, FakeJournal
from tests.testbed import manifests

Json = dict[str, Any]

NODES = ("n1", "n2", "n3", "n4")
PLACEMENTS = (("n2",), ("n1",), ("n3", "n4"), ("n4",))
AT_MOST = 3
IDLE = 8.0
OPERATIONS_AT_MOST = 400.0
REST_WITHIN = 900.0
NEVER = 1e9
STAYS = 130.0
"""Two full reconciles: a fight that still goes on shows within it."""

HOSTILE = "hostile"


class Scenario:
    """Checks invariants all the time; `wrong` has the violations."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.script = plan, Script(plan.operations)
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
        """When each instance last began a replacement itself."""
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
                await self._run_operations()
                await self._reach_steady_state()
            finally:
                for instance in self.instances:
                    instance.kill()
                for task in (*self._landings, *self._starts):
                    task.cancel()
                await asyncio.gather(*(instance.ended() for instance in self.instances))
        self._check()

    async def _prepare(self, stack: AsyncExitStack) -> None:
        bind(self.cluster, PV, "n1", policy=self.plan.policy)
        hostile = manifests.claim(HOSTILE)
        hostile["metadata"]["annotations"] = {"pv.kubernetes.io/bind-completed": "yes"}
        hostile["spec"]["volumeName"] = PV
        self.cluster.create(CLAIMS, hostile, namespace=NAMESPACE)
        if self.plan.attached:
            self.sidecars.attach(PV)
        await asyncio.sleep(5.0)
        self.oracle = Oracle(original=self.volume(), policies=frozenset({self.plan.policy}))
        self.users = Users(
            self.cluster,
            self.oracle,
            self.journal,
            self.sidecars,
            self.binder,
            self._is_ambiguous,
        )
        self.invariants = await stack.enter_async_context(
            Invariants(self.cluster, self.oracle, self.journal, self.sidecars, self.users, self)
        )
        self.wrong = self.invariants.wrong

    @property
    def claim_reads_are_old(self) -> bool:
        """Whether the volume may be recreated long after its claim was read: after the last read
        it is removed at once, unless a call is slow.
        """
        stalled = any(call.stalled for call in self._writes if call.verb == "create")
        return stalled or self.script.had(What.SLOW)

    @property
    def made_in_one_run(self) -> bool:
        """Whether the instance that created the volume had begun the replacement itself, so
        recently that nobody can have relied on the markers.
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
        return asyncio.get_running_loop().time() - begun < RELIED_ON_AFTER + READ_WITHIN

    def _stalled_creation_landed(self) -> bool:
        """Whether a creation took effect long after it was sent: nothing can guard it, so what
        changed since, while another instance went on, is not in it.
        """
        return any(call.stalled and call.landed for call in self._writes if call.verb == "create")

    def _is_ambiguous(self) -> bool:
        """Whether a deletion now may be mistaken for the service's own, as far as calls go: one
        that creates the volume can't be undone, and one of the last two before our own deletion is
        based on an observation that is older than this moment.
        """
        return any(
            call.under_way or (call.verb != "create" and not call.responded)
            for call in self._writes
            if call.verb in {"create", "patch", "save"}
        )

    def volume(self) -> Json:
        found = self.cluster.get(VOLUMES, PV)
        assert found is not None
        return found

    async def _run_operations(self) -> None:
        self._start()
        await asyncio.sleep(5.0)
        self._running = True
        self._move(0)
        clock = asyncio.get_running_loop().time
        ends = clock() + OPERATIONS_AT_MOST
        while not self.script.over and not self.wrong and clock() < ends:
            before = self.calls
            await asyncio.sleep(IDLE)
            if self.calls == before and not self.script.over:
                self._on_idle()
        self._running = False

    def _on_idle(self) -> None:
        """Perform an operation that needs no call; a fault waits for a call that may yet come."""
        if self.script.next.what not in AT_CALLS:
            self._perform(self.script.skip())
        elif not self._resting:
            self.script.skip()

    # Faults of calls.

    async def before(self, instance: Instance, call: Call) -> None:
        if call.writes:
            self._writes.append(call)
        if call.verb == "create entry":
            self._begun[instance.number] = asyncio.get_running_loop().time()
        if not self._running:
            return
        self.calls += 1
        self.script.call()
        for operation in self.script.due(after=False):
            await self._inject(operation, instance, call, done=False)

    async def after(self, instance: Instance, call: Call) -> None:
        for operation in self.script.due(after=True) if self._running else ():
            await self._inject(operation, instance, call, done=True)

    async def _inject(
        self, operation: Operation, instance: Instance, call: Call, *, done: bool
    ) -> None:
        match operation.what:
            case What.SLOW:
                call.stalled |= not done
                self._resting += 1
                await asyncio.sleep(LONG[operation.much])
                self._resting -= 1
            case What.LOST:
                self.unsure = True
                raise Unreachable(f"{call.verb} lost")
            case What.LATE:
                self.unsure = True
                if call.writes and not done:
                    call.late = call.stalled = True
                    self._spawn(self._landings, self._land(call, LONG[operation.much]))
                raise Unreachable(f"{call.verb} late")
            case What.CONFLICT:
                if call.writes and not done:
                    raise Conflict(f"{call.verb} in conflict")
            case What.CRASH:
                self.unsure = True
                instance.kill()
                self._spawn(self._starts, self._start_later(DOWN[operation.much]))
                raise asyncio.CancelledError
            case _:
                self._perform(operation)

    def _perform(self, operation: Operation) -> None:
        match operation.what:
            case What.MOVE:
                self._move(operation.much)
            case What.SECOND:
                if len(self._alive()) < AT_MOST:
                    self._start()
            case What.BINDER:
                self.binder.pause()
                asyncio.get_running_loop().call_later(DOWN[operation.much], self.binder.resume)
            case _:
                self.users.apply(operation.what)

    async def _land(self, call: Call, after: float) -> None:
        await asyncio.sleep(after)
        try:
            await call.work()
            call.landed = True
        except (Conflict, Refusal):
            pass  # As it should be, mostly.
        finally:
            call.late = call.open = False

    def _spawn(self, entries: set[asyncio.Task[None]], work: Any) -> None:
        task = asyncio.create_task(work)
        entries.add(task)
        task.add_done_callback(entries.discard)

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
        self.linstor.place(PV, *PLACEMENTS[where])
        for instance in self._alive():
            instance.setup.queue.add(RD, source="promotion")

    # What must hold in steady state.

    async def _reach_steady_state(self) -> None:
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
                # The next one knows only what this one had begun.
                self.unsure |= bool(self.journal.entries)
                instance.kill()
        if not staying:
            self._start()
        clock = asyncio.get_running_loop().time
        ends = clock() + REST_WITHIN
        while self._violations() and clock() < ends and not self.wrong:
            await asyncio.sleep(60.0)
            # A claim that is Lost stays so until then.
            self.binder.resync()
            await asyncio.sleep(5.0)
        if why := self._violations():
            self.wrong.append(f"steady state: {why}")
            return
        made = self.invariants.ours
        await asyncio.sleep(STAYS)
        if why := self._violations():
            self.wrong.append(f"it was correct, and then not: {why}")
        if self.invariants.ours != made:
            self.wrong.append("a correct volume is replaced again")

    def _violations(self) -> str:
        if self.journal.entries:
            return "an entry is left"
        if self._stalled_creation_landed():
            self.oracle.may_be_older = True
        return self.oracle.violation(
            self.cluster.get(VOLUMES, PV),
            self.cluster.get(CLAIMS, CLAIM, NAMESPACE),
            frozenset(str(node) for node in self.linstor.placed[RD].serving_nodes),
        )

    def _check(self) -> None:
        lost = [name for _, name in self.binder.lost_claims if name != HOSTILE]
        if self.plan.is_plain and lost:
            self.wrong.append("the claim was Lost")
        if self.invariants.ours > 3 + 2 * len(self.plan.operations):
            self.wrong.append(f"replaced {self.invariants.ours} times")
        if any(instance.failures for instance in self.instances):
            self.wrong.append("an unexpected error; see the log")
        assert not self.wrong, "; ".join(self.wrong)
