"""`plan` beside journal entries of others."""

import tracemalloc

from linstor_affinity_events.app.planning import describe_entries
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.volume import Volume
from tests.fakes.volumes import FakeJournal
from tests.model.manifests import begun, volume, with_metadata

SIZE, NUMBER = 500_000, 40


class LargeEntries(FakeJournal):
    """Has an entry for each name."""

    async def read(self, name: PvName) -> JournalEntry | None:
        return begun(with_metadata(volume(), name=name, annotations={"x": "x" * SIZE}))


async def test_little_is_kept_of_large_entries() -> None:
    """The command may be run in the container of the service, within its limit of memory."""
    entries = dict[PvName, Volume | None]()
    names = [PvName(f"pvc-{each}") for each in range(NUMBER)]
    tracemalloc.start()
    await describe_entries(LargeEntries(), names, entries, [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert list(entries) == sorted(names)
    assert peak < NUMBER * SIZE / 4
