"""The kinds of object that the server knows, and how their addresses and texts are made."""

from dataclasses import dataclass, field

ALL_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One row of the discovery documents."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = False
    short: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    status: bool = False
    collection: str = ""
    """Where its objects lie; two resources that show the same objects share one."""
    prefix: bytes = field(init=False, default=b"")

    def __post_init__(self) -> None:
        head = f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'
        object.__setattr__(self, "prefix", head.encode())
        object.__setattr__(self, "collection", self.collection or self.plural)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def qualified(self) -> str:
        """The name by which `resource_named` finds it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


VOLUMES = Resource(plural="persistentvolumes", kind="PersistentVolume", short=("pv",), status=True)
CLAIMS = Resource(
    plural="persistentvolumeclaims",
    kind="PersistentVolumeClaim",
    namespaced=True,
    short=("pvc",),
    status=True,
)
CONFIG_MAPS = Resource(plural="configmaps", kind="ConfigMap", namespaced=True, short=("cm",))
NAMESPACES = Resource(plural="namespaces", kind="Namespace", short=("ns",), status=True)
NODES = Resource(plural="nodes", kind="Node", short=("no",), status=True)
PODS = Resource(plural="pods", kind="Pod", namespaced=True, short=("po",), status=True)
CORE_EVENTS = Resource(plural="events", kind="Event", namespaced=True, short=("ev",))
EVENTS = Resource(
    plural="events", kind="Event", group="events.k8s.io", namespaced=True, short=("ev",)
)
STORAGE_CLASSES = Resource(
    plural="storageclasses", kind="StorageClass", group="storage.k8s.io", short=("sc",)
)
LEASES = Resource(plural="leases", kind="Lease", group="coordination.k8s.io", namespaced=True)
DEPLOYMENTS = Resource(
    plural="deployments",
    kind="Deployment",
    group="apps",
    namespaced=True,
    short=("deploy",),
    status=True,
)
ACCESS_REVIEWS = Resource(
    plural="selfsubjectaccessreviews",
    kind="SelfSubjectAccessReview",
    group="authorization.k8s.io",
    verbs=("create",),
)

RESOURCES = (
    VOLUMES,
    CLAIMS,
    CONFIG_MAPS,
    NAMESPACES,
    NODES,
    PODS,
    CORE_EVENTS,
    EVENTS,
    STORAGE_CLASSES,
    LEASES,
    DEPLOYMENTS,
    ACCESS_REVIEWS,
)

_BY_NAME = {
    **{each.plural: each for each in reversed(RESOURCES)},
    **{each.qualified: each for each in RESOURCES},
}


def resource_named(name: str) -> Resource:
    """The resource with this plural, "events" being those of the core group; raises KeyError."""
    return _BY_NAME[name]
