"""Actions of a storage admin and of LINSTOR itself: replicas come, go and change."""

import asyncio
import random

from benchmarks.soak.actions import Context
from benchmarks.soak.ground_truth import has_data, with_data
from benchmarks.soak.oracle import Owned
from tests.fakes.linstor_server.objects import Definition, Node, Replica, folded

SKIP = "Aux/affinity-updater-skip"
ZONE = "Aux/topology/topology.kubernetes.io/zone"


def definition_of(context: Context, owned: Owned) -> Definition:
    return context.oracle.testbed.world.definitions[folded(owned.name)]


def sound(replica: Replica) -> bool:
    """Whether it has data that another replica could be made from."""
    return has_data(replica) and replica.up and replica.node.online


def at_rest(definition: Definition) -> bool:
    return all(
        r.up and not any("DISK_" in flag or "DELETE" in flag for flag in r.flags)
        for r in definition.replicas.values()
    )


def free_nodes(context: Context, definition: Definition | None = None) -> list[str]:
    """Healthy nodes without a replica of a resource."""
    nodes: list[Node] = list(context.oracle.testbed.world.nodes.values())
    taken = {r.node.name for r in definition.replicas.values()} if definition else set()
    return [node.name for node in nodes if node.healthy and node.name not in taken]


def any_owned(context: Context, chance: random.Random) -> Owned:
    return chance.choice(list(context.oracle.owned.values()))


async def move(context: Context, chance: random.Random, name: str = "") -> str:
    """Move a replica of a volume, of any one unless it is named."""
    owned = context.oracle.owned[name] if name else any_owned(context, chance)
    definition = definition_of(context, owned)
    sources = [r.node.name for r in definition.replicas.values() if sound(r)]
    targets = free_nodes(context, definition)
    if not sources or not targets:
        return ""
    here, there = chance.choice(sources), chance.choice(targets)
    context.oracle.testbed.world.move(owned.name, here, there)
    return f"{owned.name} {here} -> {there}"


async def toggle(context: Context, chance: random.Random) -> str:
    """Take the disk from a replica that is not the last, or give one a disk."""
    owned = any_owned(context, chance)
    definition, world = definition_of(context, owned), context.oracle.testbed.world
    replicas = list(definition.replicas.values())
    if not at_rest(definition) or not all(r.node.online for r in replicas):
        return ""
    diskless = [r.node.name for r in replicas if not r.diskful]
    if diskless:
        world.toggle_disk(owned.name, diskless[0], diskless=False)
        return f"{owned.name} on {diskless[0]}: a disk"
    full = [r.node.name for r in replicas if sound(r)]
    if len(full) < 2:
        return ""
    node = chance.choice(full)
    world.toggle_disk(owned.name, node, diskless=True)
    return f"{owned.name} on {node}: no disk"


async def tidy(context: Context, chance: random.Random) -> str:
    """Bring a volume one step nearer to as many replicas as it should have."""
    large_cluster = list(context.oracle.owned.values())
    chance.shuffle(large_cluster)
    for owned in large_cluster:
        reported = _tidied(context, owned, chance)
        if reported:
            return reported
    return ""


def _tidied(context: Context, owned: Owned, chance: random.Random) -> str:
    definition, world = definition_of(context, owned), context.oracle.testbed.world
    if not at_rest(definition):
        return ""
    full = [r.node.name for r in definition.replicas.values() if sound(r)]
    if len(full) > owned.replicas:
        world.delete_replica(owned.name, node := chance.choice(full))
        return f"{owned.name} no more on {node}"
    if full and len(full) < owned.replicas and (free := free_nodes(context, definition)):
        world.create_replica(owned.name, node := chance.choice(free))
        return f"{owned.name} also on {node}"
    return ""


async def grow(context: Context, chance: random.Random) -> str:
    """One replica more, with a disk or without."""
    owned = any_owned(context, chance)
    definition = definition_of(context, owned)
    free = free_nodes(context, definition)
    if len(definition.replicas) > 3 or not free or not with_data(definition):
        return ""
    node, diskless = chance.choice(free), chance.random() < 0.3
    context.oracle.testbed.world.create_replica(owned.name, node, diskless)
    return f"{owned.name} also on {node}{' without a disk' if diskless else ''}"


def _spare_node(context: Context, chance: random.Random) -> str:
    """A node for something to be wrong with; never more than two at a time."""
    free = [name for name in free_nodes(context) if name not in context.down]
    if len(context.down) >= 2 or not free:
        return ""
    return chance.choice(free)


async def evacuation(context: Context, chance: random.Random) -> str:
    node, world = _spare_node(context, chance), context.oracle.testbed.world
    if not node:
        return ""
    context.down.add(node)
    held = len(world.nodes[folded(node)].replicas)
    world.evacuate(node)
    await context.a_while(chance.uniform(4, 15))
    world.restore(node)
    context.down.remove(node)
    return f"{node} with {held} replicas"


async def outage(context: Context, chance: random.Random) -> str:
    node, world = _spare_node(context, chance), context.oracle.testbed.world
    if not node:
        return ""
    context.down.add(node)
    world.go_offline(node)
    await context.a_while(chance.uniform(2, 12))
    world.come_online(node)
    context.down.remove(node)
    return node


async def eviction(context: Context, chance: random.Random) -> str:
    node, world = _spare_node(context, chance), context.oracle.testbed.world
    if not node:
        return ""
    context.down.add(node)
    world.go_offline(node)
    await context.a_while(chance.uniform(1, 4))
    world.evict(node)
    await context.a_while(chance.uniform(2, 12))
    world.come_online(node)
    world.restore(node)
    context.down.remove(node)
    return node


async def relabel(context: Context, chance: random.Random) -> str:
    """Change a node's zone, which no volume here depends on."""
    node, zone = (
        chance.choice(list(context.oracle.testbed.world.nodes.values())),
        chance.randrange(9),
    )
    context.oracle.testbed.world.set_node_prop(node.name, ZONE, f"z{zone}")
    return f"{node.name} to zone z{zone}"


async def skip(context: Context, chance: random.Random) -> str:
    """Let a volume be left alone for a while, and move it meanwhile."""
    owned, world = any_owned(context, chance), context.oracle.testbed.world
    definition = definition_of(context, owned)
    if SKIP in definition.props:
        return ""
    world.set_definition_prop(owned.name, SKIP, "true")
    await context.a_while(chance.uniform(2, 20))
    if folded(owned.name) in world.definitions:
        world.set_definition_prop(owned.name, SKIP, None)
    return owned.name


async def create(context: Context, chance: random.Random) -> str:
    nodes = free_nodes(context)
    if len(nodes) < 2:
        return ""
    name, on = context.oracle.new_name(), chance.sample(nodes, chance.choice((1, 2, 2, 2)))
    world = context.oracle.testbed.world
    world.add_definition(name)
    for node in on:
        world.create_replica(name, node)
    await context.oracle.make(name, on, chance)
    return f"{name} on {', '.join(on)}"


async def _moved_just_now(context: Context, owned: Owned, chance: random.Random) -> str:
    """Two times in three, let what the user does next fall about where the volume is replaced."""
    owned.busy = True
    reported = ""
    if chance.randrange(3) and (reported := await move(context, chance, owned.name)):
        event = context.oracle.testbed.world.timing.create_event_delay
        await asyncio.sleep(event + chance.uniform(0, 0.1))
    owned.busy = False
    return f" (moved: {reported})" if reported else ""


async def delete(context: Context, chance: random.Random) -> str:
    idle = context.oracle.idle()
    if not idle:
        return ""
    owned = chance.choice(idle)
    moved = await _moved_just_now(context, owned, chance)
    await context.oracle.delete(owned)
    return f"{owned.name}{moved}"


async def label(context: Context, chance: random.Random) -> str:
    idle = context.oracle.idle()
    if not idle:
        return ""
    owned, value = chance.choice(idle), f"{chance.getrandbits(32):x}"
    moved = await _moved_just_now(context, owned, chance)
    await context.oracle.label(owned, value)
    return f"{owned.name} {value}{moved}"
