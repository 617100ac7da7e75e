"""Admission that refuses for a while: policies on the real API server, made-up responses before the
fake one.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.testbed import manifests
from tests.testbed.clusters import ApiError, Cluster, until
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Respond

Json = dict[str, Any]

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
VOLUMES = "/api/v1/persistentvolumes"
FINALIZER = "linstor-affinity-events/replacing"

_HAS_OURS = (
    f"has(object.metadata.finalizers) && object.metadata.finalizers.exists(f, f == '{FINALIZER}')"
)
_ON_N2 = (
    "has(object.spec.nodeAffinity) && "
    "object.spec.nodeAffinity.required.nodeSelectorTerms.exists(t, "
    "has(t.matchExpressions) && t.matchExpressions.exists(e, has(e.values) && 'n2' in e.values))"
)


@dataclass(frozen=True, slots=True)
class Refused:
    """One operation on volumes that is not allowed."""

    operation: str
    label: str
    """What the service asks for when it does that."""

    unless: str
    """What a volume must not be, in CEL."""

    @property
    def why(self) -> str:
        """A part of the message."""
        return f"nobody may {self.operation} this for now"


MARKING = Refused("UPDATE", "patch persistentvolumes", _HAS_OURS)
CREATION = Refused("CREATE", "create persistentvolumes", _ON_N2)
DELETION = Refused("DELETE", "delete persistentvolumes", "true")


@asynccontextmanager
async def refusing(proxied: ProxiedTestbed, *refused: Refused) -> AsyncIterator[None]:
    """Refuse them, dry runs included, for the length of the block."""
    try:
        for each in refused:
            await refuse(proxied, each)
        yield
    finally:
        await allow_all(proxied)


async def refuse(proxied: ProxiedTestbed, refused: Refused) -> None:
    """Begin to refuse something; returns once it is refused."""
    if not proxied.testbed.cluster.is_real:
        said = {"kind": "Status", "code": 422, "message": refused.why}
        for label in (refused.label, f"{refused.label} (dry run)"):
            response = Respond(422, json.dumps(said).encode())
            proxied.kubernetes.on(label, response, times=None)
        return
    cluster = proxied.testbed.cluster
    name = _name(refused)
    await cluster.ask("POST", f"{ADMISSION}/validatingadmissionpolicies", _policy(refused))
    bound = {"policyName": name, "validationActions": ["Deny"]}
    await cluster.ask(
        "POST",
        f"{ADMISSION}/validatingadmissionpolicybindings",
        {"metadata": {"name": name}, "spec": bound},
    )

    async def effective() -> bool:
        return await _is_refused(cluster, refused)

    await until(effective, f"{refused.operation} is refused")


async def allow_all(proxied: ProxiedTestbed) -> None:
    """Take back every refusal; returns once everything is allowed."""
    proxied.kubernetes.rules.clear()
    cluster = proxied.testbed.cluster
    if not cluster.is_real:
        return
    for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        for item in (await cluster.ask("GET", f"{ADMISSION}/{kind}"))["items"]:
            await cluster.ask("DELETE", f"{ADMISSION}/{kind}/{item['metadata']['name']}")

    async def allowed() -> bool:
        return not any([await _is_refused(cluster, r) for r in (MARKING, CREATION, DELETION)])

    await until(allowed, "everything is allowed")


def _name(refused: Refused) -> str:
    return f"refuse-{refused.operation.lower()}"


def _policy(refused: Refused) -> Json:
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": [refused.operation],
        "resources": ["persistentvolumes"],
    }
    return {
        "metadata": {"name": _name(refused)},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": f"!({refused.unless})", "message": refused.why}],
        },
    }


async def _is_refused(cluster: Cluster, refused: Refused) -> bool:
    """Try it on some volume, in a dry run: a policy takes a moment until it has an effect."""
    listed = await cluster.ask("GET", VOLUMES)
    path = f"{VOLUMES}/{listed['items'][0]['metadata']['name']}"
    try:
        match refused.operation:
            case "UPDATE":
                marked = {"metadata": {"finalizers": [FINALIZER]}}
                await cluster.ask("PATCH", path, marked, dryRun="All")
            case "CREATE":
                on_n2 = manifests.on_nodes(["n2"])
                made = manifests.volume("probe", claim=None, node_affinity=on_n2)
                await cluster.ask("POST", VOLUMES, made, dryRun="All")
            case _:
                await cluster.ask("DELETE", path, dryRun="All")
    except ApiError as error:
        return refused.why in str(error)
    return False
