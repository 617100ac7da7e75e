"""The same parts left running, to try things out with kubectl, curl and python-linstor."""

import asyncio
import signal
import sys
from pathlib import Path

from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

TOP = Path(__file__).parent.parent
VOLUMES = ("pvc-1", "pvc-2", "pvc-3")
PROGRAMS = {
    "linstor-affinity-events": "linstor_affinity_events.cli:main",
    "kubectl-linstor_affinity": "linstor_affinity_events.cli.kubectl:plugin",
    "kubectl_complete-linstor_affinity": "linstor_affinity_events.cli.kubectl:complete",
}
"""As in pyproject.toml: the package itself is not installed here."""

TOUR = (
    (
        "linstor-affinity-events check",
        "One line for each requirement, each of them ok. `in-place` says how volumes are changed.",
    ),
    (
        "linstor-affinity-events plan --all",
        "A table of the three volumes. All are in sync: there is nothing to change.",
    ),
    (
        """curl -s -X POST $LS_CONTROLLERS/fake/move -d '{"resource": "pvc-1", "from": "n1", "to": "n5"}'""",
        "LINSTOR moves a replica. Within milliseconds, the log has a line `volume affinity updated`.",
    ),
    (
        "linstor-affinity-events plan pvc-1",
        "Its affinity is `n2 or n5` now, and the rules say that it is in sync.",
    ),
    (
        "linstor-affinity-events plan --if-node-gone=n3",
        "The volumes that would change if node n3 were lost. Nothing is changed.",
    ),
)
"""Commands, and what to expect of each."""

HELP = """
Everything is running. In another terminal, paste:

  export PATH={programs}:$PATH
  export KUBECONFIG={kubeconfig}
  export LS_CONTROLLERS={linstor}
  export LINSTOR_AFFINITY_NEW_VOLUME_GRACE=0

Status page:  http://127.0.0.1:{port}/
Log:          tail -f {log}
Metrics:      curl -s http://127.0.0.1:{port}/metrics | grep ^linstor_affinity

A tour of five commands:
{tour}
More to try (the volumes are {volumes}; the nodes n1 to n6):

  kubectl linstor-affinity plan pvc-2
  kubectl get pv -o custom-columns='NAME:.metadata.name,NODES:.spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*].values[*]' -w
  curl -s -X PUT $LS_CONTROLLERS/v1/nodes/n3/evacuate
  curl -s -X POST $LS_CONTROLLERS/fake/move-silently -d '{{"resource": "pvc-3", "from": "n4", "to": "n6"}}'
  curl -s -X POST $LS_CONTROLLERS/fake/hang/n3
  curl -s -X POST $LS_CONTROLLERS/fake/cut-streams

  A silent move is found by the next full reconcile, within 15 seconds. While a satellite hangs, resources are
  read one by one. Cut streams are reconnected at once.

With LINBIT's own Python library:

  {python} -c 'import linstor; c = linstor.Linstor("{linstor_scheme}"); c.connect(); print([n.name for n in c.node_list()[0].nodes])'

Press Ctrl-C to stop everything.
"""


async def keep_open(testbed: Testbed, directory: Path) -> int:
    """Run until SIGINT or SIGTERM."""
    await _set_up(testbed)
    service = Service(
        kubeconfig=testbed.cluster.kubeconfig,
        linstor=testbed.linstor.url,
        log=directory / "service.log",
        flags=("-v", "1", "--reconcile-rate=15s"),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(service):
        print(_help(testbed, service, _programs(directory)), flush=True)
        await stop.wait()
        return await service.stop()


async def _set_up(testbed: Testbed) -> None:
    """Create the nodes as Kubernetes objects, and each volume with two replicas."""
    for known in testbed.world.nodes.values():
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": known.name}}
        await testbed.cluster.ask("POST", "/api/v1/nodes", node)
    for number, name in enumerate(VOLUMES, start=1):
        await testbed.add(name, [f"n{number}", f"n{number + 1}"])


def _programs(directory: Path) -> Path:
    """Write the programs of the package into a folder for PATH."""
    folder = directory / "bin"
    folder.mkdir()
    for name, start in PROGRAMS.items():
        module, _, function = start.partition(":")
        program = folder / name
        program.write_text(
            f"#!{sys.executable}\n"
            f"import sys\n"
            f"sys.path.insert(0, {str(TOP)!r})\n"
            f"from {module} import {function}\n"
            f"{function}()\n"
        )
        program.chmod(0o755)
    return folder


def _help(testbed: Testbed, service: Service, programs: Path) -> str:
    tour = "".join(
        f"\n  {number}. {command}\n     {expected}\n"
        for number, (command, expected) in enumerate(TOUR, start=1)
    )
    return HELP.format(
        programs=programs,
        kubeconfig=testbed.cluster.kubeconfig,
        linstor=testbed.linstor.url,
        linstor_scheme=testbed.linstor.url.replace("http://", "linstor://"),
        log=service.log,
        port=service.port,
        tour=tour,
        volumes=", ".join(VOLUMES),
        python=sys.executable,
    )
