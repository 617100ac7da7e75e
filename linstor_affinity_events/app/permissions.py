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
    """One row of the table in docs/permissions.md; `group` is empty for the core API."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    scope: Scope
    purpose: str


PERMISSIONS = (
    Permission(
        "",
        "persistentvolumes",
        ("get", "list", "watch", "create", "update", "patch", "delete"),
        Scope.CLUSTER,
        "know, change and replace volumes",
    ),
    Permission(
        "", "persistentvolumeclaims", ("get",), Scope.CLUSTER, "guard the claims of volumes"
    ),
    Permission(
        "storage.k8s.io",
        "storageclasses",
        ("list", "watch"),
        Scope.CLUSTER,
        "know the policies of classes",
    ),
    Permission(
        "events.k8s.io", "events", ("create",), Scope.CLUSTER, "tell of changes and refusals"
    ),
    Permission(
        "",
        "configmaps",
        ("get", "list", "create", "update", "delete"),
        Scope.JOURNAL,
        "keep notes of unfinished replacements",
    ),
    Permission(
        "coordination.k8s.io",
        "leases",
        ("get", "create", "update"),
        Scope.LEASE,
        "agree on who leads",
    ),
)
