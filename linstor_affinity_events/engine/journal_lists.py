"""Lists the journal entries of unfinished replacements, as each full reconcile does, and once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from linstor_affinity_events.engine.interrupted_runs import InterruptedRuns
from linstor_affinity_events.engine.ports import Journal
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.volume import Volume

LIST_FOR, MOST_LISTS = 10.0, 30
"""How long, and how often, one full reconcile goes on with a list of journal entries."""


async def list_entries(
    journal: Journal,
    unfinished: Unfinished,
    interrupted: InterruptedRuns,
    volume_of: Callable[[PvName], Volume | None],
) -> None:
    """List them again, to the last one unless there are very many. An interrupted run is continued
    also if its entry is gone: others may have deleted it.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + LIST_FOR
    for _ in range(MOST_LISTS):
        term = unfinished.term
        before = [name for name in unfinished.pending if name not in interrupted]
        listed = await journal.all()
        unfinished.know(listed, before=before, term=term, volume_of=volume_of)
        if (listed.last and unfinished.complete) or clock() >= until:
            break


@dataclass(frozen=True, slots=True)
class Entries:
    """What the journal contains."""

    volumes: frozenset[PvName]
    """The volumes that have an entry."""

    invalid: int
    """How many entries are not valid."""

    complete: bool
    """Whether these are all: there may be too many, or too many that are not valid."""


async def listed_once(journal: Journal) -> Entries:
    """List the entries for who needs to know them once."""
    clock = asyncio.get_running_loop().time
    until = clock() + LIST_FOR
    found = set[PvName]()
    invalid, complete = 0, False
    for _ in range(MOST_LISTS):
        listed = await journal.all()
        found.update(listed.volumes)
        invalid = listed.invalid + (0 if listed.first else invalid)
        complete = (complete or listed.first) and not listed.unread
        if (listed.last and complete) or clock() >= until:
            break
    return Entries(frozenset(found), invalid, listed.last and complete)
