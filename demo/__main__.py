"""Runs the main scenario, or the sandbox, on a fake or a real Kubernetes."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from demo.sandbox import keep_open
from demo.scenario import run
from tests.real_parts.build import BuildError, ensure_built
from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters
from tests.testbed.clusters import Cluster
from tests.testbed.scheduling import Pods, with_pods
from tests.testbed.testbed import Testbed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--real", action="store_true", help="use a real kube-apiserver (make demo REAL=1)"
    )
    parser.add_argument(
        "--sandbox", action="store_true", help="leave everything running (make sandbox)"
    )
    parser.add_argument(
        "--volumes", type=int, default=30, help="number of volumes on the evacuated node"
    )
    return parser.parse_args()


@asynccontextmanager
async def cluster_for(
    given: argparse.Namespace, directory: Path
) -> AsyncIterator[tuple[Cluster, Pods | None]]:
    """A cluster, and pods on it if there is a scheduler."""
    if not given.real:
        async with clusters.fake(directory) as cluster:
            yield cluster, None
        return
    print(
        "Real parts: etcd, kube-apiserver, kube-controller-manager, kube-scheduler "
        "(the first run builds them, which takes minutes)"
    )
    binaries = await asyncio.to_thread(ensure_built)
    async with (
        RealCluster(binaries=binaries, directory=directory) as parts,
        clusters.real(parts) as cluster,
        with_pods(cluster, parts.kubeconfig, directory) as pods,
    ):
        yield cluster, pods


async def main() -> int:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="linstor-affinity-demo-") as scratch:
        directory = Path(scratch)
        async with cluster_for(given, directory) as (cluster, pods), Testbed.of(cluster) as testbed:
            await testbed.prepare(nodes=6, zones=2)
            if given.sandbox:
                return await keep_open(testbed, directory)
            return await run(testbed, directory, pods, volumes=given.volumes)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except BuildError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
