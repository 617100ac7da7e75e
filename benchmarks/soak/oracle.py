"""The volumes there have to be, each as it was made, and those that must be gone."""

import copy
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.soak.requests import surely
from tests.testbed import manifests
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

VOLUMES = "/api/v1/persistentvolumes"
ONE_IN_RETAINED = 5
LABEL = "soak.invalid/seen"


def durable(manifest: Json) -> Json:
    """What nobody but its user may change about a volume."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k not in manifests.SERVER_SET}
    metadata["finalizers"] = sorted(metadata.get("finalizers", ()))
    spec = copy.deepcopy({k: v for k, v in manifest["spec"].items() if k != "nodeAffinity"})
    spec.get("claimRef", {}).pop("resourceVersion", None)
    return {"metadata": metadata, "spec": spec}


@dataclass(slots=True, kw_only=True)
class Owned:
    """One volume of a user; its LINSTOR resource has the same name."""

    name: str
    replicas: int
    """How many with data it should have when nothing is in motion."""
    made: Json
    """What lasts of it."""
    busy: bool = False
    """Whether its user is at it; one wish at a time, or the wishes would be each other's fault."""

    @property
    def claim(self) -> str:
        return f"claim-{self.name}"

    @property
    def policy(self) -> str:
        return str(self.made["spec"]["persistentVolumeReclaimPolicy"])


@dataclass(slots=True)
class Oracle:
    testbed: Testbed
    owned: dict[str, Owned] = field(default_factory=dict)
    going: dict[str, Owned] = field(default_factory=dict)
    """Their users have deleted them; not all of it is done yet."""
    gone: set[str] = field(default_factory=set)
    _number: int = 0

    def idle(self) -> list[Owned]:
        return [owned for owned in self.owned.values() if not owned.busy]

    def new_name(self) -> str:
        self._number += 1
        return f"pvc-{self._number:05}"

    async def make(self, name: str, nodes: Iterable[str], chance: random.Random) -> Owned:
        """A claim and a volume whose replicas are there already, with a bit of everything on it."""
        cluster, on = self.testbed.cluster, tuple(nodes)
        wish = manifests.claim(f"claim-{name}")
        claim = await surely(cluster, "POST", manifests.CLAIMS, wish, fine={409})
        claim = claim or await surely(cluster, "GET", f"{manifests.CLAIMS}/claim-{name}")
        policy = "Delete" if chance.randrange(ONE_IN_RETAINED) else "Retain"
        volume = manifests.volume(
            name,
            claim=claim,
            node_affinity=manifests.on_nodes(on),
            policy=policy,
            annotations={"soak.invalid/note": f"made for {name}: äöü {chance.random()}"},
            mountOptions=["noatime", "discard"][: chance.randrange(3)] or None,
        )
        volume["metadata"]["labels"] = {LABEL: "0", "app": f"a{chance.randrange(9)}"}
        volume["spec"]["csi"]["volumeAttributes"] = {
            "storage.kubernetes.io/csiProvisionerIdentity": f"{chance.getrandbits(40)}",
        }
        if policy == "Retain":
            # The provisioner holds only what it will delete.
            volume["metadata"]["finalizers"] = ["kubernetes.io/pv-protection"]
        volume["spec"] = {key: value for key, value in volume["spec"].items() if value is not None}
        await surely(cluster, "POST", VOLUMES, volume, fine={409})
        self.owned[name] = Owned(name=name, replicas=len(on), made=durable(volume))
        return self.owned[name]

    async def label(self, owned: Owned, value: str) -> None:
        """Change something about a volume as its user may at any time."""
        patch = {"metadata": {"labels": {LABEL: value}}}
        owned.busy = True
        # A volume that is being replaced is away for a moment: asked again until it is there.
        await surely(self.testbed.cluster, "PATCH", f"{VOLUMES}/{owned.name}", patch)
        owned.made["metadata"]["labels"][LABEL] = value
        owned.busy = False

    async def delete(self, owned: Owned) -> None:
        """Delete its claim; what follows from that is the reclaimer's."""
        del self.owned[owned.name]
        await surely(
            self.testbed.cluster, "DELETE", f"{manifests.CLAIMS}/{owned.claim}", fine={404}
        )
        self.going[owned.name] = owned
