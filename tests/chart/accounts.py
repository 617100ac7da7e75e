"""ServiceAccounts of the release's namespace: their tokens, and rights that tests give them."""

import asyncio
import copy
from pathlib import Path
from typing import Any

import yaml

from tests.chart.release import NAMESPACE
from tests.testbed.clusters import ApiError, Cluster

Json = dict[str, Any]

RBAC = "/apis/rbac.authorization.k8s.io/v1"


async def token_of(cluster: Cluster, account: str, namespace: str = NAMESPACE) -> str:
    """A token of a ServiceAccount, which is made if it is not there."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    if await cluster.find(f"{path}/{account}") is None:
        made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}
        await cluster.ask("POST", path, made)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    response = await cluster.ask("POST", f"{path}/{account}/token", asked)
    return str(response["status"]["token"])


async def kubeconfig_of(cluster: Cluster, account: str, directory: Path) -> Path:
    """A way in with a token of that ServiceAccount and nothing else."""
    token = await token_of(cluster, account)
    config = copy.deepcopy(yaml.safe_load(await asyncio.to_thread(cluster.kubeconfig.read_text)))
    config["users"][0]["user"] = {"token": token}
    written = directory / "account.kubeconfig"
    await asyncio.to_thread(written.write_text, yaml.safe_dump(config))
    return written


async def account_with(
    cluster: Cluster,
    account: str,
    rule: Json,
    *,
    cluster_wide: Json | None = None,
    role: str = "",
) -> str:
    """A token of a ServiceAccount that may do this in its namespace, and that everywhere."""
    name = role or account
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
    where = f"{RBAC}/namespaces/{NAMESPACE}"
    for base, kind, given in ((where, "Role", rule), (RBAC, "ClusterRole", cluster_wide)):
        if given is None:
            continue
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        bound = {"metadata": {"name": name}, "subjects": subjects, "roleRef": reference}
        made = {"metadata": {"name": name}, "rules": [given]}
        await _make(cluster, f"{base}/{kind.lower()}s", made)
        await _make(cluster, f"{base}/{kind.lower()}bindings", bound)
    return await token_of(cluster, account)


async def _make(cluster: Cluster, path: str, body: Json) -> None:
    try:
        await cluster.ask("POST", path, body)
    except ApiError as error:
        if error.status != 409:
            raise
