"""Whether a volume and its claim are at rest."""

import json
from pathlib import Path
from typing import Any

import pytest

from linstor_affinity_events.model.decision import Deferred, Reason, Refusal
from linstor_affinity_events.model.keys import FINALIZER, SKIP_RECLAIM_ANNOTATION
from linstor_affinity_events.model.obstacles import csi_resizer_writes_claim, obstacle
from tests.model.manifests import (
    PROTECTION,
    PROVISIONER,
    claim,
    in_phase,
    terminating,
    volume,
    with_metadata,
    with_spec,
)

Json = dict[str, Any]

DATA = Path(__file__).parents[1] / "data" / "kubernetes"

PENDING_RESIZE = {"type": "FileSystemResizePending", "status": "True"}


def condition(kind: str, status: str = "True") -> Json:
    return {"conditions": [{"type": kind, "status": status}]}


def claim_requesting(size: str) -> Json:
    return claim(resources={"requests": {"storage": size}})


@pytest.mark.parametrize(
    ("pv", "its_claim"),
    [
        pytest.param(volume(), claim(), id="bound to each other"),
        pytest.param(with_spec(volume(), claimRef=None), None, id="no claimRef, so no claim"),
        pytest.param(
            in_phase(with_spec(volume(), claimRef=None), "Available"), None, id="available"
        ),
        pytest.param(
            with_metadata(
                volume(),
                finalizers=[PROTECTION, PROVISIONER, "external-attacher/linstor-csi-linbit-com"],
            ),
            claim(),
            id="finalizers of Kubernetes and CSI",
        ),
        pytest.param(
            with_metadata(volume(), finalizers=[FINALIZER]), claim(), id="our own finalizer"
        ),
        pytest.param(with_metadata(volume(), finalizers=None), claim(), id="no finalizer"),
        pytest.param(volume(), claim_requesting("1024Mi"), id="the same size in other words"),
        pytest.param(volume(), claim_requesting("1G"), id="asks for less than it has"),
        pytest.param(
            volume(),
            claim(status={"conditions": [PENDING_RESIZE]}),
            id="only the file system has still to grow",
        ),
        pytest.param(volume(), claim(status=condition("Resizing", "False")), id="resize over"),
        pytest.param(
            volume(),
            claim(
                volumeAttributesClassName="gold",
                status={"currentVolumeAttributesClassName": "gold"},
            ),
            id="attributes as asked for",
        ),
        pytest.param(
            volume(),
            claim(
                volumeAttributesClassName="gold",
                status={
                    "modifyVolumeStatus": {
                        "status": "Infeasible",
                        "targetVolumeAttributesClassName": "gold",
                    }
                },
            ),
            id="attributes that can't be had",
        ),
        pytest.param(volume(), claim(volumeAttributesClassName=""), id="no attributes asked for"),
        pytest.param(volume(), claim(resources={}), id="a claim that asks for no size"),
    ],
)
def test_a_stable_volume_is_ready(pv: Json, its_claim: Json | None) -> None:
    assert obstacle(pv, its_claim) is None


@pytest.mark.parametrize(
    ("pv", "its_claim", "why"),
    [
        pytest.param(in_phase(volume(), "Pending"), claim(), "phase is Pending", id="pending"),
        pytest.param(in_phase(volume(), ""), claim(), "phase is unset", id="no phase"),
        pytest.param(volume(), None, "is gone", id="claim gone"),
        pytest.param(volume(), claim(metadata={"uid": "other"}), "is gone", id="another claim"),
        pytest.param(volume(), terminating(claim()), "is being deleted", id="claim deleted"),
        pytest.param(volume(), claim(volumeName="pvc-2"), "is not bound", id="bound elsewhere"),
        pytest.param(volume(), claim(status={"phase": "Lost"}), "is not bound", id="claim lost"),
        pytest.param(
            volume(), claim(status={"phase": "Pending"}), "is not bound", id="claim pending"
        ),
        pytest.param(
            volume(), claim_requesting("2Gi"), "resized from 1Gi to 2Gi", id="asks for more"
        ),
        pytest.param(
            volume(), claim_requesting("1073741825"), "resized", id="asks for one byte more"
        ),
        pytest.param(
            volume(),
            claim(volumeAttributesClassName="gold"),
            "VolumeAttributesClass",
            id="attributes asked for",
        ),
        pytest.param(
            volume(),
            claim(status={"modifyVolumeStatus": {"status": "InProgress"}}),
            "VolumeAttributesClass",
            id="attributes on their way",
        ),
        pytest.param(
            volume(),
            claim(
                volumeAttributesClassName="gold",
                status={
                    "modifyVolumeStatus": {
                        "status": "Infeasible",
                        "targetVolumeAttributesClassName": "silver",
                    }
                },
            ),
            "VolumeAttributesClass",
            id="other attributes asked for, after some that can't be had",
        ),
    ],
)
def test_a_volume_in_transition_is_deferred(pv: Json, its_claim: Json | None, why: str) -> None:
    against = obstacle(pv, its_claim)

    assert isinstance(against, Deferred)
    assert against.reason in {Reason.NOT_BOUND, Reason.RESIZING, Reason.MODIFYING}
    assert against.after is not None
    assert why in against.why


@pytest.mark.parametrize(
    "its_claim",
    [
        pytest.param(claim_requesting("2Gi"), id="resize"),
        pytest.param(claim(volumeAttributesClassName="gold"), id="attributes"),
    ],
)
def test_an_urgent_volume_is_not_deferred_for_a_sidecar(its_claim: Json) -> None:
    assert obstacle(volume(), its_claim, urgent=True) is None


def test_an_urgent_volume_is_deferred_for_its_claim() -> None:
    assert isinstance(obstacle(volume(), None, urgent=True), Deferred)


NO_STATUS = ""


def resize(
    *, has: int = 1, asks: int = 2, allocated: int = 0, at: str = NO_STATUS, said: tuple[str, ...]
) -> tuple[Json, Json]:
    """Sizes in GiB, the status of the resize, and the claim's conditions that are True."""
    status: Json = {"conditions": [{"type": each, "status": "True"} for each in said]}
    if allocated:
        status["allocatedResources"] = {"storage": f"{allocated}Gi"}
    if at:
        status["allocatedResourceStatuses"] = {"storage": at}
    pv = with_spec(volume(), capacity={"storage": f"{has}Gi"})
    return pv, claim(resources={"requests": {"storage": f"{asks}Gi"}}, status=status)


R, F = "Resizing", "FileSystemResizePending"
CE, NE = "ControllerResizeError", "NodeResizeError"


@pytest.mark.parametrize(
    ("state", "waits"),
    [
        # What external-resizer 2.3 leaves at each point of expandAndRecover, and kubelet after it.
        pytest.param(resize(said=()), True, id="asked for, not begun"),
        pytest.param(
            resize(allocated=2, at="ControllerResizeInProgress", said=(R,)), True, id="begun"
        ),
        pytest.param(
            resize(allocated=2, at="ControllerResizeInProgress", said=(R, CE)),
            True,
            id="failed for now, to be tried again",
        ),
        pytest.param(resize(allocated=2, said=(R,)), True, id="begun, and the status was dropped"),
        pytest.param(
            resize(asks=1, allocated=3, at="ControllerResizeInProgress", said=(R,)),
            True,
            id="begun for more, and taken back meanwhile",
        ),
        pytest.param(
            resize(asks=2, has=2, allocated=3, at="ControllerResizeInProgress", said=(R,)),
            True,
            id="begun for more than what is asked for and there",
        ),
        pytest.param(
            resize(has=2, allocated=2, at="ControllerResizeInProgress", said=(R,)),
            False,
            id="volume has grown, claim not yet told",
        ),
        pytest.param(
            resize(allocated=2, at="ControllerResizeInfeasible", said=(R, CE)),
            False,
            id="infeasible",
        ),
        pytest.param(
            resize(allocated=2, at="ControllerResizeFailed", said=(R,)),
            False,
            id="infeasible, in the words of Kubernetes before 1.31",
        ),
        pytest.param(
            resize(has=2, allocated=2, at="NodeResizePending", said=(R, F)),
            False,
            id="offline: waits for a node, Resizing still there",
        ),
        pytest.param(
            resize(has=2, allocated=2, at="NodeResizePending", said=(F,)),
            False,
            id="waits for a node",
        ),
        pytest.param(
            resize(has=2, allocated=2, at="NodeResizeInProgress", said=(R, F)),
            False,
            id="a node grows the file system",
        ),
        pytest.param(
            resize(has=2, allocated=2, at="NodeResizeInfeasible", said=(R, F, NE)),
            False,
            id="a node can't",
        ),
        pytest.param(
            resize(has=2, allocated=2, at="NodeResizeFailed", said=(R, F)),
            False,
            id="a node can't, in the words of Kubernetes before 1.31",
        ),
        pytest.param(
            resize(has=2, asks=3, allocated=2, at="NodeResizePending", said=(R, F)),
            False,
            id="more asked for while a node is waited for: the controller waits as well",
        ),
        pytest.param(
            resize(has=1, asks=3, allocated=2, at="NodeResizePending", said=(R, F)),
            True,
            id="waits for a node though the volume has not grown",
        ),
        pytest.param(resize(has=2, said=(R, F)), False, id="before there were statuses: on a node"),
        pytest.param(resize(has=2, said=(R,)), False, id="before there were statuses: grown"),
        pytest.param(resize(has=2, allocated=2, said=()), False, id="over"),
    ],
)
def test_a_resize_defers_while_its_controller_may_write_to_the_volume(
    state: tuple[Json, Json], waits: bool
) -> None:
    against = obstacle(*state)

    assert (against is not None) == waits
    assert obstacle(*state, urgent=True) is None


def test_the_recorded_claim_after_a_resize_is_stable() -> None:
    recorded = json.loads((DATA / "claim-after-controller-resize.json").read_text())
    recorded["metadata"] |= claim()["metadata"]
    recorded["spec"]["volumeName"] = volume()["metadata"]["name"]
    pv = with_spec(volume(), capacity={"storage": "136Mi"})

    assert obstacle(pv, recorded) is None


@pytest.mark.parametrize(
    "pv",
    [
        pytest.param(in_phase(volume(), "Available"), id="available"),
        pytest.param(in_phase(volume(), "Pending"), id="not yet seen by the binder"),
    ],
)
def test_a_prebound_volume_is_not_deferred_for_a_claim(pv: Json) -> None:
    ref = {**pv["spec"]["claimRef"], "uid": ""}

    assert obstacle(with_spec(pv, claimRef=ref), None) is None


@pytest.mark.parametrize(("namespace", "name"), [("..", "x"), ("default", "A"), ("", "x")])
def test_a_volume_for_a_name_that_no_claim_has_is_refused(namespace: str, name: str) -> None:
    """Its journal entry could not be trusted, so it could not be recreated after a crash."""
    pv = with_spec(volume(), claimRef={"namespace": namespace, "name": name})

    refusal = obstacle(pv, None, urgent=True)

    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NOT_BOUND
    assert "no claim can have" in refusal.why


@pytest.mark.parametrize("name", ["example.com/backup", "external-attacher/ebs-csi-aws-com"])
def test_an_unknown_finalizer_is_refused_by_name(name: str) -> None:
    pv = with_metadata(volume(), finalizers=[PROTECTION, name])

    against = obstacle(pv, claim())

    assert isinstance(against, Refusal)
    assert against.reason is Reason.UNKNOWN_FINALIZER
    assert name in against.why


def test_a_volume_whose_annotations_leave_no_space_is_refused() -> None:
    full = with_metadata(volume(), annotations={"a": "x" * 255 * 1024})

    against = obstacle(full, claim())

    assert isinstance(against, Refusal)
    assert against.reason is Reason.BAD_JOURNAL_ENTRY
    assert "remove annotations" in against.why


@pytest.mark.parametrize(("length", "refused"), [(253, False), (254, True)])
def test_a_volume_with_a_skip_reclaim_that_markers_cannot_have_is_refused(
    length: int, *, refused: bool
) -> None:
    odd = with_metadata(volume(), annotations={SKIP_RECLAIM_ANNOTATION: "x" * length})

    against = obstacle(odd, claim())

    assert isinstance(against, Refusal) is refused
    assert against is None or "skip-reclaim" in against.why


def test_the_managed_fields_of_a_volume_are_not_counted() -> None:
    pv = with_metadata(volume(), managedFields=[{"fieldsV1": {"f:x": "x" * 1_000_000}}])

    assert obstacle(pv, claim()) is None


@pytest.mark.parametrize("pattern", ["example.com/backup", "example.com/*"])
def test_a_finalizer_can_be_allowed_by_pattern(pattern: str) -> None:
    pv = with_metadata(volume(), finalizers=["example.com/backup"])

    assert obstacle(pv, claim(), allowed_finalizers=[pattern]) is None


def test_an_allowed_finalizer_allows_no_other() -> None:
    pv = with_metadata(volume(), finalizers=["example.org/backup"])

    assert obstacle(pv, claim(), allowed_finalizers=["example.com/*"]) is not None


@pytest.mark.parametrize(
    ("asked", "at", "expected"),
    [
        ("1Gi", "", False),
        ("2Gi", "", True),
        ("2Gi", "ControllerResizeInProgress", True),
        ("2Gi", "NodeResizePending", False),
        ("2Gi", "ControllerResizeInfeasible", False),
    ],
)
def test_when_the_resizer_is_about_to_write(asked: str, at: str, *, expected: bool) -> None:
    status: Json = {"capacity": {"storage": "1Gi"}}
    if at:
        status["allocatedResourceStatuses"] = {"storage": at}
    wish = {"spec": {"resources": {"requests": {"storage": asked}}}, "status": status}

    assert csi_resizer_writes_claim(wish) is expected
