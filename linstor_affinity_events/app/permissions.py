"""Every permission that `run` needs, and its purpose."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """The scope in which a permission is needed."""

    CLUSTER = "cluster"
    JOURNAL = "journal's namespace"
    LEASE = "lease's namespace"


@dataclass(frozen=True, slots=True)
class Permission:
    """One row of the table in docs/permissions.md; `group` is empty for the core API, and a
    subresource follows its resource after a slash.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    scope: Scope
    purpose: str
    optional: bool = False
    """Whether everything works without it, if more slowly."""


PERMISSIONS = (
    Permission(
        "",
        "persistentvolumes",
        ("get", "list", "watch", "create", "update", "patch", "delete"),
        Scope.CLUSTER,
        "watch, update, delete and recreate PersistentVolumes",
    ),
    Permission(
        "",
        "persistentvolumes/status",
        ("patch",),
        Scope.CLUSTER,
        "write the phase of recreated volumes for a volume controller that is behind",
        optional=True,
    ),
    Permission(
        "",
        "persistentvolumeclaims",
        ("get",),
        Scope.CLUSTER,
        "keep claims bound while their PersistentVolume is replaced",
    ),
    Permission(
        "storage.k8s.io",
        "storageclasses",
        ("list", "watch"),
        Scope.CLUSTER,
        "read the remote access policies of StorageClasses",
    ),
    Permission(
        "events.k8s.io",
        "events",
        ("create",),
        Scope.CLUSTER,
        "report changes and problems as Events",
    ),
    Permission(
        "",
        "configmaps",
        ("get", "list", "create", "update", "delete"),
        Scope.JOURNAL,
        "store a journal of unfinished replacements",
    ),
    Permission(
        "coordination.k8s.io",
        "leases",
        ("get", "create", "update"),
        Scope.LEASE,
        "elect a leader",
    ),
)
