"""One type per kind of name, so that mypy finds a node used as a resource."""

import re
from dataclasses import dataclass
from typing import NewType

ResourceName = NewType("ResourceName", str)
"""A LINSTOR resource definition, in lower case: LINSTOR ignores case, CSI writes lower."""

NodeName = NewType("NodeName", str)
"""A LINSTOR node, in lower case; its labels have the original spelling."""

PvName = NewType("PvName", str)

Uid = NewType("Uid", str)
"""One incarnation of a Kubernetes object: a volume re-created keeps its name, not its uid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimName:
    """The namespace and name of a PersistentVolumeClaim, and the uid of one incarnation."""

    namespace: str
    name: str
    uid: Uid = Uid("")

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


_PV_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def is_pv_name(text: object) -> bool:
    """Whether it is a valid name of a PersistentVolume."""
    return isinstance(text, str) and len(text) <= 253 and _PV_NAME.fullmatch(text) is not None


def resource_name(text: str) -> ResourceName:
    lower = text.lower()
    # Reuse the string to save memory: there is a name for each volume of the cluster.
    return ResourceName(text if text == lower else lower)


def node_name(text: str) -> NodeName:
    return NodeName(text.lower())
