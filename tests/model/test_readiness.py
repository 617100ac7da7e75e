"""Whether a volume and its claim are at rest."""

from typing import Any

import pytest

from linstor_affinity_events.model.keys import FINALIZER
from linstor_affinity_events.model.readiness import obstacle
from linstor_affinity_events.model.verdict import Later, Reason, Refusal
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

PENDING_RESIZE = {"type": "FileSystemResizePending", "status": "True"}


def condition(kind: str, status: str = "True") -> Json:
    return {"conditions": [{"type": kind, "status": status}]}


def asking(size: str) -> Json:
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
                volume(), finalizers=[PROTECTION, PROVISIONER, "external-attacher/linstor"]
            ),
            claim(),
            id="finalizers of Kubernetes and CSI",
        ),
        pytest.param(
            with_metadata(volume(), finalizers=[FINALIZER]), claim(), id="our own finalizer"
        ),
        pytest.param(with_metadata(volume(), finalizers=None), claim(), id="no finalizer"),
        pytest.param(volume(), asking("1024Mi"), id="the same size in other words"),
        pytest.param(volume(), asking("1G"), id="asks for less than it has"),
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
        pytest.param(volume(), claim(volumeAttributesClassName=""), id="no attributes asked for"),
        pytest.param(volume(), claim(resources={}), id="a claim that asks for no size"),
    ],
)
def test_a_volume_at_rest_has_nothing_against_it(pv: Json, its_claim: Json | None) -> None:
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
        pytest.param(volume(), asking("2Gi"), "resize from 1Gi to 2Gi", id="asks for more"),
        pytest.param(volume(), asking("1073741825"), "resize", id="asks for one byte more"),
        pytest.param(volume(), claim(status=condition("Resizing")), "Resizing", id="resizing"),
        pytest.param(
            volume(), claim(status=condition("ModifyingVolume")), "ModifyingVolume", id="modifying"
        ),
        pytest.param(
            volume(),
            claim(volumeAttributesClassName="gold"),
            "volume attributes class",
            id="attributes asked for",
        ),
        pytest.param(
            volume(),
            claim(status={"modifyVolumeStatus": {"status": "InProgress"}}),
            "volume attributes class",
            id="attributes on their way",
        ),
    ],
)
def test_a_volume_on_the_move_is_waited_for(pv: Json, its_claim: Json | None, why: str) -> None:
    against = obstacle(pv, its_claim)

    assert isinstance(against, Later)
    assert (against.reason, against.after > 0) == (Reason.BUSY, True)
    assert why in against.why


def test_a_finalizer_that_nobody_knows_is_refused_by_name() -> None:
    pv = with_metadata(volume(), finalizers=[PROTECTION, "example.com/backup"])

    against = obstacle(pv, claim())

    assert isinstance(against, Refusal)
    assert against.reason is Reason.UNKNOWN_FINALIZER
    assert "example.com/backup" in against.why


@pytest.mark.parametrize("pattern", ["example.com/backup", "example.com/*"])
def test_a_finalizer_may_be_allowed_by_pattern(pattern: str) -> None:
    pv = with_metadata(volume(), finalizers=["example.com/backup"])

    assert obstacle(pv, claim(), allowed_finalizers=[pattern]) is None


def test_an_allowed_finalizer_allows_no_other() -> None:
    pv = with_metadata(volume(), finalizers=["example.org/backup"])

    assert obstacle(pv, claim(), allowed_finalizers=["example.com/*"]) is not None
