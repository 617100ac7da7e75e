"""What a request asks for, in the words in which permissions are given."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_PARTS = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?"
)
_DEFINITION = re.compile(r"(resource-definitions)/[^/?]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """One request in terms of RBAC; of a request to LINSTOR verb and resource show all."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    dry_run: bool = False
    of: str = ""
    """Whose request it is, where it is not Kubernetes'."""

    @property
    def qualified(self) -> str:
        """The resource with subresource and group, as `kubectl auth can-i` takes it."""
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{resource}/{self.subresource}" if self.subresource else resource

    @property
    def label(self) -> str:
        words = [self.of, self.verb, self.qualified, "(dry run)" if self.dry_run else ""]
        return " ".join(word for word in words if word)

    @property
    def writes(self) -> bool:
        """Whether it may change anything."""
        return self.verb not in {"get", "list", "watch"} and not self.dry_run


def kubernetes_terms(method: str, path: str, query: Mapping[str, str], body: bytes) -> Terms:
    """Terms as Kubernetes itself derives them:
    https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb
    """
    found = _PARTS.fullmatch(path)
    if found is None:
        return Terms(verb=method.lower(), resource=path)
    parts = {key: value or "" for key, value in found.groupdict().items()}
    if method == "GET":
        watches = query.get("watch", "") in {"1", "true"}
        verb = "watch" if watches else "get" if parts["name"] else "list"
    else:
        verb = _VERBS.get(method, method.lower())
    dry_run = "dryRun" in query or (method == "DELETE" and _dry_runs(body))
    return Terms(verb=verb, dry_run=dry_run, **parts)


def _dry_runs(body: bytes) -> bool:
    """A deletion says so in its options."""
    try:
        options = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(options, dict) and bool(options.get("dryRun"))


def linstor_terms(method: str, path: str, query: Mapping[str, str], body: bytes) -> Terms:
    """A method and the path without names; the list of one definition is distinguished from that of
    all.
    """
    resource = _DEFINITION.sub(r"\1/*", path.removeprefix("/v1/"))
    if "resource_definitions" in query:
        resource += "/*"
    return Terms(verb=method.lower(), resource=resource, of="linstor")
