"""The keys and texts that we share with LINSTOR, linstor-csi and the reference controller."""

from dataclasses import dataclass

from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.names import ResourceName, resource_name

DRIVER = "linstor.csi.linbit.com"

SKIP_ANNOTATION = "piraeus.io/skip-affinity-controller"
OVERRIDE_PREFIX = "override.piraeus.io"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
"""The binder's: the claimRef is its own work, and goes with the claim."""

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

MAX_VOLUME_NUMBER = 65535
_MAX_HANDLE = 512


@dataclass(frozen=True, slots=True)
class VolumeKey:
    """One volume of a resource definition."""

    resource: ResourceName
    number: int = 0

    def __str__(self) -> str:
        return f"{self.resource}/{self.number}"


def parse_handle(handle: str) -> VolumeKey:
    """Read a CSI volume handle: `<rd>` is volume 0, `<rd>/<n>` volume n, 0 <= n < 65536.

    `rd`, `rd/0`, `rd/00` and `RD` are one volume. Raises BadHandle. Source: linstor-csi.
    """
    name, slash, number = handle.partition("/")
    if (
        not name
        or len(handle) > _MAX_HANDLE
        or any(c.isspace() or not c.isprintable() for c in name)
    ):
        raise BadHandle(f"volume handle {handle[:80]!r} does not begin with a resource name")
    if name in {".", ".."}:
        raise BadHandle(f"volume handle {handle!r} names a path, not a resource")
    if not slash:
        return VolumeKey(resource_name(name))
    if not (number.isascii() and number.isdigit()) or int(number) > MAX_VOLUME_NUMBER:
        raise BadHandle(
            f"volume handle {handle[:80]!r}: after the slash stands no number from 0 to 65535"
        )
    return VolumeKey(resource_name(name), int(number))
