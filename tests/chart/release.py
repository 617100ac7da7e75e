"""One release of the chart on the real API server, and what is asked of it."""

import asyncio
from typing import Any

from tests.chart.helm import CHART, Helm
from tests.testbed.clusters import Cluster

Json = dict[str, Any]

RELEASE, NAMESPACE = "affinity", "storage"
FULL_NAME = f"{RELEASE}-linstor-affinity-events"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"


async def helm(there: Helm, *arguments: str, values: Json | None = None) -> str:
    """Without holding up the loop, on which the observer of the test bed lives."""
    scope = ("--namespace", NAMESPACE)
    return await asyncio.to_thread(there.run, *arguments, *scope, values=values)


async def install(there: Helm, values: Json, *more: str) -> str:
    return await helm(there, "install", RELEASE, str(CHART), *more, values=values)


async def deployed(cluster: Cluster, name: str = FULL_NAME) -> Json:
    found = await cluster.ask("GET", f"{DEPLOYMENTS}/{name}")
    container: Json = found["spec"]["template"]["spec"]["containers"][0]
    return container
