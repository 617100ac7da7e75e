"""Reads of Kubernetes for `check`: version, permissions, nodes, conflicting controllers, Lease."""

from typing import Any, NamedTuple

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, escaped
from linstor_affinity_events.adapters.kubernetes.lease import LeaseName, holder_of
from linstor_affinity_events.adapters.kubernetes.pages import Pages
from linstor_affinity_events.adapters.kubernetes.volumes import VOLUMES_PATH
from linstor_affinity_events.errors import Invalid, Missing
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.keys import HOSTNAME_LABEL
from linstor_affinity_events.model.manifest import affinity_patch
from linstor_affinity_events.model.names import PvName

CONFLICTING_CONTROLLER = "linstor-affinity-controller"
_CONTROLLER_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component")
_NOWHERE = NodeAffinity.of([frozenset({(HOSTNAME_LABEL, "a-node-that-is-only-tried")})])


class ServiceAccount(NamedTuple):
    """A ServiceAccount, with the user and groups of its tokens."""

    namespace: str
    name: str

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    @property
    def groups(self) -> tuple[str, ...]:
        everybody = ("system:serviceaccounts", "system:authenticated")
        return *everybody, f"system:serviceaccounts:{self.namespace}"


class KubeSurvey:
    """Reads, access reviews and one dry run; changes nothing."""

    def __init__(self, api: KubeApi, account: ServiceAccount | None = None) -> None:
        """Access is reviewed for `account`, or for the caller's own if it is None."""
        self._api, self._account = api, account

    async def version(self) -> str:
        return str((await self._api.get("/version")).get("gitVersion", "unknown"))

    async def may(
        self, verb: str, group: str, resource: str, namespace: str, *, name: str = ""
    ) -> bool:
        """Return whether the account has this permission; an empty namespace or name means all.
        `resource` may have a subresource after a slash.
        """
        resource, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "namespace": namespace,
            "name": name,
        }
        kind = "SelfSubjectAccessReview"
        spec: dict[str, Any] = {"resourceAttributes": {k: v for k, v in attributes.items() if v}}
        if self._account is not None:
            kind = "SubjectAccessReview"
            spec |= {"user": self._account.user, "groups": list(self._account.groups)}
        body = await self._api.create(
            f"/apis/authorization.k8s.io/v1/{kind.lower()}s",
            {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec},
        )
        return bool((body.get("status") or {}).get("allowed"))

    async def nodes(self) -> frozenset[str]:
        """Return the names of all nodes. Raises Forbidden."""
        pages = Pages(self._api, "/api/v1/nodes")
        return frozenset([str(node["metadata"]["name"]) async for page in pages for node in page])

    async def conflicting_controllers(self) -> tuple[str, ...]:
        """Return the Deployments of the reference controller that have replicas, as namespace/name.
        Raises Forbidden.
        """
        found: set[str] = set()
        for label in _CONTROLLER_LABELS:
            query = {"labelSelector": f"{label}={CONFLICTING_CONTROLLER}"}
            async for deployments in Pages(self._api, "/apis/apps/v1/deployments", query):
                found |= {
                    f"{item['metadata']['namespace']}/{item['metadata']['name']}"
                    for item in deployments
                    if (item.get("spec") or {}).get("replicas", 1)
                }
        return tuple(sorted(found))

    async def lease_holder(self, lease: LeaseName) -> str | None:
        """Return the holder of a Lease; None if there is no Lease. Raises Forbidden."""
        try:
            return holder_of(await self._api.get(lease.path))
        except Missing:
            return None

    async def changes_in_place(self, name: PvName) -> bool:
        """Return whether this volume's affinity, which is set, can be changed in place, by a dry
        run. Raises Missing, Conflict, Forbidden.
        """
        path = f"{VOLUMES_PATH}/{escaped(name)}"
        pv = await self._api.get(path)
        try:
            await self._api.patch(path, affinity_patch(pv, _NOWHERE), dry_run=True)
        except Invalid:
            return False
        return True
