"""Actions in which a peer of the service fails, and recovers when the action is over."""

import random
import re

from benchmarks.soak.actions import Context
from tests.testbed.proxy import Action, CutBody, Delay, Hang, Late, Proxy, Reset, Respond

JSON = {"Content-Type": "application/json"}
SOON = {**JSON, "Retry-After": "1"}
TOO_OLD = (
    b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure",'
    b'"message":"too old resource version","reason":"Expired","code":410}}\n'
)
NOT_NOW = b'{"kind":"Status","apiVersion":"v1","status":"Failure","message":"soak","code":%d}'
BROKEN = b'[{"ret_code":-4611686018427387904,"message":"soak"}]'

ANY, READS, WRITES = ".", "^(linstor )?(get|list) ", "^(create|update|patch|delete) "
VOLUMES, ENTRIES = "persistentvolumes", "configmaps"


def _actions(chance: random.Random, refusals: dict[str, Respond]) -> dict[str, Action]:
    """One of each kind that a request can meet, by the name that the log has."""
    return {
        **refusals,
        "reset unheard": Reset(forwarded=False),
        "reset heard": Reset(forwarded=True),
        "hung unheard": Hang(forwarded=False),
        "hung heard": Hang(forwarded=True),
        "slow request": Delay(request=chance.uniform(0.2, 3)),
        "slow answer": Delay(response=chance.uniform(0.2, 3)),
        "half an answer": CutBody(chance.randrange(1, 200)),
        "late": Late(seconds=chance.uniform(0.5, 4)),
    }


async def _meet(
    context: Context, proxy: Proxy, wanted: str, name: str, action: Action, chance: random.Random
) -> str:
    """Apply the action to some requests for some seconds."""
    rule = proxy.on(
        re.compile(wanted), action, nth=chance.randrange(1, 6), times=chance.randrange(1, 9)
    )
    await context.a_while(chance.uniform(1, 8))
    proxy.rules.remove(rule)
    return f"{name} x {rule.hits} of {wanted}" if rule.hits else ""


async def kubernetes_request(context: Context, chance: random.Random) -> str:
    refusals = {
        str(code): Respond(code, NOT_NOW % code, SOON if code != 500 else JSON)
        for code in (429, 500, 503, 504)
    }
    name, action = chance.choice(list(_actions(chance, refusals).items()))
    wanted = chance.choice((ANY, READS, WRITES, WRITES, VOLUMES, ENTRIES))
    return await _meet(context, context.kubernetes, wanted, name, action, chance)


async def linstor_request(context: Context, chance: random.Random) -> str:
    refusals = {str(code): Respond(code, BROKEN, JSON) for code in (500, 503)}
    refusals["no JSON"] = Respond(200, b"<html>", JSON)
    name, action = chance.choice(list(_actions(chance, refusals).items()))
    return await _meet(context, context.linstor, chance.choice((ANY, READS)), name, action, chance)


async def linstor_all(context: Context, chance: random.Random) -> str:
    """The controller hangs, or responds to everything with 500, for some seconds."""
    action: Action = chance.choice((Hang(forwarded=False), Respond(500, BROKEN, JSON)))
    rule = context.linstor.on(re.compile(READS), action, times=None)
    await context.a_while(chance.uniform(2, 8))
    context.linstor.rules.remove(rule)
    return f"{type(action).__name__} x {rule.hits}"


async def linstor_gone(context: Context, chance: random.Random) -> str:
    """The controller's process is away for some seconds."""
    server = context.oracle.testbed.linstor
    await server.stop_listening()
    await context.a_while(chance.uniform(1, 8))
    await server.start_listening()
    return "back"


async def streams(context: Context, chance: random.Random) -> str:
    server = context.oracle.testbed.linstor
    match how := chance.choice(("half a frame", "reset", "end", "silence")):
        case "half a frame":
            server.cut_streams()
        case "reset":
            server.cut_streams(mid_frame=False)
        case "end":
            server.end_streams()
        case _:
            server.pause_streams()
            await context.a_while(chance.uniform(1, 6))
            server.resume_streams()
    return how


async def satellite(context: Context, chance: random.Random) -> str:
    """A satellite hangs: what has to ask it fails after a long wait."""
    world = context.oracle.testbed.world
    node = chance.choice(list(world.nodes.values())).name
    world.hung_satellites.add(node)
    await context.a_while(chance.uniform(2, 12))
    world.hung_satellites.discard(node)
    return node


async def connections(context: Context, chance: random.Random) -> str:
    peer = chance.choice(("kubernetes", "linstor"))
    proxy = context.kubernetes if peer == "kubernetes" else context.linstor
    proxy.drop_connections()
    return f"to {peer} dropped"


async def vanished(context: Context, chance: random.Random) -> str:
    peer = chance.choice(("kubernetes", "linstor"))
    proxy = context.kubernetes if peer == "kubernetes" else context.linstor
    await proxy.vanish()
    return f"{peer} for all who are connected"


async def watches(context: Context, chance: random.Random) -> str:
    """Watches end, and the next begins with the word that its version is too old."""
    old = Respond(200, TOO_OLD, JSON)
    rule = context.kubernetes.on(re.compile("^watch "), old, times=chance.randrange(1, 4))
    context.kubernetes.drop_connections()
    await context.a_while(chance.uniform(1, 4))
    context.kubernetes.rules.remove(rule)
    return f"410 x {rule.hits}"


async def binder(context: Context, chance: random.Random) -> str:
    if context.halted.locked():
        return ""
    async with context.halt():
        await context.oracle.testbed.cluster.stop_binder()
        await context.a_while(chance.uniform(2, 10))
        await context.oracle.testbed.cluster.start_binder()
    return "stopped and started"


async def apiserver(context: Context, _: random.Random) -> str:
    return await _part(context, "apiserver")


async def compaction(context: Context, _: random.Random) -> str:
    return await _part(context, "history")


async def store(context: Context, _: random.Random) -> str:
    return await _part(context, "etcd")


async def _part(context: Context, part: str) -> str:
    real = context.oracle.testbed.cluster.real
    if real is None:
        return ""
    async with context.halt():
        match part:
            case "apiserver":
                await real.restart_apiserver()
            case "history":
                await real.forget_history()
            case _:
                await real.restart_etcd()
    return f"{part} is back"
