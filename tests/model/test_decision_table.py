"""What is decided about a volume: one row a case, expectations written out by hand."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.objects import describe, storage_class
from linstor_affinity_events.model.affinity import (
    DRIVER_NODES,
    MOST_TERMS,
    NO_AFFINITY,
    NodeAffinity,
)
from linstor_affinity_events.model.decision import (
    Case,
    Change,
    Decision,
    Deferred,
    InSync,
    Reason,
    Refusal,
    Resume,
    Skipped,
    decide,
)
from linstor_affinity_events.model.keys import DRIVER, FINALIZER, OURSELVES, VolumeKey, parse_handle
from linstor_affinity_events.model.names import PvName, ResourceName, node_name
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.placement import Definition, Placement, Replica
from linstor_affinity_events.model.policy import EVERYWHERE, LOCAL_ONLY, Policy

Json = dict[str, Any]

HOST = "linbit.com/hostname"
PARAMETER = "allowRemoteVolumeAccess"
PREFIX = "linstor.csi.linbit.com/"
MARKER, CONTEXT = f"{PREFIX}uses-volume-context", f"{PREFIX}remote-access-policy"
LOCAL, REMOTE = {PARAMETER: "false"}, {PARAMETER: "true"}
BY_ZONE = {PARAMETER: "- fromSame: [zone]"}

RD = ResourceName("pvc-1")
BORN, NOW = "2026-11-23T05:00:00Z", 1795411800.0
"""Half an hour lies between."""

LABELS: dict[str, dict[str, str]] = {
    "a": {"zone": "z1", "rack": "r1", "yes": "1"},
    "b": {"zone": "z1", "rack": "r2"},
    "c": {"zone": "z2"},
    "d": {"zone": "z1"},
    "bare": {},
}


def terms(*given: Json) -> Json:
    return {"required": {"nodeSelectorTerms": list(given)}}


def term(**labels: str) -> Json:
    return expressions(*(selects(key, "In", value) for key, value in labels.items()))


def expressions(*given: Json) -> Json:
    return {"matchExpressions": list(given)}


def selects(key: str, operator: str, *values: str) -> Json:
    return {"key": HOST if key == "host" else key, "operator": operator, "values": list(values)}


ELSEWHERE = terms(term(host="elsewhere"))


@dataclass(frozen=True, kw_only=True)
class World:
    """A cluster with one volume; `at` names replicas as `node` or `node:FLAG+FLAG`."""

    at: str | None = "a"
    knows_definition: bool = True
    skip_property: bool = False
    unreadable: str = ""
    """What LINSTOR has too much of: `definition`, `replicas`, or names of nodes."""
    namespace: str = "Aux/topology"
    handle: str = "pvc-1"
    driver: str = DRIVER
    affinity: Json | None = field(default_factory=lambda: ELSEWHERE)
    annotations: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] | None = field(default_factory=dict)
    """Of the StorageClass; None where there is no such class."""
    class_name: str = "linstor"
    provisioner: str = DRIVER
    everywhere: NodeAffinity = NO_AFFINITY
    default: Policy | None = None
    phase: str = "Bound"
    terminating: bool = False
    marked: bool = False
    made_by_us: bool = False
    has_journal_entry: bool = False
    duplicates: tuple[str, ...] = ()
    immutable: bool = False
    age: float = 1800.0
    seen_for: float = 0.0

    def decision(self) -> Decision:
        volume = describe(self._manifest())
        assert volume is not None
        raw_class = {
            "metadata": {"name": self.class_name},
            "parameters": self.parameters,
            "provisioner": self.provisioner,
        }
        return decide(
            Case(
                volume=volume,
                duplicates=tuple(PvName(name) for name in self.duplicates),
                has_journal_entry=self.has_journal_entry,
                definition=self._definition() if self.knows_definition else None,
                placement=None if self.at is None else self._placement(),
                nodes=self._nodes(),
                storage_class=None if self.parameters is None else storage_class(raw_class),
                default_policy=self.default,
                everywhere=self.everywhere,
                immutable=self.immutable,
                now=NOW - 1800.0 + self.age,
                seen_for=self.seen_for,
            )
        )

    def _definition(self) -> Definition:
        if self.unreadable == "definition":
            return Definition(resource=RD, unreadable=True)
        return Definition(resource=RD, skip=self.skip_property)

    def _placement(self) -> Placement:
        if self.unreadable == "replicas":
            return Placement(RD, unreadable=True)
        return Placement(RD, tuple(self._replicas()))

    def _replicas(self) -> list[Replica]:
        parts = (word.partition(":") for word in (self.at or "").split())
        return [Replica(node_name(n), frozenset(flags.split("+")) - {""}) for n, _, flags in parts]

    def _nodes(self) -> Nodes:
        unreadable = frozenset(map(node_name, self.unreadable.split()))
        nodes = self._all_nodes()
        labels = {name: has for name, has in nodes.labels.items() if name not in unreadable}
        return replace(nodes, labels=labels, unreadable=unreadable)

    def _all_nodes(self) -> Nodes:
        return Nodes.read(
            {
                name: {
                    f"{self.namespace}/{key}": value
                    for key, value in {**labels, "kubernetes.io/hostname": name}.items()
                    if labels
                }
                for name, labels in LABELS.items()
            }
        )

    def _manifest(self) -> Json:
        metadata: Json = {
            "name": "pvc-1",
            "uid": "uid-1",
            "creationTimestamp": BORN,
            "annotations": self.annotations,
        }
        if self.terminating:
            metadata["deletionTimestamp"] = BORN
        if self.marked:
            metadata["finalizers"] = [FINALIZER]
        if self.made_by_us:
            metadata["managedFields"] = [{"manager": OURSELVES}]
        csi = {
            "driver": self.driver,
            "volumeHandle": self.handle,
            "volumeAttributes": self.attributes,
        }
        spec: Json = {"csi": csi, "storageClassName": self.class_name}
        if self.affinity is not None:
            spec["nodeAffinity"] = self.affinity
        return {"metadata": metadata, "spec": spec, "status": {"phase": self.phase}}


def policy_attribute(policy: str) -> dict[str, str]:
    return {MARKER: "true", CONTEXT: policy}


@pytest.mark.parametrize(
    ("world", "wanted"),
    [
        pytest.param(
            World(
                annotations={"override.piraeus.io/policy": "false"},
                attributes=policy_attribute("true"),
                parameters=REMOTE,
            ),
            f"{HOST}=a",
            id="override annotation wins over attributes and class",
        ),
        pytest.param(
            World(annotations={"override.piraeus.io/policy": "true"}, parameters=LOCAL),
            "everywhere",
            id="override annotation opens what the class closes",
        ),
        pytest.param(
            World(annotations={"override.piraeus.io": "false"}),
            f"{HOST}=a",
            id="override annotation is known by its beginning, with nothing after it",
        ),
        pytest.param(
            World(annotations={"override.piraeus.io.anything-else": "false"}),
            f"{HOST}=a",
            id="override annotation is known by its beginning, whatever follows",
        ),
        pytest.param(
            World(annotations={"my-override.piraeus.io/policy": "false"}),
            "everywhere",
            id="an annotation that only ends like it is none",
        ),
        pytest.param(
            World(annotations={"override.piraeus.io/policy": "false"}, parameters=None),
            f"{HOST}=a",
            id="override annotation needs no class",
        ),
        pytest.param(
            World(attributes=policy_attribute("false"), parameters=REMOTE),
            f"{HOST}=a",
            id="volume attributes win over the class",
        ),
        pytest.param(
            World(attributes={MARKER: "", CONTEXT: "false"}),
            f"{HOST}=a",
            id="the marker counts by being there, empty as it may be",
        ),
        pytest.param(
            World(attributes={CONTEXT: "true"}, parameters=LOCAL),
            f"{HOST}=a",
            id="attributes without the marker don't count",
        ),
        pytest.param(
            World(attributes=policy_attribute(""), parameters=LOCAL),
            f"{HOST}=a",
            id="marker with an empty policy leaves it to the class",
        ),
        pytest.param(
            World(attributes={MARKER: "true"}, parameters=LOCAL),
            f"{HOST}=a",
            id="marker without a policy leaves it to the class",
        ),
        pytest.param(
            World(attributes=policy_attribute("false"), parameters=None),
            f"{HOST}=a",
            id="volume attributes need no class",
        ),
        pytest.param(World(parameters=LOCAL), f"{HOST}=a", id="class parameter"),
        pytest.param(
            World(parameters={"allowremotevolumeaccess": "false"}),
            f"{HOST}=a",
            id="class parameter in lower case",
        ),
        pytest.param(
            World(parameters={"ALLOWREMOTEVOLUMEACCESS": "false"}),
            f"{HOST}=a",
            id="class parameter in upper case",
        ),
        pytest.param(
            World(parameters={f"{PREFIX}{PARAMETER}": "false"}),
            f"{HOST}=a",
            id="class parameter with the prefix",
        ),
        pytest.param(
            World(parameters={f"{PREFIX}AllowRemoteVolumeaccess": "false"}),
            f"{HOST}=a",
            id="class parameter with the prefix, in any case",
        ),
        pytest.param(
            World(parameters={f"{PREFIX.upper()}{PARAMETER}": "false"}),
            "everywhere",
            id="a prefix in another case is another prefix",
        ),
        pytest.param(
            World(parameters={f"example.com/{PARAMETER}": "false"}),
            "everywhere",
            id="a parameter under a stranger's prefix is a stranger's",
        ),
        pytest.param(
            World(parameters={"layerList": "storage", **REMOTE}),
            "everywhere",
            id="class parameter wins over its layers",
        ),
        pytest.param(World(), "everywhere", id="without anything: drbd storage, so everywhere"),
        pytest.param(
            World(parameters={"layerList": "drbd storage"}), "everywhere", id="layers drbd storage"
        ),
        pytest.param(
            World(parameters={"layerList": "DRBD LUKS STORAGE"}),
            "everywhere",
            id="layers in upper case",
        ),
        pytest.param(
            World(parameters={"layerList": "nvme storage"}), "everywhere", id="layers nvme storage"
        ),
        pytest.param(
            World(parameters={"layerList": "luks storage"}), f"{HOST}=a", id="layers luks storage"
        ),
        pytest.param(World(parameters={"layerList": "storage"}), f"{HOST}=a", id="layer storage"),
        pytest.param(
            World(parameters={f"{PREFIX}LAYERLIST": "storage"}),
            f"{HOST}=a",
            id="layers with the prefix, in any case",
        ),
        pytest.param(
            World(default=LOCAL_ONLY), f"{HOST}=a", id="default policy flag wins over drbd"
        ),
        pytest.param(
            World(default=EVERYWHERE, parameters={"layerList": "storage"}),
            "everywhere",
            id="default policy flag wins over storage",
        ),
        pytest.param(
            World(default=EVERYWHERE, parameters=LOCAL),
            f"{HOST}=a",
            id="class parameter wins over the default policy flag",
        ),
        *(
            pytest.param(World(parameters={PARAMETER: text}), "everywhere", id=f"boolean {text}")
            for text in ("1", "t", "T", "TRUE", "true", "True")
        ),
        *(
            pytest.param(World(parameters={PARAMETER: text}), f"{HOST}=a", id=f"boolean {text}")
            for text in ("0", "f", "F", "FALSE", "false", "False")
        ),
    ],
)
def test_the_policy_is_the_first_that_exists(world: World, wanted: str) -> None:
    decision = world.decision()

    assert isinstance(decision, Change)
    assert str(decision.wanted) == wanted


def ruled(policy: str, at: str) -> World:
    return World(parameters={PARAMETER: policy}, at=at)


@pytest.mark.parametrize(
    ("world", "wanted"),
    [
        pytest.param(ruled("false", "a b"), f"{HOST}=a | {HOST}=b", id="local only, two replicas"),
        pytest.param(ruled("false", "c a b"), f"{HOST}=a | {HOST}=b | {HOST}=c", id="local, three"),
        pytest.param(ruled("true", "a b"), "everywhere", id="everywhere, two replicas"),
        pytest.param(ruled("- fromSame: [zone]", "a"), "zone=z1", id="one rule of one label"),
        pytest.param(
            ruled("- fromSame: [zone]", "a b"), "zone=z1", id="two nodes that share the label"
        ),
        pytest.param(
            ruled("- fromSame: [zone]", "a c"), "zone=z1 | zone=z2", id="two nodes that do not"
        ),
        pytest.param(
            ruled("- fromSame: [zone, rack]", "a"), "rack=r1,zone=z1", id="one rule of two labels"
        ),
        pytest.param(
            ruled("- fromSame: [zone, rack]", "a b"),
            "rack=r1,zone=z1 | rack=r2,zone=z1",
            id="two labels on two nodes",
        ),
        pytest.param(
            ruled("- fromSame: [zone, nobody-has]", "a"), "zone=z1", id="a label that no node has"
        ),
        pytest.param(
            ruled(f"- fromSame: [zone]\n- fromSame: [{HOST}, zone]", "a"),
            "zone=z1",
            id="a rule that a wider one covers is dropped",
        ),
        pytest.param(
            ruled("- fromSame: [zone, rack]\n- fromSame: [zone]", "a"),
            "zone=z1",
            id="a term that another rule's wider one covers is dropped",
        ),
        pytest.param(
            ruled(f"- fromSame: [{HOST}]\n- fromSame: [rack]", "a"),
            f"{HOST}=a | rack=r1",
            id="either of two rules is enough",
        ),
        pytest.param(
            ruled(f"- fromSame: [{HOST}]", "a"), f"{HOST}=a", id="the host name as a label"
        ),
        pytest.param(
            ruled("- fromSame: []\n- fromSame: [zone]", "a"), "everywhere", id="a rule of no label"
        ),
        pytest.param(ruled("[]", "a"), "everywhere", id="no rule at all"),
        pytest.param(ruled("- fromSame: [yes]", "a"), "yes=1", id="a label yes stays text"),
        pytest.param(
            ruled('[{"fromSame": ["zone"]}]', "a"), "zone=z1", id="JSON, which YAML contains"
        ),
        pytest.param(ruled("false", "A"), f"{HOST}=a", id="node names ignore case"),
        pytest.param(
            World(parameters=BY_ZONE, namespace="Aux"), "zone=z1", id="labels right under Aux"
        ),
        pytest.param(ruled("true", "bare"), "everywhere", id="everywhere needs no labels"),
        pytest.param(ruled("false", "bare"), f"{HOST}=bare", id="local only needs no labels"),
    ],
)
def test_the_affinity_follows_the_labels_of_the_nodes_with_data(world: World, wanted: str) -> None:
    decision = world.decision()

    assert isinstance(decision, Change)
    assert str(decision.wanted) == wanted


@pytest.mark.parametrize(
    "flags",
    [
        "DISKLESS",
        "DRBD_DISKLESS",
        "TIE_BREAKER",
        "DISKLESS+DRBD_DISKLESS+TIE_BREAKER",
        "NVME_INITIATOR",
        "EBS_INITIATOR",
        "DELETE",
        "DRBD_DELETE",
        "DELETE+DRBD_DELETE",
        "INACTIVE",
        "INACTIVE_PERMANENTLY",
        "EVICTED",
        "DISK_REMOVE_REQUESTED",
        "DISK_REMOVING",
        "FAILED_DEPLOYMENT",
        "FAILED_DISCONNECT",
        "EVACUATE+DELETE",
    ],
)
def test_a_replica_with_this_flag_has_no_data(flags: str) -> None:
    decision = World(parameters=LOCAL, at=f"a b:{flags}").decision()

    assert isinstance(decision, Change)
    assert str(decision.wanted) == f"{HOST}=a"


def test_an_affinity_of_more_terms_than_are_ever_set_is_corrected() -> None:
    many = terms(*(term(host=f"node-{number}") for number in range(MOST_TERMS + 1)))

    decision = World(parameters=LOCAL, at="a", affinity=many).decision()

    assert isinstance(decision, Change)
    assert str(decision.wanted) == f"{HOST}=a"


@pytest.mark.parametrize("flags", ["EVACUATE", "CLEAN", "AUTO_DISKFUL", "RESTORE_FROM_SNAPSHOT"])
def test_a_replica_with_this_flag_still_has_data(flags: str) -> None:
    decision = World(parameters=LOCAL, at=f"a b:{flags}").decision()

    assert isinstance(decision, Change)
    assert str(decision.wanted) == f"{HOST}=a | {HOST}=b"


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        pytest.param(World(handle=""), Reason.BAD_HANDLE, id="empty handle"),
        pytest.param(World(handle="pvc-1/x"), Reason.BAD_HANDLE, id="handle with a word"),
        pytest.param(World(handle="pvc-1/"), Reason.BAD_HANDLE, id="handle without a number"),
        pytest.param(World(handle="pvc-1/-1"), Reason.BAD_HANDLE, id="handle below 0"),
        pytest.param(World(handle="pvc-1/65536"), Reason.BAD_HANDLE, id="handle above 65535"),
        pytest.param(World(handle="pvc-1/0/0"), Reason.BAD_HANDLE, id="handle with two slashes"),
        pytest.param(World(handle="pvc-1/²"), Reason.BAD_HANDLE, id="handle with no ASCII digit"),
        pytest.param(World(handle="../nodes"), Reason.BAD_HANDLE, id="handle that climbs"),
        pytest.param(World(handle="a b"), Reason.BAD_HANDLE, id="handle with a blank"),
        pytest.param(
            World(duplicates=("pvc-2",), phase="Available"),
            Reason.TWO_VOLUMES,
            id="never bound, beside one that is in use",
        ),
        pytest.param(World(parameters=None), Reason.NO_CLASS, id="unknown StorageClass"),
        pytest.param(
            World(parameters=None, class_name=""),
            Reason.NO_CLASS,
            id="no StorageClass named, and no default policy: nobody knows its layers",
        ),
        pytest.param(
            World(parameters=LOCAL, provisioner="ebs.csi.aws.com"),
            Reason.NO_CLASS,
            id="StorageClass of another driver",
        ),
        pytest.param(
            World(parameters={PARAMETER: "yes"}), Reason.BAD_POLICY, id="policy yes is no boolean"
        ),
        pytest.param(
            World(parameters={PARAMETER: " true"}), Reason.BAD_POLICY, id="policy with a blank"
        ),
        pytest.param(
            World(parameters={PARAMETER: "tRUE"}), Reason.BAD_POLICY, id="policy in a wild case"
        ),
        pytest.param(
            World(parameters={PARAMETER: "- fromsame: [zone]"}),
            Reason.BAD_POLICY,
            id="misspelt rule, which linstor-csi takes for everywhere",
        ),
        pytest.param(
            World(parameters={PARAMETER: "- fromSame: zone"}),
            Reason.BAD_POLICY,
            id="one label that is no list",
        ),
        pytest.param(
            World(parameters={PARAMETER: "fromSame: [zone]"}),
            Reason.BAD_POLICY,
            id="one rule that is no list",
        ),
        pytest.param(
            World(parameters={PARAMETER: "- fromSame: [zone"}), Reason.BAD_POLICY, id="no YAML"
        ),
        pytest.param(
            World(annotations={"override.piraeus.io/policy": "nope"}, parameters=LOCAL),
            Reason.BAD_POLICY,
            id="an unreadable override does not fall through to the class",
        ),
        pytest.param(
            World(attributes=policy_attribute("nope"), parameters=LOCAL),
            Reason.BAD_POLICY,
            id="unreadable attributes do not fall through to the class",
        ),
        pytest.param(
            World(knows_definition=False, at=None), Reason.UNKNOWN_RESOURCE, id="unknown resource"
        ),
        pytest.param(World(at=None), Reason.UNKNOWN_RESOURCE, id="gone between two reads"),
        pytest.param(
            World(unreadable="definition"), Reason.TOO_LARGE, id="a definition that is too large"
        ),
        pytest.param(
            World(unreadable="replicas"), Reason.TOO_LARGE, id="replicas that are too large"
        ),
        pytest.param(
            World(at="a b", unreadable="b"), Reason.TOO_LARGE, id="data on a node that is too large"
        ),
        pytest.param(
            World(at="a b", unreadable="b", parameters=REMOTE),
            Reason.TOO_LARGE,
            id="data on a node that is too large, even where everywhere is the policy",
        ),
        pytest.param(World(at=""), Reason.NO_DATA, id="no replica at all"),
        pytest.param(World(at="a:DISKLESS b:EVICTED"), Reason.NO_DATA, id="no replica with data"),
        pytest.param(
            World(at="a:DISKLESS", parameters=REMOTE),
            Reason.NO_DATA,
            id="no replica with data, even where everywhere is the policy",
        ),
    ],
)
def test_doubtful_volumes_are_refused(world: World, reason: Reason) -> None:
    decision = world.decision()

    assert isinstance(decision, Refusal)
    assert decision.reason is reason


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        pytest.param(
            World(terminating=True, phase="Released"),
            Reason.TERMINATING,
            id="deleted by somebody else",
        ),
        pytest.param(
            World(terminating=True, affinity=None),
            Reason.TERMINATING,
            id="deleted by somebody else while in use, with the right affinity",
        ),
        pytest.param(
            World(terminating=True, at=None),
            Reason.TERMINATING,
            id="deleted by somebody else while in use, and unknown to LINSTOR",
        ),
        pytest.param(
            World(parameters={"placementPolicy": "Balanced", **LOCAL}, phase="Released"),
            Reason.PHASE,
            id="the phase before the placement policy",
        ),
        pytest.param(
            World(annotations={"piraeus.io/skip-affinity-controller": "true"}),
            Reason.SKIP_ANNOTATION,
            id="skip annotation",
        ),
        pytest.param(
            World(annotations={"piraeus.io/skip-affinity-controller": "false"}),
            Reason.SKIP_ANNOTATION,
            id="skip annotation counts unless it is empty",
        ),
        pytest.param(World(skip_property=True), Reason.SKIP_PROPERTY, id="skip property"),
        pytest.param(World(phase="Released"), Reason.PHASE, id="phase Released"),
        pytest.param(World(phase="Failed"), Reason.PHASE, id="phase Failed"),
        pytest.param(
            World(parameters={"placementPolicy": "Balanced"}), Reason.BALANCED, id="Balanced"
        ),
        pytest.param(
            World(parameters={f"{PREFIX}PLACEMENTPOLICY": "Balanced"}),
            Reason.BALANCED,
            id="Balanced, with the prefix and in any case",
        ),
        pytest.param(
            World(annotations={"piraeus.io/skip-affinity-controller": "x"}, parameters=None),
            Reason.SKIP_ANNOTATION,
            id="skipped before it is refused",
        ),
        pytest.param(
            World(phase="Released", age=1.0), Reason.PHASE, id="skipped before it is young"
        ),
    ],
)
def test_some_volumes_are_skipped(world: World, reason: Reason) -> None:
    decision = world.decision()

    assert isinstance(decision, Skipped)
    assert decision.reason is reason


YOUNG = (
    "it is younger than --new-volume-grace, so linstor-csi may still work with outdated caches; "
    "it is checked again when that time is over"
)
NOT_LISTED = (
    "LINSTOR has a replica with data on stranger, but does not list that node yet; both are read "
    "again within seconds"
)


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        pytest.param(
            World(age=1.0),
            Deferred(
                Reason.YOUNG,
                YOUNG,
                9.0,
            ),
            id="young",
        ),
        pytest.param(
            World(age=9.5),
            Deferred(
                Reason.YOUNG,
                YOUNG,
                0.5,
            ),
            id="nearly grown",
        ),
        pytest.param(
            World(age=-3600.0),
            Deferred(
                Reason.YOUNG,
                YOUNG,
                10.0,
            ),
            id="born in the future by another's clock",
        ),
        pytest.param(
            World(age=-3600.0, seen_for=7.0),
            Deferred(
                Reason.YOUNG,
                YOUNG,
                3.0,
            ),
            id="born in the future, and known for a while",
        ),
        pytest.param(
            World(age=1.0, parameters=None),
            Deferred(
                Reason.YOUNG,
                YOUNG,
                9.0,
            ),
            id="young before its class may be missed",
        ),
        pytest.param(
            World(at="stranger"),
            Deferred(Reason.UNKNOWN_NODE, NOT_LISTED, 2.0),
            id="data on a node that is not in the list",
        ),
    ],
)
def test_some_volumes_are_deferred(world: World, expected: Deferred) -> None:
    decision = world.decision()

    assert decision == expected


BY_RACK = {PARAMETER: "- fromSame: [rack]"}
BY_NONE = {PARAMETER: "- fromSame: [nobody-has]"}


@pytest.mark.parametrize(
    ("world", "node", "label"),
    [
        pytest.param(World(at="bare", parameters=BY_ZONE), "bare", "zone", id="no label at all"),
        pytest.param(World(at="a bare", parameters=BY_ZONE), "bare", "zone", id="one of two nodes"),
        pytest.param(World(at="c", parameters=BY_RACK), "c", "rack", id="others have it"),
        pytest.param(
            ruled("- fromSame: [zone, rack]", "a d"), "d", "rack", id="a part of a rule is missing"
        ),
        pytest.param(
            ruled(f"- fromSame: [{HOST}]\n- fromSame: [rack]", "c"),
            "c",
            "rack",
            id="missing in one of two rules",
        ),
        pytest.param(
            replace(ruled("- fromSame: [zone, rack]", "d"), unreadable="a b"),
            "d",
            "rack",
            id="only nodes have it whose labels are not known",
        ),
        pytest.param(
            World(parameters=BY_NONE),
            "a",
            "nobody-has",
            id="no node has it, and an affinity that is there would go",
        ),
        pytest.param(
            World(
                parameters={PARAMETER: "- fromSame: [zone, nobody-has]"},
                affinity=terms(
                    expressions(selects("zone", "In", "z1"), selects("nobody-has", "In", "x"))
                ),
            ),
            "a",
            "nobody-has",
            id="no node has it any more, and the affinity asks for it",
        ),
    ],
)
def test_a_missing_label_never_widens_an_affinity(world: World, node: str, label: str) -> None:
    decision = world.decision()

    assert isinstance(decision, Deferred)
    assert (decision.reason, decision.after) == (Reason.NO_LABELS, None)
    assert f"{node} lacks {label}" in decision.why


def test_an_affinity_with_several_values_requires_its_labels_as_well() -> None:
    asked = terms(expressions(selects("zone", "In", "z1"), selects("gone", "In", "g1", "g2")))
    world = World(parameters={PARAMETER: "- fromSame: [zone, gone]"}, affinity=asked)

    decision = world.decision()

    assert isinstance(decision, Deferred)
    assert "a lacks gone" in decision.why


def test_a_label_unknown_to_the_cluster_keeps_an_open_volume_open() -> None:
    assert World(parameters=BY_NONE, affinity=None).decision() == InSync()


def test_a_node_of_another_namespace_changes_nothing_for_the_others() -> None:
    old = {"Aux/zone": "z1", "Aux/kubernetes.io/hostname": "old"}
    new = {"Aux/topology/zone": "z2", "Aux/topology/kubernetes.io/hostname": "new"}

    alone, together = Nodes.read({"old": old}), Nodes.read({"old": old, "new": new})

    assert together.labels[node_name("old")] == alone.labels[node_name("old")]
    assert together.labels[node_name("old")]["zone"] == "z1"
    assert together.labels[node_name("new")]["zone"] == "z2"


@pytest.mark.parametrize(
    ("world", "wanted"),
    [
        pytest.param(
            World(parameters=None, class_name="", default=LOCAL_ONLY),
            f"{HOST}=a",
            id="no StorageClass named: the default policy",
        ),
        pytest.param(
            World(
                parameters={"placementPolicy": "Balanced"},
                annotations={"override.piraeus.io/n1": "true"},
            ),
            "everywhere",
            id="an override opens Balanced volumes as well",
        ),
        *(
            pytest.param(
                World(parameters={PARAMETER: text}, default=LOCAL_ONLY),
                f"{HOST}=a",
                id=f"policy {text!r} is not set",
            )
            for text in ("", " ", "null", "~")
        ),
        pytest.param(
            World(annotations={"override.piraeus.io": "false", "override.piraeus.io/n1": "true"}),
            "everywhere",
            id="of two overrides the wider, the second by name",
        ),
        pytest.param(
            World(annotations={"override.piraeus.io": "true", "override.piraeus.io/n1": "false"}),
            "everywhere",
            id="of two overrides the wider, the first by name",
        ),
        pytest.param(
            World(
                annotations={
                    "override.piraeus.io/a": "- fromSame: [rack]",
                    "override.piraeus.io/b": "- fromSame: [zone]",
                }
            ),
            "rack=r1 | zone=z1",
            id="of two overrides whatever either admits",
        ),
        pytest.param(
            World(annotations={"override.piraeus.io/a": "nope", "override.piraeus.io/b": "true"}),
            "everywhere",
            id="nothing is wider than everywhere, whatever an unreadable one may mean",
        ),
        pytest.param(
            World(duplicates=("pvc-2",), parameters=LOCAL),
            f"{HOST}=a",
            id="two in use: each is kept",
        ),
        pytest.param(
            World(everywhere=DRIVER_NODES),
            f"{HOST} exists",
            id="everywhere, on nodes of the driver",
        ),
        pytest.param(
            World(everywhere=DRIVER_NODES, affinity=None),
            f"{HOST} exists",
            id="nodes of the driver, and unset",
        ),
    ],
)
def test_published_policies_are_understood(world: World, wanted: str) -> None:
    decision = world.decision()

    assert isinstance(decision, Change)
    assert str(decision.wanted) == wanted


def test_an_unreadable_override_beside_a_narrow_one_is_refused() -> None:
    both = {"override.piraeus.io/a": "false", "override.piraeus.io/b": "nope"}

    decision = World(annotations=both, parameters=LOCAL).decision()

    assert isinstance(decision, Refusal)
    assert decision.reason is Reason.BAD_POLICY
    assert "override.piraeus.io/a, override.piraeus.io/b" in decision.why


@pytest.mark.parametrize("everywhere", [NO_AFFINITY, DRIVER_NODES], ids=["any", "driver"])
def test_both_forms_of_everywhere_admit_every_node_of_the_driver(everywhere: NodeAffinity) -> None:
    exists = terms(expressions({"key": HOST, "operator": "Exists"}))

    assert World(everywhere=everywhere, affinity=exists).decision() == InSync()


def test_a_terminating_volume_in_use_and_out_of_sync_is_deferred() -> None:
    decision = World(terminating=True, parameters=LOCAL).decision()

    assert isinstance(decision, Deferred)
    assert (decision.reason, decision.after) == (Reason.TERMINATING, None)


def test_unfinished_replacements_precede_duplicates() -> None:
    assert (
        World(duplicates=("pvc-2",), phase="Released", has_journal_entry=True).decision()
        == Resume()
    )


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(World(has_journal_entry=True), id="noted"),
        pytest.param(World(has_journal_entry=True, terminating=True), id="noted and terminating"),
        pytest.param(
            World(has_journal_entry=True, skip_property=True),
            id="noted, though it is to be skipped",
        ),
        pytest.param(
            World(has_journal_entry=True, at=None), id="noted, though LINSTOR does not know it"
        ),
        pytest.param(World(marked=True), id="wears our finalizer"),
    ],
)
def test_an_unfinished_replacement_is_resumed_first(world: World) -> None:
    assert world.decision() == Resume()


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(
            World(parameters=LOCAL, affinity=terms(term(host="a"))), id="local only as it is"
        ),
        pytest.param(
            World(parameters=LOCAL, at="a b", affinity=terms(term(host="b"), term(host="a"))),
            id="the order of terms does not matter",
        ),
        pytest.param(
            World(
                parameters={PARAMETER: "- fromSame: [zone, rack]"},
                affinity=terms(term(rack="r1", zone="z1")),
            ),
            id="the order of labels does not matter",
        ),
        pytest.param(
            World(parameters=LOCAL, affinity=terms(term(host="a"), term(host="a"))),
            id="nor does a term that stands there twice",
        ),
        pytest.param(
            World(parameters=BY_ZONE, affinity=terms(term(zone="z1"), term(zone="z1", rack="r1"))),
            id="nor does a term that a wider one covers, as linstor-csi leaves it",
        ),
        pytest.param(World(affinity=None), id="everywhere and unset"),
        pytest.param(World(affinity={}), id="everywhere and empty"),
        pytest.param(World(affinity=None, made_by_us=True, age=0.0), id="ours and right"),
    ],
)
def test_a_correct_affinity_is_in_sync(world: World) -> None:
    assert world.decision() == InSync()


@pytest.mark.parametrize(
    "affinity",
    [
        pytest.param(terms(expressions(selects("host", "In", "a", "b"))), id="two values"),
        pytest.param(terms(expressions(selects("host", "NotIn", "b"))), id="NotIn"),
        pytest.param(terms(expressions(selects("host", "Exists"))), id="Exists"),
        pytest.param(
            terms({**term(host="a"), "matchFields": [selects("metadata.name", "In", "a")]}),
            id="matchFields beside the very term",
        ),
        pytest.param(terms(term(host="a"), {}), id="an empty term beside the very term"),
    ],
)
def test_an_affinity_of_another_form_is_never_in_sync(affinity: Json) -> None:
    decision = World(parameters=LOCAL, affinity=affinity).decision()

    assert isinstance(decision, Change)
    assert (str(decision.wanted), decision.urgent) == (f"{HOST}=a", False)


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(World(phase="Available"), id="phase Available"),
        pytest.param(World(phase="Pending"), id="phase Pending"),
        pytest.param(World(phase=""), id="no phase yet"),
        pytest.param(World(made_by_us=True, age=0.0), id="young, but made by us"),
        pytest.param(World(age=-3600.0, seen_for=10.0), id="born in the future, and long known"),
        pytest.param(World(age=10.0), id="just old enough"),
        pytest.param(
            World(annotations={"piraeus.io/skip-affinity-controller": ""}),
            id="empty skip annotation",
        ),
        pytest.param(World(handle="pvc-1/65535"), id="the highest volume number"),
    ],
)
def test_other_volumes_are_not_skipped(world: World) -> None:
    assert isinstance(world.decision(), Change)


@pytest.mark.parametrize(
    ("affinity", "at", "urgent"),
    [
        pytest.param(ELSEWHERE, "a b", True, id="admits no node with data"),
        pytest.param(terms(term(host="b")), "a b", False, id="admits one of two nodes with data"),
        pytest.param(terms(term(host="a"), term(host="b")), "a", False, id="admits one too many"),
        pytest.param(None, "a", False, id="admits all"),
        pytest.param(terms(term(host="a")), "b", True, id="admits the node that had the data"),
    ],
)
def test_a_change_is_urgent_if_no_pod_can_start_at_the_data(
    affinity: Json | None, at: str, urgent: bool
) -> None:
    decision = World(parameters=LOCAL, affinity=affinity, at=at).decision()

    assert isinstance(decision, Change)
    assert decision.urgent is urgent


@pytest.mark.parametrize(
    ("affinity", "immutable", "in_place"),
    [
        pytest.param(None, True, True, id="unset, which may always be set"),
        pytest.param(None, False, True, id="unset"),
        pytest.param(ELSEWHERE, False, True, id="set, and not known to be immutable"),
        pytest.param(ELSEWHERE, True, False, id="set and immutable"),
        pytest.param(terms({}), True, False, id="foreign and immutable"),
    ],
)
def test_a_patch_is_tried_unless_the_field_is_known_to_be_immutable(
    affinity: Json | None, immutable: bool, in_place: bool
) -> None:
    decision = World(parameters=LOCAL, affinity=affinity, immutable=immutable).decision()

    assert isinstance(decision, Change)
    assert decision.in_place is in_place


@pytest.mark.parametrize(
    ("handle", "key"),
    [
        pytest.param("pvc-1", VolumeKey(RD, 0), id="without a number it is volume 0"),
        pytest.param("pvc-1/0", VolumeKey(RD, 0), id="volume 0"),
        pytest.param("pvc-1/00", VolumeKey(RD, 0), id="volume 00"),
        pytest.param("PVC-1", VolumeKey(RD, 0), id="upper case"),
        pytest.param("Pvc-1/007", VolumeKey(RD, 7), id="volume 7"),
        pytest.param("pvc-1/65535", VolumeKey(RD, 65535), id="the last one"),
    ],
)
def test_one_handle_can_have_several_spellings(handle: str, key: VolumeKey) -> None:
    assert parse_handle(handle) == key


@pytest.mark.parametrize("number", ["0", "1"])
def test_two_volumes_of_one_definition_have_the_same_placement(number: str) -> None:
    decision = World(handle=f"pvc-1/{number}", parameters=LOCAL, at="a b:DISKLESS").decision()

    assert isinstance(decision, Change)
    assert str(decision.wanted) == f"{HOST}=a"


def test_a_volume_of_another_driver_is_not_managed() -> None:
    manifest = World(driver="ebs.csi.aws.com")._manifest()

    assert describe(manifest) is None


def test_a_volume_without_a_csi_source_is_not_managed() -> None:
    assert describe({"metadata": {"name": "x"}, "spec": {"nfs": {"server": "n"}}}) is None
