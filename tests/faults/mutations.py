"""Admission that changes volumes on their way: policies on the real API server, functions in the
fake one.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.testbed import manifests
from tests.testbed.clusters import Cluster, until

Json = dict[str, Any]

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
VOLUMES = "/api/v1/persistentvolumes"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change that admission makes of volumes."""

    operation: str
    kind: Json
    """The mutation as a MutatingAdmissionPolicy names it."""

    condition: str
    """Which volumes it is for, in CEL."""

    apply: Callable[[Json], None]
    """The same, done to an object."""

    shows: Callable[[Json], bool]
    """Whether an object has been through it."""


def _labelled(pv: Json) -> None:
    pv["metadata"].setdefault("labels", {})["policy"] = "seen"
    pv["metadata"].setdefault("annotations", {})["policy.example.com/seen"] = "yes"


def _moved(pv: Json) -> None:
    affinity = pv["spec"].get("nodeAffinity")
    if affinity:
        [expression] = affinity["required"]["nodeSelectorTerms"][0]["matchExpressions"]
        expression["values"] = ["elsewhere"]


LABELS_ON_UPDATE = Mutation(
    "UPDATE",
    {
        "patchType": "ApplyConfiguration",
        "applyConfiguration": {
            "expression": 'Object{metadata: Object.metadata{labels: {"policy": "seen"}, '
            'annotations: {"policy.example.com/seen": "yes"}}}'
        },
    },
    "true",
    _labelled,
    lambda pv: pv["metadata"].get("labels", {}).get("policy") == "seen",
)

AFFINITY_ON_CREATE = Mutation(
    "CREATE",
    {
        "patchType": "JSONPatch",
        "jsonPatch": {
            "expression": '[JSONPatch{op: "replace", path: "/spec/nodeAffinity/required/'
            'nodeSelectorTerms/0/matchExpressions/0/values/0", value: "elsewhere"}]'
        },
    },
    "has(object.spec.nodeAffinity)",
    _moved,
    lambda pv: manifests.nodes_of(pv) == {"elsewhere"},
)


@asynccontextmanager
async def mutating(cluster: Cluster, mutation: Mutation) -> AsyncIterator[None]:
    """Let it have its way for the length of the block."""
    if cluster.server is not None:

        def change(operation: str, pv: Json) -> None:
            if operation == mutation.operation:
                mutation.apply(pv)

        mutations = cluster.server.cluster.mutations
        mutations.append(change)
        try:
            yield
        finally:
            mutations.remove(change)
        return
    name = f"mutate-{mutation.operation.lower()}"
    await cluster.ask("POST", f"{ADMISSION}/mutatingadmissionpolicies", _policy(name, mutation))
    bound = {"metadata": {"name": name}, "spec": {"policyName": name}}
    await cluster.ask("POST", f"{ADMISSION}/mutatingadmissionpolicybindings", bound)
    try:
        await until(lambda: _is_observed(cluster, mutation), f"{mutation.operation} is mutated")
        yield
    finally:
        for kind in ("mutatingadmissionpolicybindings", "mutatingadmissionpolicies"):
            await cluster.ask("DELETE", f"{ADMISSION}/{kind}/{name}")

        async def over() -> bool:
            return not await _is_observed(cluster, mutation)

        await until(over, "nothing is mutated any more")


def _policy(name: str, mutation: Mutation) -> Json:
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": [mutation.operation],
        "resources": ["persistentvolumes"],
    }
    return {
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [rule]},
            "matchConditions": [{"name": "these", "expression": mutation.condition}],
            "mutations": [mutation.kind],
        },
    }


async def _is_observed(cluster: Cluster, mutation: Mutation) -> bool:
    """Try it in a dry run: a policy takes a moment until it has an effect."""
    if mutation.operation == "CREATE":
        probe = manifests.volume("probe", claim=None, node_affinity=manifests.on_nodes(["n2"]))
        return mutation.shows(await cluster.ask("POST", VOLUMES, probe, dryRun="All"))
    [first, *_] = (await cluster.ask("GET", VOLUMES))["items"]
    path = f"{VOLUMES}/{first['metadata']['name']}"
    verified = {"metadata": {"labels": {"policy": None}, "annotations": {"probed": "yes"}}}
    return mutation.shows(await cluster.ask("PATCH", path, verified, dryRun="All"))
