"""The keys and texts that we share with LINSTOR, linstor-csi and the reference controller."""

import re
from dataclasses import dataclass

from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.names import ResourceName, resource_name

DRIVER = "linstor.csi.linbit.com"

SKIP_ANNOTATION = "piraeus.io/skip-affinity-controller"
OVERRIDE_PREFIX = "override.piraeus.io"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
"""The binder's: the claimRef is its own work, and goes with the claim."""

PROVISIONERS = ("pv.kubernetes.io/provisioned-by", "pv.kubernetes.io/migrated-to")
"""Annotations that name who deletes what is behind a volume. csi-provisioner goes by these, and
does not look at which driver the volume is for.
"""

SKIP_RECLAIM_ANNOTATION = "linstor.csi.linbit.com/skip-reclaim"
USES_CONTEXT = "linstor.csi.linbit.com/uses-volume-context"
CONTEXT_POLICY = "linstor.csi.linbit.com/remote-access-policy"

SKIP_PROPERTY = "Aux/affinity-updater-skip"
SAVED_PV_PROPERTY = "Aux/affinity-updater-saved-pv"

HOSTNAME_LABEL = "linbit.com/hostname"
TOPOLOGY_NAMESPACE = "Aux/topology"
PLAIN_NAMESPACE = "Aux"
KUBERNETES_HOSTNAME = "kubernetes.io/hostname"

OURSELVES = "linstor-affinity-events"
"""Our field manager, the reporter of our Events and the label on our notes."""

FINALIZER = f"{OURSELVES}/replacing"
"""Holds a PersistentVolume that we delete until its like may be created."""

PROVISIONER_FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"
"""The provisioner deletes what is behind a terminating volume only if it wears this."""

MARK_ANNOTATION = f"{OURSELVES}/replacing"
"""On a PersistentVolume that wears our finalizer: what taking our marks back has to restore."""

ORIGINAL_POLICY_ANNOTATION = f"{OURSELVES}/original-reclaim-policy"
"""On a PersistentVolume that came back with policy Retain since its claim had gone meanwhile."""

ORIGINAL_CLAIM_ANNOTATION = f"{OURSELVES}/original-claim"
"""On a PersistentVolume that came back detached from the claim that it was for, as namespace/name:
nothing vouched any more for the claim's right to it.
"""

MAX_VOLUME_NUMBER = 65535
_MAX_DIGITS = 16
_RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{1,47}")
"""LINSTOR's own rule for the names of resources."""


@dataclass(frozen=True, slots=True)
class VolumeKey:
    """One volume of a resource definition."""

    resource: ResourceName
    number: int = 0

    def __str__(self) -> str:
        return f"{self.resource}/{self.number}"


_PROVISIONED = re.compile(r"pvc-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def provisioned_for(resource: ResourceName) -> str | None:
    """The uid of the claim that a resource was provisioned for, if its name tells: csi-provisioner
    calls a volume by it, and linstor-csi calls the resource like the volume.
    """
    found = _PROVISIONED.fullmatch(resource)
    return None if found is None else found[1]


def parse_handle(handle: str) -> VolumeKey:
    """Read a CSI volume handle: `<rd>` is volume 0, `<rd>/<n>` volume n, 0 <= n < 65536.

    `rd`, `rd/0`, `rd/00` and `RD` are one volume. Raises BadHandle. Source: linstor-csi, and
    LINSTOR's ResourceName for what a resource may be called.
    """
    name, slash, number = handle.partition("/")
    if _RESOURCE.fullmatch(name) is None:
        raise BadHandle(f"volume handle {handle[:80]!r} does not begin with a resource name")
    if not slash:
        return VolumeKey(resource_name(name))
    if (
        not (number.isascii() and number.isdigit())
        or len(number) > _MAX_DIGITS
        or int(number) > MAX_VOLUME_NUMBER
    ):
        raise BadHandle(
            f"volume handle {handle[:80]!r}: after the slash stands no number from 0 to 65535"
        )
    return VolumeKey(resource_name(name), int(number))
