"""The `check` command: tests everything that `run` needs and reports how to fix problems."""

from collections.abc import AsyncIterator

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.database import KubeDatabase
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.informer import read_list
from linstor_affinity_events.adapters.kubernetes.journal import LABEL, KubeJournal
from linstor_affinity_events.adapters.kubernetes.lease import LeaseName
from linstor_affinity_events.adapters.kubernetes.survey import KubeSurvey, ServiceAccount
from linstor_affinity_events.adapters.kubernetes.volumes import CLASSES_PATH, VOLUMES_PATH
from linstor_affinity_events.adapters.linstor.rest import LinstorRest
from linstor_affinity_events.app.check_kubernetes import (
    conflicting_controllers,
    in_place,
    journal,
    kubernetes_reachable,
    leader,
    permissions,
    storage_classes,
)
from linstor_affinity_events.app.check_linstor import (
    database_triggers,
    linstor_login,
    linstor_reachable,
    linstor_streams,
    node_labels,
    property_namespace,
)
from linstor_affinity_events.app.check_result import CheckResult, Status, fail, ok, warn
from linstor_affinity_events.app.peers import (
    default_policy,
    event_streams,
    journal_namespace,
    kubernetes,
    lease_name,
    linstor_connection,
)
from linstor_affinity_events.engine.journal_lists import listed_once
from linstor_affinity_events.errors import AffinityEventsError
from linstor_affinity_events.model.keys import HOSTNAME_LABEL
from linstor_affinity_events.model.names import few
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.policy import PolicyReading
from linstor_affinity_events.settings import Settings


async def check(
    settings: Settings, *, leftovers_only: bool = False, account: ServiceAccount | None = None
) -> AsyncIterator[CheckResult]:
    """Run all checks in sequence; a check that others depend on comes before them.

    Permissions are checked for `account`, or for the caller's own account if it is None.
    """
    api = kubernetes(settings)
    try:
        checks = _Checks(settings, api, account)
        if leftovers_only:
            async for result in checks.leftovers_only():
                yield result
            return
        yield ok("settings", "valid")
        async for result in checks.kubernetes():
            yield result
        async for result in checks.linstor():
            yield result
        async for result in checks.both():
            yield result
    finally:
        await api.close()


class _Checks:
    """The checks in their order. The findings of one are kept for those that depend on it."""

    def __init__(self, settings: Settings, api: KubeApi, account: ServiceAccount | None) -> None:
        self._settings, self._api = settings, api
        self._survey = KubeSurvey(api, account)
        self._who = f"{account.namespace}/{account.name}" if account else "the account"
        self._namespace = journal_namespace(settings)
        self._journal = KubeJournal(api, self._namespace)
        self._lease: LeaseName | None = None
        if settings.leader_election:
            self._lease = lease_name(settings)
        self._index: VolumeIndex | None = None
        self._nodes: Nodes | None = None

    async def kubernetes(self) -> AsyncIterator[CheckResult]:
        responded = await kubernetes_reachable(self._api, self._survey)
        yield responded
        if responded.status is Status.FAIL:
            return
        yield await permissions(self._survey, self._namespace, self._lease, who=self._who)
        yield await self._list_volumes()
        if self._index is not None:
            ours = {
                name: found for name, found in self._index.classes.found.items() if found.is_ours
            }
            default = default_policy(self._settings.default_remote_access_policy)
            async for result in storage_classes(self._index, ours, default):
                yield result
            yield await in_place(self._survey, list(self._index.all()))
        yield await conflicting_controllers(self._survey)
        if self._lease is not None:
            yield await leader(self._survey, self._lease)
        yield await journal(self._journal, self._namespace)
        yield await self._leftovers()
        database = KubeDatabase(self._api, watch_for=1.0, recheck_every=1.0, survey=self._survey)
        yield await database_triggers(database, self._settings.watch_linstor_database)

    async def linstor(self) -> AsyncIterator[CheckResult]:
        connection = linstor_connection(self._settings)
        async with LinstorRest(connection, namespace=self._settings.property_namespace) as linstor:
            reachable = True
            async for result in linstor_reachable(linstor, self._settings.linstor_urls):
                reachable = result.status is not Status.FAIL
                yield result
            if not reachable:
                return
            login, self._nodes = await linstor_login(linstor)
            yield login
            async for result in linstor_streams(event_streams(connection)):
                yield result

    async def both(self) -> AsyncIterator[CheckResult]:
        """Run the checks that need a response from both LINSTOR and Kubernetes."""
        if self._nodes is None:
            return
        yield property_namespace(self._nodes, self._settings.property_namespace)
        if self._index is not None:
            yield node_labels(self._nodes, self._policies(self._index))
        yield await self._same_nodes(self._nodes)

    def _policies(self, index: VolumeIndex) -> set[PolicyReading]:
        """Return every policy that applies to some volume or class."""
        classes = (each for each in index.classes.found.values() if each.is_ours)
        found = {each.policy for each in classes}
        found |= {policy for each in index.all() for policy in (each.override, each.context)}
        found.add(default_policy(self._settings.default_remote_access_policy))
        return {each for each in found if each is not None}

    async def _list_volumes(self) -> CheckResult:
        """List volumes and StorageClasses; later checks depend on them."""
        index = VolumeIndex(lambda _: None)
        try:
            await read_list(self._api, VOLUMES_PATH, index)
            await read_list(self._api, CLASSES_PATH, index.classes)
        except AffinityEventsError as error:
            return fail(
                "volumes",
                f"cannot list PersistentVolumes: {error}",
                "see the check named permissions",
            )
        self._index = index
        unmanaged = sorted(volume.name for volume in index.unmanaged())
        if unmanaged:
            return warn(
                "volumes",
                f"{len(index)} volumes; the volume handles of {few(unmanaged)} "
                "are not valid LINSTOR volumes",
                "these PersistentVolumes are ignored; delete them if they are not needed",
            )
        return ok("volumes", f"{len(index)} volumes of LINSTOR's CSI driver")

    async def leftovers_only(self) -> AsyncIterator[CheckResult]:
        responded = await kubernetes_reachable(self._api, self._survey)
        if responded.status is Status.FAIL:
            yield responded
            return
        listed = await self._list_volumes()
        if listed.status is Status.FAIL:
            yield listed
            return
        found = await self._leftovers()
        # With --leftovers, an unfinished replacement is a failure and not a warning.
        yield (
            CheckResult(found.check, Status.FAIL, found.detail, found.remedy)
            if found.remedy
            else found
        )

    async def _leftovers(self) -> CheckResult:
        """Check for unfinished replacements; where the service runs, they finish soon."""
        try:
            entries = await listed_once(self._journal)
        except AffinityEventsError as error:
            return fail(
                "leftovers",
                f"cannot list journal entries: {error}",
                "see the check named permissions",
            )
        marked = (
            {v.name for v in self._index.all() if v.marked} if self._index is not None else set()
        )
        if found := sorted(entries.volumes | marked):
            return warn(
                "leftovers",
                f"unfinished replacements: {few(found)}",
                "keep the service running until they are finished, and do not uninstall it before",
            )
        if not entries.complete:
            return warn(
                "leftovers",
                "there are too many journal entries to list all of them, so it is not known "
                "whether replacements are unfinished",
                f"find out who creates ConfigMaps with label {LABEL} in the journal's namespace, "
                "and delete those that are not valid",
            )
        if entries.invalid:
            return warn(
                "leftovers",
                f"there are journal entries that are not valid ({entries.invalid}), so it is not "
                "known whether replacements are unfinished",
                "see the errors above for their names; if no PersistentVolume is missing, delete "
                f"these ConfigMaps (label {LABEL})",
            )
        return ok(
            "leftovers",
            f"there are no unfinished replacements (journal in namespace {self._namespace})",
        )

    async def _same_nodes(self, nodes: Nodes) -> CheckResult:
        """Check that LINSTOR and Kubernetes have the same nodes."""
        try:
            kubernetes = await self._survey.nodes()
        except AffinityEventsError as error:
            return warn(
                "nodes",
                f"cannot list Kubernetes nodes: {error}",
                "allow this check to list nodes; the service itself does not need it",
            )
        ours = {labels.get(HOSTNAME_LABEL, str(name)) for name, labels in nodes.labels.items()}
        parts = []
        if only := sorted(ours - kubernetes):
            parts.append(f"only in LINSTOR: {few(only)}")
        if only := sorted(kubernetes - ours):
            parts.append(f"only in Kubernetes: {few(only)}")
        if parts:
            return warn(
                "nodes",
                "; ".join(parts),
                "pods cannot run on nodes that are not in Kubernetes; nodes that "
                "are not in LINSTOR can only use volumes whose policy allows "
                "remote access",
            )
        return ok("nodes", f"LINSTOR and Kubernetes have the same {len(ours)} nodes")
