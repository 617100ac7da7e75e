"""The baseline that figures are compared with asks for what the service asks for, in its order.

A baseline that left out a write would make the service look slow, and one with a request too many
would hide what the service wastes.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path

from benchmarks import baseline
from benchmarks.waits import until_full_reconciles
from tests.testbed.manifests import DRIVER
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Asked
from tests.testbed.service import running
from tests.testbed.testbed import Testbed
from tests.testbed.warm import WarmStarts

QUIET = 0.4
"""Without a request for so long, what the start led to is over."""

TIMEOUT = 30.0

EVENT = "create events.events.k8s.io"
REMOVAL, CREATION = "update persistentvolumes", "create persistentvolumes"


async def test_the_baseline_sends_the_requests_of_the_service(
    fake_testbed: Testbed, tmp_path: Path, warm_starts: WarmStarts
) -> None:
    async with ProxiedTestbed.of(fake_testbed, tmp_path, warm_starts) as proxied:
        async with service_at_work(proxied):
            by_service = await moves(proxied, "pvc-service", DRIVER)
        async with baseline_running(proxied):
            by_baseline = await moves(proxied, "pvc-baseline", baseline.DRIVER)

    assert sequence(by_baseline) == sequence(by_service)
    assert sequence(by_service)[-3:] == ["delete configmaps", EVENT, EVENT]


@asynccontextmanager
async def service_at_work(proxied: ProxiedTestbed) -> AsyncIterator[None]:
    # It votes, as it does where it is timed beside the baseline.
    service = proxied.service("--leader-election=true", "--reconcile-rate=1h")
    async with running(service):
        await until_full_reconciles(service, 1)
        yield


@asynccontextmanager
async def baseline_running(proxied: ProxiedTestbed) -> AsyncIterator[None]:
    command = (sys.executable, "-m", "benchmarks.baseline", "--kubeconfig", str(proxied.kubeconfig))
    process = await asyncio.create_subprocess_exec(
        *command, "--linstor", proxied.linstor.url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline()
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def moves(proxied: ProxiedTestbed, name: str, driver: str) -> list[Asked]:
    """Move a volume to and back; returns what the way back led to, up to both Events."""
    testbed = proxied.testbed
    source = {"driver": driver, "volumeHandle": name, "fsType": "ext4"}
    await testbed.add(name, ["n1"], csi=source)
    await testbed.cluster.at_rest()
    # The service finds out only once, with its first change, whether the cluster lets an affinity
    # be changed in place: that request belongs to no other move.
    while True:
        await move(proxied, name, "n1", "n2")
        found = await move(proxied, name, "n2", "n1")
        # LINSTOR adds the new replica before it removes the old one: on a busy machine that may be
        # seen, and is two changes.
        if [each.label for each in found].count(CREATION) == 1:
            return found


async def move(proxied: ProxiedTestbed, name: str, here: str, there: str) -> list[Asked]:
    testbed, record = proxied.testbed, proxied.record
    async with asyncio.timeout(TIMEOUT):
        # What the move before led to must be over.
        await record.until_quiet(QUIET)
        await testbed.cluster.at_rest()
        record.forget()
        testbed.world.move(name, here, there)
        await record.until(lambda: record.labels().count(EVENT) == 2)
        await proxied.until_idle()
    await testbed.until_on(name, there)
    await testbed.until_bound(name)
    await record.until_quiet(QUIET)
    return list(record)


def sequence(asked: Sequence[Asked]) -> list[str]:
    """Labels in their order; what goes side by side comes in any order, so it is sorted."""
    found = []
    for kind, group in groupby(of_the_move(asked), key=kind_of):
        labels = [each.label for each in group]
        found += labels if kind == "write" else sorted(labels)
    return found


def of_the_move(asked: Sequence[Asked]) -> list[Asked]:
    """Without what an instance does for its own sake, or again since it came too early."""
    begun = next(number for number, each in enumerate(asked) if each.terms.writes)
    return [
        each
        for number, each in enumerate(asked)
        if not is_of_the_lease(each)
        and not is_a_stream(each)
        and not is_of_a_full_reconcile(each)
        and not (number > begun and is_a_read(each))
        and not came_too_early(each)
        and not (is_a_reading(each) and any(map(came_too_early, asked[:number])))
    ]


def is_of_the_lease(asked: Asked) -> bool:
    """Leading has a pace of its own, whatever moves."""
    return asked.terms.resource == "leases"


def is_a_stream(asked: Asked) -> bool:
    """The API server ends each watch after a while, and then it is restarted."""
    return asked.terms.verb == "watch" or asked.path.startswith("/v1/events/")


def is_of_a_full_reconcile(asked: Asked) -> bool:
    """A full reconcile reads whole collections, as no move does; it comes with each stream that is
    connected and with the lease, on a busy machine only when the volume moves already.
    """
    if asked.terms.of == "linstor":
        return "/*" not in asked.terms.resource
    return asked.terms.verb == "list"


def is_a_read(asked: Asked) -> bool:
    """One move is two events of LINSTOR. Where the second one finds a reconcile in flight, another
    reconcile follows once the volume is right; it finds nothing to do, and nobody waits for it.
    """
    return asked.terms.of == "linstor"


def came_too_early(asked: Asked) -> bool:
    """The creation is asked for while the old volume is still going, until that is gone. The
    removal is refused if the protection finalizer went since the volume was seen last.
    """
    return asked.label in {REMOVAL, CREATION} and asked.status == 409


def is_a_reading(asked: Asked) -> bool:
    """Between a removal that was refused and the next one."""
    return asked.label == "get persistentvolumes"


def kind_of(asked: Asked) -> str:
    """Neighbours of one kind are compared as a group, but for writes."""
    if asked.terms.dry_run or asked.label == "create configmaps":
        # The journal entry is created during the dry run.
        return "rehearsal"
    if asked.label in {"patch persistentvolumes", "update configmaps"}:
        return "preparation"
    if asked.label in {REMOVAL, CREATION}:
        # They overlap, on connections of their own.
        return "swap"
    if asked.terms.writes:
        return "write"
    return f"read of {asked.terms.of or 'kubernetes'}"
