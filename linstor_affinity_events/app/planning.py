"""The `plan` command: reads everything once, writes nothing, and reports what `run` would do."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.informer import read_list
from linstor_affinity_events.adapters.kubernetes.journal import KubeJournal
from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.adapters.kubernetes.volumes import (
    CLASSES_PATH,
    VOLUMES_PATH,
    KubeVolumes,
)
from linstor_affinity_events.adapters.linstor.rest import LinstorRest
from linstor_affinity_events.app.peers import (
    journal_namespace,
    kubernetes,
    linstor_connection,
    tuning_of,
)
from linstor_affinity_events.engine.components import cluster_view_of
from linstor_affinity_events.engine.journal_lists import listed_once
from linstor_affinity_events.engine.planner import Finding, Planner, Progress
from linstor_affinity_events.engine.ports import Journal
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.errors import BadEntry, Missing, Refused
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.selection import Selection, is_called
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.model.what_if import WhatIf
from linstor_affinity_events.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The findings, ordered by name, and warnings about what could not be read."""

    findings: tuple[Finding, ...]
    warnings: tuple[str, ...] = ()


async def make_plan(
    settings: Settings, selection: Selection, what_if: WhatIf, progress: Progress
) -> Plan:
    """Read the selected volumes, and everything that their decisions depend on.

    Raises Missing for a name that does not exist; BadSettings, Again and Refused when a peer is
    unreachable or rejects a request.
    """
    api = kubernetes(settings)
    await api.open()
    try:
        async with LinstorRest(
            linstor_connection(settings), namespace=settings.property_namespace
        ) as linstor:
            return await _Reading(settings, api, linstor, what_if, progress).plan(selection)
    finally:
        await api.close()


class _Reading:
    """Reads LINSTOR and Kubernetes once."""

    def __init__(
        self,
        settings: Settings,
        api: KubeApi,
        linstor: LinstorRest,
        what_if: WhatIf,
        progress: Progress,
    ) -> None:
        self._settings, self._api, self._what_if = settings, api, what_if
        self._progress = progress
        self._index = VolumeIndex(lambda _: None)
        self._volumes = KubeVolumes(api, self._index)
        self._planner = Planner(
            cluster_view=cluster_view_of(self._index, linstor, time.time, tuning_of(settings)),
            linstor=linstor,
            volumes=self._volumes,
            what_if=what_if,
            allowed_finalizers=settings.allow_finalizer,
            progress=progress,
        )
        self._warnings: list[str] = []

    async def plan(self, selection: Selection) -> Plan:
        self._progress("listing PersistentVolumes", 0, 0)
        entries: dict[PvName, Volume | None] = {}
        await together(
            read_list(self._api, VOLUMES_PATH, self._index),
            read_list(self._api, CLASSES_PATH, self._index.classes),
            self._read_entries(entries),
        )
        everything = [*self._index.all(), *self._absent(entries)]
        _require_known(selection, self._what_if, everything)
        selected = sorted(filter(selection.takes, everything), key=lambda volume: volume.name)
        findings = await self._planner.survey(
            [volume for volume in selected if self._index.get(volume.name) is not None],
            [volume for volume in selected if self._index.get(volume.name) is None],
            set(entries),
        )
        taken = [f for f in findings if selection.matches_node(f.volume, f.case.placement)]
        if not self._what_if:
            taken = await self._planner.obstacles(taken)
        taken.sort(key=lambda finding: finding.volume.name)
        return Plan(findings=tuple(taken), warnings=tuple(self._warnings))

    async def _read_entries(self, entries: dict[PvName, Volume | None]) -> None:
        namespace = journal_namespace(self._settings)
        journal = KubeJournal(self._api, namespace)
        try:
            listed = await listed_once(journal)
            await describe_entries(journal, listed.volumes, entries, self._warnings)
        except Refused as error:
            self._warnings.append(
                f"cannot read the journal in namespace {namespace}, so unfinished "
                f"replacements are not shown: {error}"
            )
            return
        if not listed.complete:
            self._warnings.append(
                f"there are too many journal entries in namespace {namespace} to list all of them, "
                "so not all unfinished replacements are shown"
            )

    def _absent(self, entries: Mapping[PvName, Volume | None]) -> list[Volume]:
        """Return the volumes that are deleted and not yet recreated."""
        return [
            volume
            for name, volume in entries.items()
            if volume is not None and self._index.get(name) is None
        ]


async def describe_entries(
    journal: Journal,
    names: Iterable[PvName],
    entries: dict[PvName, Volume | None],
    warnings: list[str],
) -> None:
    """Read these entries, and add what is needed of their volumes to `entries`: others may have
    written very large ones, and this may run beside the service, within its limit of memory.
    """
    for name in sorted(names):
        try:
            entry = await journal.read(name)
        except BadEntry as error:
            warnings.append(f"the journal entry of {name} is not valid: {error}")
            continue
        if entry is not None:
            entries[name] = describe(entry.wanted)


def _require_known(selection: Selection, what_if: WhatIf, volumes: Sequence[Volume]) -> None:
    """Raise Missing for names that no volume has: they are probably mistyped."""
    unknown = [n for n in selection.names if not any(is_called(n, volume) for volume in volumes)]
    if unknown:
        raise Missing(
            "no PersistentVolume, claim or resource of LINSTOR's CSI driver is "
            f"named {', '.join(unknown)}"
        )
    resources = {volume.key.resource for volume in volumes if volume.key is not None}
    unknown_resources = sorted(set(what_if.replicas) - resources)
    if unknown_resources:
        raise Missing(f"no PersistentVolume refers to resource {', '.join(unknown_resources)}")
