"""Checks of Kubernetes: connection, permissions, StorageClasses, in-place changes, the leader."""

from collections.abc import AsyncIterator, Mapping

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.journal import KubeJournal
from linstor_affinity_events.adapters.kubernetes.lease import LeaseName
from linstor_affinity_events.adapters.kubernetes.survey import KubeSurvey
from linstor_affinity_events.app.check_result import CheckResult, fail, ok, warn
from linstor_affinity_events.app.permissions import PERMISSIONS, Permission, Scope
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.errors import AffinityEventsError, BadSettings, Forbidden, Refused
from linstor_affinity_events.model.affinity import NO_AFFINITY
from linstor_affinity_events.model.names import few
from linstor_affinity_events.model.policy import Policy, StorageClass, Unreadable
from linstor_affinity_events.model.volume import Volume

WHERE = (
    "set --kubeconfig (KUBECONFIG), --context or --server, and HTTPS_PROXY and "
    "NO_PROXY if a proxy is needed"
)


async def kubernetes_reachable(api: KubeApi, survey: KubeSurvey) -> CheckResult:
    try:
        await api.open()
        version = await survey.version()
    except BadSettings as error:
        return fail("kubernetes", str(error), WHERE)
    except AffinityEventsError as error:
        return fail("kubernetes", str(error), f"{WHERE} (now: {api.where})")
    return ok("kubernetes", f"version {version} at {api.where}")


async def permissions(
    survey: KubeSurvey, journal: str, lease: LeaseName | None, *, who: str = "the account"
) -> CheckResult:
    """Check every verb that `run` uses. Without leader election no Lease is written."""
    needed = [
        (each, verb)
        for each in PERMISSIONS
        for verb in each.verbs
        if each.scope is not Scope.LEASE or lease is not None
    ]

    async def lacks(permission: Permission, verb: str) -> str:
        where, name = journal if permission.scope is Scope.JOURNAL else "", ""
        if permission.scope is Scope.LEASE and lease is not None:
            # RBAC can restrict the other verbs to one name, but not create: the object does not
            # exist yet.
            where, name = lease.namespace, lease.name if verb != "create" else ""
        if await survey.may(verb, permission.group, permission.resource, where, name=name):
            return ""
        place = f" in namespace {where}" if where else ""
        return f"{verb} {permission.resource}{place}"

    try:
        found = await together(*(lacks(each, verb) for each, verb in needed))
    except AffinityEventsError as error:
        return fail(
            "permissions", f"permissions cannot be tested: {error}", "see docs/permissions.md"
        )
    missing = [
        text for text, (each, _) in zip(found, needed, strict=True) if text and not each.optional
    ]
    if missing:
        return fail(
            "permissions",
            f"{who} is not allowed to {few(missing, most=30)}",
            "grant it with a Role or ClusterRole; docs/permissions.md lists all permissions",
        )
    without = [text for text in found if text]
    if without:
        return ok(
            "permissions",
            f"all needed permissions are granted; without the optional one to {few(without)}, many "
            "changes at once take longer",
        )
    return ok("permissions", f"all {len(needed)} permissions are granted")


async def storage_classes(
    index: VolumeIndex, ours: Mapping[str, StorageClass], default: Policy | None
) -> AsyncIterator[CheckResult]:
    """Check the StorageClasses of the driver and their policies."""
    if not ours:
        yield warn(
            "storage-classes",
            "there is no StorageClass of LINSTOR's CSI driver",
            "only volumes of provisioner linstor.csi.linbit.com are reconciled, "
            "and there will be none",
        )
    for name, found in sorted(ours.items()):
        check = f"storage-class {name}"
        if isinstance(found.policy, Unreadable):
            yield fail(
                check,
                f"the policy {found.policy.text!r} is not valid: {found.policy.why}",
                "a StorageClass is immutable: delete and recreate it with "
                "allowRemoteVolumeAccess set to true, false or a list of "
                "fromSame. Its volumes are not changed until then",
            )
        elif found.balanced:
            yield ok(
                check,
                "placementPolicy is Balanced: linstor-csi sets the affinity of its "
                "volumes, and this service does not change them",
            )
        else:
            policy = found.policy_or(default)
            yield ok(check, f"{policy}" + ("" if found.policy else ", by default"))
    unknown = sorted(
        {
            volume.storage_class
            for volume in index.all()
            if volume.storage_class and index.storage_class(volume.storage_class) is None
        }
    )
    if unknown:
        yield warn(
            "storage-classes",
            f"volumes refer to StorageClasses that do not exist: {few(unknown)}",
            "recreate the StorageClasses, or set the policy in an override "
            "annotation of each volume",
        )


async def in_place(survey: KubeSurvey, volumes: list[Volume]) -> CheckResult:
    """Check by a dry run on one volume whether the cluster allows a node affinity to change."""
    for volume in volumes:
        if volume.affinity == NO_AFFINITY or volume.terminating or volume.marked:
            continue
        try:
            allowed = await survey.changes_in_place(volume.name)
        except Forbidden:
            return ok(
                "in-place",
                "not tested: the account of this command is not allowed to patch PersistentVolumes",
            )
        except AffinityEventsError as error:
            return warn("in-place", f"not tested: {error}", "run the check again")
        if allowed:
            return ok(
                "in-place",
                "the cluster allows node affinity to be changed: PersistentVolumes are patched",
            )
        return ok(
            "in-place",
            "the cluster does not allow node affinity to be changed: "
            "PersistentVolumes are deleted and recreated",
        )
    return ok("in-place", "not tested: no PersistentVolume has a node affinity yet")


async def conflicting_controllers(survey: KubeSurvey) -> CheckResult:
    """Check that the reference controller does not run too: both would replace volumes."""
    try:
        found = await survey.conflicting_controllers()
    except AffinityEventsError as error:
        return warn(
            "conflicting-controller",
            f"cannot list Deployments: {error}",
            "make sure that linstor-affinity-controller is not running, or allow "
            "this check to list Deployments",
        )
    if found:
        return fail(
            "conflicting-controller",
            f"linstor-affinity-controller is running as {few(found)}: both "
            "controllers would replace PersistentVolumes",
            "remove it. If the Piraeus operator deploys it, set "
            "spec.affinityController.enabled: false in the LinstorCluster or, if "
            "that field does not exist, use spec.patches with $patch: delete on "
            "its Deployment",
        )
    return ok("conflicting-controller", "linstor-affinity-controller is not running")


async def journal(entries: KubeJournal, namespace: str) -> CheckResult:
    """Check by a dry run that journal entries can be created."""
    try:
        await entries.dry_run_creation()
    except Forbidden:
        return ok(
            "journal",
            "not tested: the account of this command is not allowed to create ConfigMaps in "
            f"namespace {namespace}",
        )
    except Refused as error:
        return fail("journal", str(error), "no volume can be replaced before")
    except AffinityEventsError as error:
        return warn("journal", f"not tested: {error}", "run the check again")
    return ok("journal", f"entries can be created in namespace {namespace}")


async def leader(survey: KubeSurvey, lease: LeaseName) -> CheckResult:
    try:
        holder = await survey.lease_holder(lease)
    except AffinityEventsError as error:
        return warn("leader", str(error), "see the check named permissions")
    lease_name = f"{lease.namespace}/{lease.name}"
    if holder is None:
        return ok("leader", f"no instance has led yet: there is no Lease {lease_name}")
    return ok("leader", f"Lease {lease_name} is held by {holder or 'nobody'}")
