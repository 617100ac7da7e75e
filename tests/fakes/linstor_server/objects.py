"""What a LINSTOR cluster consists of. Only the world changes these."""

import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

# In the order of LINSTOR's bits, which is also the order it lists them in.
FLAG_ORDER = (
    "CLEAN",
    "DELETE",
    "DISKLESS",
    "DISK_ADD_REQUESTED",
    "DISK_ADDING",
    "DISK_REMOVE_REQUESTED",
    "DISK_REMOVING",
    "DRBD_DISKLESS",
    "TIE_BREAKER",
    "NVME_INITIATOR",
    "EBS_INITIATOR",
    "INACTIVE",
    "REACTIVATE",
    "INACTIVE_PERMANENTLY",
    "EVICTED",
    "INACTIVE_BEFORE_EVICTION",
    "RESTORE_FROM_SNAPSHOT",
    "EVACUATE",
    "DRBD_DELETE",
    "INACTIVATING",
    "AUTO_DISKFUL",
)
DEFAULT_GROUP = "DfltRscGrp"
_RANK = {flag: rank for rank, flag in enumerate(FLAG_ORDER)}
_serials = count(1)


class NotThere(LookupError):
    """LINSTOR knows no such object."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} '{name}' not found.")
        self.kind, self.name = kind, name


class Taken(ValueError):
    """An object of that name exists already, or something still uses it."""

    def __init__(self, kind: str, name: str, *, why: str = "already exists") -> None:
        super().__init__(f"{kind} '{name}' {why}.")
        self.kind, self.name, self.why = kind, name, why


def folded(name: str) -> str:
    """The form in which two spellings of one name are equal, as LINSTOR sees it."""
    return name.upper()


def new_uuid() -> str:
    """Distinguish two incarnations. Counted, because 50,000 random ones would cost a second."""
    return f"5afe0000-0000-4000-8000-{next(_serials):012x}"


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    name: str
    number: int
    props: dict[str, str]
    flags: set[str] = field(default_factory=set)
    online: bool = True
    replicas: dict[str, "Replica"] = field(default_factory=dict, repr=False)
    """By folded name of their resource."""
    uuid: str = field(default_factory=new_uuid)

    @property
    def healthy(self) -> bool:
        """Whether LINSTOR would put a new replica here."""
        return self.online and not self.flags


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """A resource group: what definitions made in it start from."""

    name: str
    props: dict[str, str] = field(default_factory=dict)
    select_filter: dict[str, Any] = field(default_factory=dict)
    """As it was asked for; LINSTOR's autoplacer falls back to it."""
    volume_groups: list[int] = field(default_factory=list)
    uuid: str = field(default_factory=new_uuid)


@dataclass(slots=True, kw_only=True, eq=False)
class VolumeDefinition:
    number: int
    minor: int
    size_kib: int
    props: dict[str, str]
    uuid: str = field(default_factory=new_uuid)


@dataclass(slots=True, kw_only=True, eq=False)
class Definition:
    name: str
    layers: tuple[str, ...]
    props: dict[str, str]
    volumes: dict[int, VolumeDefinition] = field(default_factory=dict)
    replicas: dict[str, "Replica"] = field(default_factory=dict, repr=False)
    """By folded name of their node."""
    group: str = DEFAULT_GROUP
    deleting: bool = False
    encoded: dict[bool, bytes] = field(default_factory=dict, repr=False)
    """Its JSON with and without volume definitions, until the next change."""
    uuid: str = field(default_factory=new_uuid)

    @property
    def has_drbd(self) -> bool:
        return "DRBD" in self.layers

    @property
    def secret(self) -> str:
        """What DRBD peers share; made so that a test can look for it in logs."""
        return f"drbd-secret-{self.name}"


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    definition: Definition
    node: Node
    flags: frozenset[str]
    drbd_id: int
    port: int
    up: bool
    """Whether DRBD came up at the satellite; the controller hears nothing before that."""
    has_disk: bool
    """The satellite's truth, which runs ahead of the flags while a disk is added."""
    in_use: bool = False
    volume_props: dict[int, dict[str, str]] = field(default_factory=dict)
    uuid: str = field(default_factory=new_uuid)
    created_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    @property
    def listed_flags(self) -> list[str]:
        return sorted(self.flags, key=lambda flag: (_RANK.get(flag, len(_RANK)), flag))

    @property
    def diskful(self) -> bool:
        return "DISKLESS" not in self.flags

    @property
    def reports(self) -> bool:
        """Whether the controller has a satellite's word on this replica."""
        return self.node.online and self.up

    @property
    def may_promote(self) -> bool | None:
        """What DRBD says; None when there is no DRBD that could say it."""
        if not (self.definition.has_drbd and self.reports):
            return None
        return self.has_disk and not any(
            other.in_use for other in self.definition.replicas.values() if other is not self
        )
