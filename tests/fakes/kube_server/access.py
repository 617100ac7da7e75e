"""Who asks, and what they may do."""

from collections.abc import Iterable, Mapping

from tests.fakes.kube_server.refusals import forbidden, invalid, unauthorized, wrong
from tests.fakes.kube_server.routes import Target
from tests.fakes.kube_server.rules import Object

ANONYMOUS = "system:anonymous"


class Access:
    """Both parts may be changed at any time."""

    def __init__(self, tokens: Mapping[str, str] | None, denied: Iterable[tuple[str, str]]) -> None:
        self.tokens = None if tokens is None else dict(tokens)
        """User by bearer token; None lets everybody in."""
        self.denied = set(denied)
        """Pairs of verb and resource; a star in either place means all."""

    def user(self, authorization: str) -> str:
        """Raises Refusal for a token that nobody has; whoever has none at all is anonymous."""
        scheme, _, token = authorization.strip().partition(" ")
        if self.tokens is None or scheme.lower() != "bearer" or not token:
            return ANONYMOUS
        if token not in self.tokens:
            raise unauthorized()
        return self.tokens[token]

    def check(self, user: str, verb: str, target: Target) -> None:
        """Raises Refusal for what is denied."""
        is_nobody = user == ANONYMOUS and self.tokens is not None
        if not is_nobody and not self._denies(verb, target.rbac_resource):
            return
        group = target.resource.group
        scope = f'in the namespace "{target.namespace}"' if target.namespace else _WIDE
        why = (
            f'User "{user}" cannot {verb} resource "{target.rbac_resource}" in API group '
            f'"{group}" {scope}'
        )
        raise forbidden(target.resource.plural, target.name, why, group=group)

    def review(self, asked: Object) -> Object:
        """The response to a SelfSubjectAccessReview, which shows what `check` would do."""
        spec = asked.get("spec") or {}
        wish = spec.get("resourceAttributes")
        if wish is None and spec.get("nonResourceAttributes") is None:
            why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            mistake = wrong("spec", "null", why)
            raise invalid("", "", [mistake], group="authorization.k8s.io")
        wish = wish or {}
        resource = wish.get("resource", "")
        if wish.get("subresource"):
            resource = f"{resource}/{wish['subresource']}"
        allowed = not self._denies(wish.get("verb", ""), resource)
        return {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": spec,
            "status": {"allowed": allowed},
        }

    def _denies(self, verb: str, resource: str) -> bool:
        pairs = ((verb, resource), ("*", resource), (verb, "*"), ("*", "*"))
        return any(pair in self.denied for pair in pairs)


_WIDE = "at the cluster scope"
