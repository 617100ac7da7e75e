"""Acts in which a peer of the service fails it, and is well again when the act is over."""

import random
import re

from benchmarks.soak.acts import Scene
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


def _acts(chance: random.Random, refusals: dict[str, Respond]) -> dict[str, Action]:
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
    scene: Scene, proxy: Proxy, wanted: str, name: str, act: Action, chance: random.Random
) -> str:
    """Let the act befall some requests for some seconds."""
    rule = proxy.on(
        re.compile(wanted), act, nth=chance.randrange(1, 6), times=chance.randrange(1, 9)
    )
    await scene.a_while(chance.uniform(1, 8))
    proxy.rules.remove(rule)
    return f"{name} x {rule.hits} of {wanted}" if rule.hits else ""


async def kubernetes_request(scene: Scene, chance: random.Random) -> str:
    refusals = {
        str(code): Respond(code, NOT_NOW % code, SOON if code != 500 else JSON)
        for code in (429, 500, 503, 504)
    }
    name, act = chance.choice(list(_acts(chance, refusals).items()))
    wanted = chance.choice((ANY, READS, WRITES, WRITES, VOLUMES, ENTRIES))
    return await _meet(scene, scene.kubernetes, wanted, name, act, chance)


async def linstor_request(scene: Scene, chance: random.Random) -> str:
    refusals = {str(code): Respond(code, BROKEN, JSON) for code in (500, 503)}
    refusals["no JSON"] = Respond(200, b"<html>", JSON)
    name, act = chance.choice(list(_acts(chance, refusals).items()))
    return await _meet(scene, scene.linstor, chance.choice((ANY, READS)), name, act, chance)


async def linstor_all(scene: Scene, chance: random.Random) -> str:
    """The controller hangs, or answers everything with 500, for some seconds."""
    act: Action = chance.choice((Hang(forwarded=False), Respond(500, BROKEN, JSON)))
    rule = scene.linstor.on(re.compile(READS), act, times=None)
    await scene.a_while(chance.uniform(2, 8))
    scene.linstor.rules.remove(rule)
    return f"{type(act).__name__} x {rule.hits}"


async def linstor_gone(scene: Scene, chance: random.Random) -> str:
    """The controller's process is away for some seconds."""
    server = scene.ledger.testbed.linstor
    await server.stop_listening()
    await scene.a_while(chance.uniform(1, 8))
    await server.start_listening()
    return "back"


async def streams(scene: Scene, chance: random.Random) -> str:
    server = scene.ledger.testbed.linstor
    match how := chance.choice(("half a frame", "reset", "end", "silence")):
        case "half a frame":
            server.cut_streams()
        case "reset":
            server.cut_streams(mid_frame=False)
        case "end":
            server.end_streams()
        case _:
            server.pause_streams()
            await scene.a_while(chance.uniform(1, 6))
            server.resume_streams()
    return how


async def satellite(scene: Scene, chance: random.Random) -> str:
    """A satellite hangs: what has to ask it fails after a long wait."""
    world = scene.ledger.testbed.world
    node = chance.choice(list(world.nodes.values())).name
    world.hung_satellites.add(node)
    await scene.a_while(chance.uniform(2, 12))
    world.hung_satellites.discard(node)
    return node


async def connections(scene: Scene, chance: random.Random) -> str:
    peer = chance.choice(("kubernetes", "linstor"))
    proxy = scene.kubernetes if peer == "kubernetes" else scene.linstor
    proxy.drop_connections()
    return f"to {peer} dropped"


async def vanished(scene: Scene, chance: random.Random) -> str:
    peer = chance.choice(("kubernetes", "linstor"))
    proxy = scene.kubernetes if peer == "kubernetes" else scene.linstor
    proxy.vanish()
    return f"{peer} for all who are connected"


async def watches(scene: Scene, chance: random.Random) -> str:
    """Watches end, and the next begins with the word that its version is too old."""
    old = Respond(200, TOO_OLD, JSON)
    rule = scene.kubernetes.on(re.compile("^watch "), old, times=chance.randrange(1, 4))
    scene.kubernetes.drop_connections()
    await scene.a_while(chance.uniform(1, 4))
    scene.kubernetes.rules.remove(rule)
    return f"410 x {rule.hits}"


async def binder(scene: Scene, chance: random.Random) -> str:
    if scene.halted.locked():
        return ""
    async with scene.halt():
        await scene.ledger.testbed.cluster.stop_binder()
        await scene.a_while(chance.uniform(2, 10))
        await scene.ledger.testbed.cluster.start_binder()
    return "stopped and started"


async def apiserver(scene: Scene, _: random.Random) -> str:
    return await _part(scene, "apiserver")


async def compaction(scene: Scene, _: random.Random) -> str:
    return await _part(scene, "history")


async def store(scene: Scene, _: random.Random) -> str:
    return await _part(scene, "etcd")


async def _part(scene: Scene, part: str) -> str:
    real = scene.ledger.testbed.cluster.real
    if real is None:
        return ""
    async with scene.halt():
        match part:
            case "apiserver":
                await real.restart_apiserver()
            case "history":
                await real.forget_history()
            case _:
                await real.restart_etcd()
    return f"{part} is back"
