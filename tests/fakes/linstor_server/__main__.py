"""A LINSTOR controller to try things with: `python -m tests.fakes.linstor_server --help`."""

import argparse
import asyncio
import signal
import ssl
import sys

from tests.fakes.linstor_server.server import LinstorServer
from tests.fakes.linstor_server.timing import Timing
from tests.fakes.linstor_server.world import LinstorWorld

_ZONE = "topology.kubernetes.io/zone"
_ZONES = 3


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m tests.fakes.linstor_server",
        description="A fake LINSTOR controller. Its levers are under /fake/.",
    )
    top.add_argument("--host", default="127.0.0.1")
    top.add_argument("--port", type=int, default=3370, help="0 picks a free one")
    top.add_argument("--nodes", type=int, default=3, help="named n1, n2, ...")
    top.add_argument("--definitions", type=int, default=5, help="named pvc-1, pvc-2, ...")
    top.add_argument("--replicas", type=int, default=2, help="diskful ones per definition")
    top.add_argument("--storage-only", type=int, default=0, help="more, without DRBD: sto-1, ...")
    top.add_argument("--real-timing", action="store_true", help="be as slow as the real one")
    top.add_argument("--login", metavar="USER:PASSWORD", help="ask for this by Basic")
    top.add_argument("--bearer", metavar="TOKEN", help="ask for this token")
    top.add_argument("--cert", metavar="FILE", help="serve TLS with this certificate chain")
    top.add_argument("--key", metavar="FILE", help="its private key, if not in the same file")
    return top


def world_from(options: argparse.Namespace) -> LinstorWorld:
    """Nodes spread over three zones, and replicas round-robin over the nodes."""
    world = LinstorWorld(timing=Timing.real() if options.real_timing else Timing())
    nodes = [f"n{number}" for number in range(1, options.nodes + 1)]
    for number, name in enumerate(nodes):
        world.add_node(name, labels={_ZONE: f"z{number % _ZONES + 1}"})
    for number in range(options.definitions):
        rd = f"pvc-{number + 1}"
        world.add_definition(rd)
        for step in range(min(options.replicas, len(nodes))):
            world.place(rd, nodes[(number + step) % len(nodes)])
    for number in range(options.storage_only):
        rd = f"sto-{number + 1}"
        world.add_definition(rd, layers=["STORAGE"])
        world.place(rd, nodes[number % len(nodes)])
    if options.login:
        user, _, password = options.login.partition(":")
        world.login = user, password
    world.bearer = options.bearer
    return world


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    context = None
    if options.cert:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.cert, options.key)
    world = world_from(options)
    async with LinstorServer(
        world, host=options.host, port=options.port, ssl_context=context, with_control=True
    ) as server:
        print(server.url, flush=True)  # noqa: T201, what the caller waits for
        await stopped.wait()
    world.close()


if __name__ == "__main__":
    asyncio.run(run(parser().parse_args(sys.argv[1:])))
