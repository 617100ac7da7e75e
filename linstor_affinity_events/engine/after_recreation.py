"""After the recreation, and before its journal entry is deleted: claim and late writes."""

import asyncio
from collections.abc import Awaitable

from linstor_affinity_events.engine.carry_over import carry_over_late_write
from linstor_affinity_events.engine.ports import VolumeWatch
from linstor_affinity_events.engine.run_dependencies import RunDependencies
from linstor_affinity_events.model.progress import Progress
from linstor_affinity_events.model.steps import Drop, Outcome


async def verified(
    dependencies: RunDependencies, progress: Progress, step: Drop, volume_watch: VolumeWatch
) -> None:
    """Wait until the claim is bound to the new volume, and apply to it what others wrote to the old
    one at the last moment.
    """
    made, entry = progress.observation.pv, progress.entry
    if step.verified or made is None or not step.recreated:
        return
    checks = list[Awaitable[None]]()
    # A volume that another run recreated was verified there; an entry that another client wrote
    # must not make a worker wait.
    if step.outcome is Outcome.DONE and (progress.removed or progress.asked_for is not None):
        before = progress.claim_before
        checks.append(dependencies.lost_claims.verify_bound(entry, before, made, volume_watch))
    if progress.removed:
        checks.append(carry_over_late_write(dependencies.volumes, entry, made, volume_watch))
    # Run both to their end: the last event of the old volume arrives only once.
    found = await asyncio.gather(*checks, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
