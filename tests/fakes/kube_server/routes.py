"""Which object or list an address means."""

from dataclasses import dataclass

from tests.fakes.kube_server.refusals import method_not_allowed, no_such_path
from tests.fakes.kube_server.resources import NAMESPACES, RESOURCES, Resource

_BY_ADDRESS = {(each.group, each.version, each.plural): each for each in RESOURCES}

_VERBS = {"PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request is about."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    """Empty for the whole list."""
    subresource: str = ""

    def verb(self, method: str, *, watch: bool) -> str:
        """What the request wants, in the words of RBAC; raises Refusal if it can't be."""
        if method == "GET":
            verb = "get" if self.name else "watch" if watch else "list"
        elif method == "POST" and not self.name:
            verb = "create"
        elif method in _VERBS and self.name:
            verb = _VERBS[method]
        else:
            raise method_not_allowed()
        everywhere = self.resource.namespaced and not self.namespace
        if verb not in self.resource.verbs or (everywhere and verb not in {"list", "watch"}):
            raise method_not_allowed()
        if self.subresource and verb not in {"get", "update", "patch"}:
            raise method_not_allowed()
        return verb

    @property
    def rbac_resource(self) -> str:
        plural = self.resource.plural
        return f"{plural}/{self.subresource}" if self.subresource else plural


def target_of(path: str) -> Target:
    """Raises Refusal for an address that means nothing here."""
    match path.strip("/").split("/"):
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            raise no_such_path()
    namespace = ""
    # "namespaces/x" is a namespace itself, "namespaces/x/status" its status.
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] != "status":
        namespace, rest = rest[1], rest[2:]
    if not 1 <= len(rest) <= 3:
        raise no_such_path()
    plural, name, subresource = (*rest, "", "")[:3]
    resource = _BY_ADDRESS.get((group, version, plural))
    if resource is None or (namespace and not resource.namespaced and resource is not NAMESPACES):
        raise no_such_path()
    if subresource not in ("", "status") or (subresource and not resource.status):
        raise no_such_path()
    return Target(resource=resource, namespace=namespace, name=name, subresource=subresource)
