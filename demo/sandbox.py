"""The same parts left running, for a person with kubectl, curl and python-linstor."""

import asyncio
import signal
from pathlib import Path

from tests.stage.service import Service, running
from tests.stage.stage import Stage

HELP = """
Everything runs. In another terminal:

  export KUBECONFIG={kubeconfig}
  export LS_CONTROLLERS={linstor}

  kubectl get pv -o custom-columns='NAME:.metadata.name,NODES:.spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*].values[*]' -w
  tail -f {log}
  curl -s http://127.0.0.1:{port}/readyz
  curl -s http://127.0.0.1:{port}/metrics | grep ^linstor_affinity

Let something happen (the volumes are {volumes}; the nodes n1 to n6):

  curl -s -X PUT $LS_CONTROLLERS/v1/nodes/n1/evacuate
  curl -s -X POST $LS_CONTROLLERS/fake/move -d '{{"resource": "pvc-1", "from": "n2", "to": "n4"}}'
  curl -s -X POST $LS_CONTROLLERS/fake/move-silently -d '{{"resource": "pvc-2", "from": "n3", "to": "n5"}}'
  curl -s -X POST $LS_CONTROLLERS/fake/hang/n3
  curl -s -X POST $LS_CONTROLLERS/fake/cut-streams

or from Python, with LINBIT's own library:

  {python} -c 'import linstor; c = linstor.Linstor("{linstor_scheme}"); c.connect(); print([n.name for n in c.node_list()[0].nodes])'

Ctrl-C ends it all.
"""


async def keep_open(stage: Stage, directory: Path) -> int:
    """Run until SIGINT or SIGTERM."""
    names = [f"pvc-{number}" for number in range(1, 4)]
    for number, name in enumerate(names, start=1):
        await stage.add(name, [f"n{number}", f"n{number + 1}"])
    service = Service(
        kubeconfig=stage.cluster.kubeconfig,
        linstor=stage.linstor.url,
        log=directory / "service.log",
        flags=("-v", "1", "--reconcile-rate=15s"),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(service):
        print(
            HELP.format(
                kubeconfig=stage.cluster.kubeconfig,
                linstor=stage.linstor.url,
                linstor_scheme=stage.linstor.url.replace("http://", "linstor://"),
                log=service.log,
                port=service.port,
                volumes=", ".join(names),
                python=".venv/bin/python",
            ),
            flush=True,
        )
        await stop.wait()
        return await service.stop()
