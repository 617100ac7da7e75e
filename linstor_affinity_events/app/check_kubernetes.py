"""Checks of Kubernetes: connection, permissions, StorageClasses, in-place changes, the leader."""

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.survey import KubeSurvey
from linstor_affinity_events.app.check_result import CheckResult, fail, few, ok, warn
from linstor_affinity_events.app.permissions import PERMISSIONS, Permission, Scope
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.errors import AffinityEventsError, BadSettings, Forbidden
from linstor_affinity_events.model.affinity import NO_AFFINITY
from linstor_affinity_events.model.policy import Policy, StorageClass, Unreadable
from linstor_affinity_events.model.volume import Volume

WHERE = (
    "--kubeconfig (KUBECONFIG), --context and --server say where Kubernetes is, HTTPS_PROXY and "
    "NO_PROXY whether a proxy leads there"
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


class Lease(NamedTuple):
    """The Lease of the leader election."""

    namespace: str
    name: str


async def permissions(
    survey: KubeSurvey, journal: str, lease: Lease | None, *, who: str = "the account"
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
        return fail("permissions", f"they can't be asked for: {error}", "see docs/permissions.md")
    missing = [text for text in found if text]
    if missing:
        return fail(
            "permissions",
            f"{who} may not {few(missing, most=30)}",
            "grant it by a Role or ClusterRole; docs/permissions.md lists all",
        )
    return ok("permissions", f"all {len(needed)} are granted")


async def storage_classes(
    index: VolumeIndex, ours: Mapping[str, StorageClass], default: Policy | None
) -> AsyncIterator[CheckResult]:
    """Check the StorageClasses of the driver and their policies."""
    if not ours:
        yield warn(
            "storage-classes",
            "there is none of LINSTOR's CSI driver",
            "volumes made for linstor.csi.linbit.com are looked after, and there will be none",
        )
    for name, found in sorted(ours.items()):
        check = f"storage-class {name}"
        if isinstance(found.policy, Unreadable):
            yield fail(
                check,
                f"policy {found.policy.text!r} can't be read: {found.policy.why}",
                "classes can't be changed: delete it and create it anew with an "
                "allowRemoteVolumeAccess of true, false or a list of fromSame; its volumes are "
                "left as they are",
            )
        elif found.balanced:
            yield ok(check, "placementPolicy Balanced: its volumes are left to linstor-csi")
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
            f"volumes name classes that do not exist: {few(unknown)}",
            "create them again, or set the policy in an override annotation of each volume",
        )


async def in_place(survey: KubeSurvey, volumes: list[Volume]) -> CheckResult:
    """Check by a dry run on one volume whether the cluster allows a node affinity to change."""
    for volume in volumes:
        if volume.affinity == NO_AFFINITY or volume.terminating or volume.marked:
            continue
        try:
            allowed = await survey.changes_in_place(volume.name)
        except Forbidden:
            return ok("in-place", "not tried, since the account of check may not patch volumes")
        except AffinityEventsError as error:
            return warn("in-place", f"it could not be tried: {error}", "try again")
        if allowed:
            return ok("in-place", "the cluster lets an affinity be changed: volumes are patched")
        return ok("in-place", "an affinity stays as it was first set: volumes are replaced")
    return ok("in-place", "not tried, since no volume has an affinity yet")


async def conflicting_controllers(survey: KubeSurvey) -> CheckResult:
    """Check that the reference controller does not run too: both would replace volumes."""
    try:
        found = await survey.conflicting_controllers()
    except AffinityEventsError as error:
        return warn(
            "rival",
            f"Deployments can't be listed: {error}",
            "see for yourself that linstor-affinity-controller does not run, or grant list on "
            "deployments for this check",
        )
    if found:
        return fail(
            "rival",
            f"linstor-affinity-controller runs as {few(found)}: both would replace volumes",
            "remove it; where Piraeus' operator deploys it, set "
            "spec.affinityController.enabled: false in the LinstorCluster, or, where the operator "
            "lacks this field, spec.patches with $patch: delete on its Deployment",
        )
    return ok("rival", "linstor-affinity-controller does not run")


async def leader(survey: KubeSurvey, lease: Lease) -> CheckResult:
    try:
        holder = await survey.lease_holder(lease.namespace, lease.name)
    except AffinityEventsError as error:
        return warn("leader", str(error), "see permissions")
    lease_name = f"{lease.namespace}/{lease.name}"
    if holder is None:
        return ok("leader", f"nobody has led yet: there is no Lease {lease_name}")
    return ok("leader", f"Lease {lease_name} is held by {holder or 'nobody'}")
