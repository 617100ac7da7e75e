"""Runs the fake kube-apiserver for a person: `python -m tests.fakes.kube_server`."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fakes.kube_server import Binder, FakeCluster, KubeServer


async def serve(options: argparse.Namespace) -> None:
    """Serve until somebody presses Ctrl-C."""
    cluster = FakeCluster(mutable_affinity=options.mutable_affinity)
    cluster.load("persistentvolumes", _volumes(options.volumes))
    async with Binder(cluster), KubeServer(cluster, port=options.port) as server:
        sys.stdout.write(f"{server.url}\n")
        if options.kubeconfig is not None:
            server.write_kubeconfig(options.kubeconfig)
            sys.stdout.write(f"export KUBECONFIG={options.kubeconfig}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def _volumes(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        name = f"pvc-{number:05}"
        yield {
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "csi": {"driver": "linstor.csi.linbit.com", "volumeHandle": name},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "linstor",
            },
            "status": {"phase": "Available"},
        }


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.fakes.kube_server")
    made.add_argument("--port", type=int, default=8001)
    made.add_argument("--kubeconfig", type=Path, help="write a file for kubectl here")
    made.add_argument("--volumes", type=int, default=0, help="begin with so many volumes")
    made.add_argument(
        "--mutable-affinity", action="store_true", help="as with MutablePVNodeAffinity"
    )
    return made


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(parser().parse_args()))
