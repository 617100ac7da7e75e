"""What is wrong with the volumes, judged only by what LINSTOR and Kubernetes return."""

from dataclasses import dataclass
from typing import Any

from benchmarks.soak.oracle import VOLUMES, Oracle, Owned, durable
from benchmarks.soak.requests import listed
from tests.fakes.linstor_server.objects import Definition, Replica, folded
from tests.testbed import manifests

Json = dict[str, Any]

WITHOUT_DATA = frozenset(
    {
        "DELETE",
        "DISKLESS",
        "DISK_REMOVE_REQUESTED",
        "DISK_REMOVING",
        "DRBD_DELETE",
        "DRBD_DISKLESS",
        "EVICTED",
        "INACTIVE",
        "TIE_BREAKER",
    }
)
"""Written out here and not taken from the service, whose mistake would then be ours."""

OTHERS = "is-the-binder-there"


def has_data(replica: Replica) -> bool:
    return replica.flags.isdisjoint(WITHOUT_DATA)


def with_data(definition: Definition) -> list[str]:
    return sorted(r.node.name for r in definition.replicas.values() if has_data(r))


@dataclass(frozen=True, slots=True)
class Wrong:
    volume: str
    what: str
    missing: bool = False

    def __str__(self) -> str:
        return f"{self.volume}: {self.what}"


async def wrongs(oracle: Oracle) -> list[Wrong]:
    """Everything that is not as it has to be once nothing goes wrong and nothing is in motion."""
    cluster = oracle.testbed.cluster
    volumes = {v["metadata"]["name"]: v for v in await listed(cluster, VOLUMES)}
    claims = {c["metadata"]["name"]: c for c in await listed(cluster, manifests.CLAIMS)}
    found = [Wrong("entry", name) for name in await oracle.testbed.entries()]
    for owned in oracle.owned.values():
        found += _of_one(oracle, owned, volumes.get(owned.name), claims.get(owned.claim))
    found += [Wrong(name, "is not gone yet") for name in oracle.going]
    found += [Wrong(name, "came back") for name in sorted(oracle.gone & volumes.keys())]
    known = oracle.owned.keys() | oracle.going.keys() | oracle.gone
    others = sorted(volumes.keys() - known)
    found += [Wrong(name, "nobody made") for name in others if not name.startswith(OTHERS)]
    return found


def _of_one(oracle: Oracle, owned: Owned, volume: Json | None, claim: Json | None) -> list[Wrong]:
    if volume is None:
        return [Wrong(owned.name, "is missing", missing=True)]
    if "deletionTimestamp" in volume["metadata"]:
        return [Wrong(owned.name, "is terminating")]
    found = []
    nodes = with_data(oracle.testbed.world.definitions[folded(owned.name)])
    wanted = frozenset(frozenset({(manifests.HOSTNAME, node)}) for node in nodes)
    if not nodes:
        found.append("has no data anywhere, which is the driver's fault")
    elif manifests.terms_of(volume) != wanted:
        found.append(f"is on {sorted(manifests.nodes_of(volume))}, its data on {nodes}")
    found += differences(owned.made, durable(volume))
    phase = (volume.get("status") or {}).get("phase")
    if phase != "Bound":
        found.append(f"is {phase}")
    if claim is None:
        found.append("its claim is missing")
    elif (claim.get("status") or {}).get("phase") != "Bound":
        found.append(f"its claim is {(claim.get('status') or {}).get('phase')}")
    elif claim["spec"].get("volumeName") != owned.name or not claim["status"].get("capacity"):
        found.append("its claim is not as the binder leaves it")
    return [Wrong(owned.name, what) for what in found]


def differences(made: object, now: object, at: str = "") -> list[str]:
    """Each place in which two trees differ."""
    if isinstance(made, dict) and isinstance(now, dict):
        keys = sorted(made.keys() | now.keys())
        return [x for k in keys for x in differences(made.get(k), now.get(k), f"{at}.{k}")]
    return [] if made == now else [f"{at} was {made!r} and is {now!r}"]
