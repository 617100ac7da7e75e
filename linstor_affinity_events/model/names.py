"""One type per kind of name, so that mypy finds a node used as a resource."""

import re
from collections.abc import Sequence
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

    @property
    def is_valid(self) -> bool:
        """Whether a claim can have this name. The API server does not check that of a claimRef."""
        return _is_name(self.namespace) and _is_name(self.name)


LONGEST_NAME = 253
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def is_pv_name(text: object) -> bool:
    """Whether it is a valid name of a PersistentVolume."""
    return isinstance(text, str) and _is_name(text)


def _is_name(text: str) -> bool:
    return len(text) <= LONGEST_NAME and _NAME.fullmatch(text) is not None


LONGEST_IN_LINSTOR = 255
"""The most characters of a name in LINSTOR."""


def resource_name(text: str) -> ResourceName:
    lower = text.lower()
    # Reuse the string to save memory: there is a name for each volume of the cluster.
    return ResourceName(text if text == lower else lower)


def resource_named(value: object) -> ResourceName | None:
    """The resource that an event names; None if it names none, whatever it contains."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_IN_LINSTOR:
        return None
    return resource_name(value)


def node_name(text: str) -> NodeName:
    return NodeName(text.lower())


MOST_NAMED = 5
"""How many names a text has. Anybody may add more, and texts are stored for each volume."""


def few(
    names: Sequence[str], most: int = MOST_NAMED, *, between: str = ", ", number: int | None = None
) -> str:
    """The first names, and how many more there are: in all `number`, if these are not all."""
    others = (len(names) if number is None else number) - most
    return between.join(names[:most]) + (f" and {others} more" if others > 0 else "")
