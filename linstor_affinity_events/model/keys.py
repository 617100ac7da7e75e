"""Keys and constants shared with LINSTOR, linstor-csi and the reference controller."""

import re
from dataclasses import dataclass

from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.names import PvName, ResourceName, resource_name

DRIVER = "linstor.csi.linbit.com"

SKIP_ANNOTATION = "piraeus.io/skip-affinity-controller"
OVERRIDE_PREFIX = "override.piraeus.io"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
"""Set by the binder: it wrote the claimRef itself, and removes it with the claim."""

PROVISIONERS = ("pv.kubernetes.io/provisioned-by", "pv.kubernetes.io/migrated-to")
"""Annotations that name the provisioner that deletes the storage of a volume. csi-provisioner uses
them and does not check the driver of the volume.
"""

ANNOTATED_SECRETS = (
    "volume.kubernetes.io/provisioner-deletion-secret",
    "volume.kubernetes.io/controller-modify-secret",
)
"""Annotations NAME-name and NAME-namespace: the Secrets that csi-provisioner and csi-resizer give
to the driver.
"""

CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
"""On volumes and claims, instead of the field of the spec. Where both are set, Kubernetes goes by
the annotation.
"""

SKIP_RECLAIM_ANNOTATION = "linstor.csi.linbit.com/skip-reclaim"
USES_CONTEXT = "linstor.csi.linbit.com/uses-volume-context"
CONTEXT_POLICY = "linstor.csi.linbit.com/remote-access-policy"
CONTEXT_OPTIONS = "linstor.csi.linbit.com/mount-options"
"""Further mount options."""
CONTEXT_COMMANDS = "linstor.csi.linbit.com/post-mount-xfs-opts"
"""What linstor-csi has xfs_io run on the node."""
PROVISIONER_IDENTITY = "storage.kubernetes.io/csiProvisionerIdentity"
"""Added to the volume attributes by csi-provisioner."""

SKIP_PROPERTY = "Aux/affinity-updater-skip"
SAVED_PV_PROPERTY = "Aux/affinity-updater-saved-pv"

HOSTNAME_LABEL = "linbit.com/hostname"
TOPOLOGY_NAMESPACE = "Aux/topology"
PLAIN_NAMESPACE = "Aux"
KUBERNETES_HOSTNAME = "kubernetes.io/hostname"

OURSELVES = "linstor-affinity-events"
"""Our field manager, the reporter of our Events, and the label of our journal entries."""

FINALIZER = f"{OURSELVES}/replacing"
"""Holds a PersistentVolume that we delete until it may be recreated."""

PROVISIONER_FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"
"""The provisioner deletes the storage of a terminating volume only if it has this."""

MARKER_ANNOTATION = f"{OURSELVES}/replacing"
"""On a PersistentVolume with our finalizer: what to restore when removing our markers."""

ORIGINAL_POLICY_ANNOTATION = f"{OURSELVES}/original-reclaim-policy"
"""On a PersistentVolume recreated with policy Retain because its claim was gone."""

ORIGINAL_CLAIM_ANNOTATION = f"{OURSELVES}/original-claim"
"""On a PersistentVolume recreated detached from its claim, as namespace/name: nothing confirmed any
more that it belonged to the claim.
"""

MAX_VOLUME_NUMBER = 65535
_MAX_DIGITS = 16
_RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{1,47}")
"""LINSTOR's rule for resource names."""


@dataclass(frozen=True, slots=True)
class VolumeKey:
    """One volume of a resource definition."""

    resource: ResourceName
    number: int = 0

    def __str__(self) -> str:
        return f"{self.resource}/{self.number}"


_PROVISIONED = re.compile(r"pvc-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def provisioned_for(name: PvName | ResourceName) -> str | None:
    """The uid of the claim that a volume or resource was provisioned for, if its name contains it:
    csi-provisioner names a volume after it, and linstor-csi names the resource like the volume.
    """
    found = _PROVISIONED.fullmatch(name)
    return None if found is None else found[1]


def parse_handle(handle: str) -> VolumeKey:
    """Read a CSI volume handle: `<rd>` is volume 0, `<rd>/<n>` volume n, 0 <= n < 65536.

    `rd`, `rd/0`, `rd/00` and `RD` are one volume. Raises BadHandle. Source: linstor-csi, and
    LINSTOR's ResourceName for valid resource names.
    """
    name, slash, number = handle.partition("/")
    if _RESOURCE.fullmatch(name) is None:
        raise BadHandle(
            f"volume handle {handle[:80]!r} does not begin with a LINSTOR resource name"
        )
    if not slash:
        return VolumeKey(resource_name(name))
    if (
        not (number.isascii() and number.isdigit())
        or len(number) > _MAX_DIGITS
        or int(number) > MAX_VOLUME_NUMBER
    ):
        raise BadHandle(
            f"volume handle {handle[:80]!r}: the part after the slash is not a "
            "number from 0 to 65535"
        )
    return VolumeKey(resource_name(name), int(number))
