"""Plans what the service would do now, or under assumptions. Reads only."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from linstor_affinity_events.engine.cluster_view import ClusterView
from linstor_affinity_events.engine.placement_reader import PlacementReader
from linstor_affinity_events.engine.ports import Linstor, Volumes
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.errors import Missing
from linstor_affinity_events.model.affinity import NO_AFFINITY
from linstor_affinity_events.model.decision import (
    Case,
    Change,
    Decision,
    Deferred,
    InSync,
    Refusal,
    Resume,
    Skipped,
    decide,
)
from linstor_affinity_events.model.names import NodeName, PvName, ResourceName
from linstor_affinity_events.model.obstacles import obstacle
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.model.what_if import WhatIf

FEW = 20
"""Up to so many resources are read one by one; above, all of LINSTOR's in bulk."""

READERS = 10
MOST_READ = 1000
"""Up to so many volumes that would be changed are read to find obstacles."""

YIELD_EVERY = 500

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the number done, and the total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One volume, and what would be done for it."""

    case: Case
    decision: Decision
    against: Deferred | Refusal | None = None
    """Why a change can't be made now, if that was read."""

    absent: bool = False
    """Deleted, and to be recreated from its journal entry."""

    @property
    def volume(self) -> Volume:
        return self.case.volume

    @property
    def action(self) -> str:
        """One of: none, patch, replace, finish, leave, wait, refuse."""
        match self.against or self.decision:
            case InSync():
                return "none"
            case Skipped():
                return "skip"
            case Deferred():
                return "wait"
            case Refusal():
                return "refuse"
            case Resume():
                return "resume"
            case Change():
                return "patch" if self.volume.affinity == NO_AFFINITY else "replace"

    @property
    def pending(self) -> bool:
        """Whether something must be written for it, now or after the obstacle is gone."""
        return isinstance(self.decision, Change | Resume)


class Planner:
    """Decides on volumes as the service would. Writes nothing."""

    def __init__(
        self,
        *,
        cluster_view: ClusterView,
        linstor: Linstor,
        volumes: Volumes,
        what_if: WhatIf,
        progress: Progress,
        allowed_finalizers: Iterable[str] = (),
    ) -> None:
        self._cluster_view, self._linstor, self._volumes = cluster_view, linstor, volumes
        self._what_if, self._progress = what_if, progress
        self._allowed_finalizers = tuple(allowed_finalizers)

    async def survey(
        self, volumes: Sequence[Volume], absent: Sequence[Volume], with_entry: Collection[PvName]
    ) -> list[Finding]:
        """Decide on these volumes; `absent` ones exist only in a journal entry.

        Raises Missing if the assumptions name a node that LINSTOR does not know.
        """
        self._progress("reading from LINSTOR", 0, 0)
        nodes = await self._linstor.nodes()
        self._know(nodes.labels.keys() | nodes.unreadable)
        self._cluster_view.nodes = self._what_if.nodes(nodes)
        definitions, placements = await self._read({*_resources(volumes), *_resources(absent)})
        found = []
        for number, volume in enumerate((*volumes, *absent), start=1):
            if number % YIELD_EVERY == 0:
                self._progress("deciding", number, len(volumes))
                await asyncio.sleep(0)
            gone = number > len(volumes)
            case = self._case(
                volume, definitions, placements, has_journal_entry=gone or volume.name in with_entry
            )
            found.append(Finding(case=case, decision=decide(case), absent=gone))
        return found

    def _know(self, nodes: Collection[NodeName]) -> None:
        asked = {node for named in self._what_if.replicas.values() for node in named}
        unknown = sorted((self._what_if.gone | asked) - set(nodes))
        if unknown:
            raise Missing(
                f"LINSTOR has no node {', '.join(unknown)}; its nodes are "
                f"{', '.join(sorted(nodes))}"
            )

    async def _read(
        self, resources: Collection[ResourceName]
    ) -> tuple[Mapping[ResourceName, Definition], Mapping[ResourceName, Placement]]:
        if len(resources) > FEW:
            definitions = await self._linstor.definitions()
            view = await PlacementReader(self._linstor).placements(resources)
            return definitions, view.placements
        found = await together(*(self._linstor.definition(name) for name in resources))
        view = await PlacementReader(self._linstor).one_by_one(resources)
        return {each.resource: each for each in found if each is not None}, view.placements

    def _case(
        self,
        volume: Volume,
        definitions: Mapping[ResourceName, Definition],
        placements: Mapping[ResourceName, Placement],
        *,
        has_journal_entry: bool,
    ) -> Case:
        if volume.key is None:
            return self._cluster_view.case(volume, None, None)
        resource = volume.key.resource
        definition = self._what_if.definition(resource, definitions.get(resource))
        placement = placements.get(resource)
        if placement is None and definition is not None:
            placement = Placement(resource)
        placement = self._what_if.placement(resource, placement)
        return self._cluster_view.case(
            volume, definition, placement, has_journal_entry=has_journal_entry
        )

    async def obstacles(self, findings: Sequence[Finding]) -> list[Finding]:
        """Read the volumes that would be replaced, and their claims, to find obstacles. Findings
        beyond MOST_READ are returned unchanged.
        """
        result = list(findings)
        asked = [number for number, each in enumerate(findings) if each.action == "replace"]
        todo = iter(asked[:MOST_READ])
        done = 0

        async def read_on() -> None:
            nonlocal done
            for number in todo:
                finding = findings[number]
                result[number] = replace(finding, against=await self._against(finding.volume))
                done += 1
                self._progress("reading claims", done, len(asked))

        await together(*(read_on() for _ in range(READERS)))
        return result

    async def _against(self, volume: Volume) -> Deferred | Refusal | None:
        pv = await self._volumes.read(volume.name)
        if pv is None:
            return None
        claim = None if volume.claim is None else await self._volumes.read_claim(volume.claim)
        return obstacle(pv, claim, allowed_finalizers=self._allowed_finalizers)


def _resources(volumes: Iterable[Volume]) -> Iterable[ResourceName]:
    return (volume.key.resource for volume in volumes if volume.key is not None)
