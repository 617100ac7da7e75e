"""docs/permissions.md as a set of permissions, what was asked for in the same form, and RBAC."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.proxy import Asked

Json = dict[str, Any]

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"
CLUSTER, OWN, ANY = "cluster", "own namespace", "any namespace"
COLUMNS = 6
"""Of the table of what is always asked for."""

RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """One verb on one resource."""

    group: str
    resource: str
    where: str
    verb: str
    dry_run: bool = False


def documented() -> frozenset[Permission]:
    """What the table of the page says."""
    found = set()
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != COLUMNS or cells[0] in {"API group", "---"}:
            continue
        group, resource, where, verbs, dry_run, _ = cells
        of = ("" if group == "core" else group, resource, where)
        found |= {Permission(*of, verb) for verb in _words(verbs)}
        found |= {Permission(*of, verb, dry_run=True) for verb in _words(dry_run)}
    return frozenset(found)


def _words(cell: str) -> list[str]:
    return [word.strip() for word in cell.split(",") if word.strip()]


def asked_for(requests: Iterable[Asked], *, own: str) -> frozenset[Permission]:
    """What the requests to Kubernetes needed, for a service whose namespace is `own`."""
    found = set()
    for asked in requests:
        terms = asked.terms
        # What the API server says of itself, it says to every account.
        if terms.of or terms.resource.startswith("/"):
            continue
        where = CLUSTER if not terms.namespace else OWN if terms.namespace == own else ANY
        resource = f"{terms.resource}/{terms.subresource}".rstrip("/")
        found.add(Permission(terms.group, resource, where, terms.verb, terms.dry_run))
    return frozenset(found)


def rbac_objects(permissions: Iterable[Permission], account: str, own: str) -> dict[str, Json]:
    """Roles and bindings that let a ServiceAccount do exactly this, by where to POST them."""
    wanted = tuple(permissions)
    subject = {"kind": "ServiceAccount", "name": account, "namespace": own}
    made = {}
    for kind, path, rules in (
        ("ClusterRole", RBAC, [each for each in wanted if each.where != OWN]),
        ("Role", f"{RBAC}/namespaces/{own}", [each for each in wanted if each.where == OWN]),
    ):
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": account}
        made[f"{path}/{kind.lower()}s"] = {
            "metadata": {"name": account},
            "rules": [
                {"apiGroups": [each.group], "resources": [each.resource], "verbs": [each.verb]}
                for each in rules
            ],
        }
        made[f"{path}/{kind.lower()}bindings"] = {
            "metadata": {"name": account},
            "roleRef": reference,
            "subjects": [subject],
        }
    return made
