"""What a volume asks for beyond holding data, and what its class has to do with that."""

import json
from pathlib import Path
from typing import Any

import pytest

from linstor_affinity_events.model.demands import (
    Demands,
    demands_of,
    unconfirmed,
    with_volume_context,
)
from linstor_affinity_events.model.policy import LOCAL_ONLY, StorageClass

Json = dict[str, Any]

OPTIONS = "linstor.csi.linbit.com/mount-options"
COMMANDS = "linstor.csi.linbit.com/post-mount-xfs-opts"
EXPORT = "linstor.csi.linbit.com/nfs-export"
CONTEXT = "linstor.csi.linbit.com/uses-volume-context"


def manifest(*, attributes: Json | None = None, csi: Json | None = None, **spec: Any) -> Json:
    source = {"volumeAttributes": attributes or {}, **(csi or {})}
    claim = {"namespace": "default", "name": "claim"}
    return {"metadata": {"name": "pvc-1"}, "spec": {"csi": source, "claimRef": claim, **spec}}


def of_class(**parameters: str) -> StorageClass:
    options = parameters.pop("options", "").split()
    return StorageClass.read("a", parameters, lambda _: LOCAL_ONLY, mount_options=options)


RECORDED = [
    "kubernetes/persistentvolume-linstor-csi-1.6.json",
    "kubernetes/persistentvolume-linstor-csi-1.11.json",
    "linstor/saved-pv-reference-1.5.json",
]


@pytest.mark.parametrize("name", RECORDED)
def test_a_volume_of_linstor_csi_requires_no_confirmation(name: str) -> None:
    recorded = json.loads((Path(__file__).parents[1] / "data" / name).read_text())

    assert demands_of(recorded) == Demands()
    assert demands_of(with_volume_context(recorded, of_class())) == Demands()


def annotated(**annotations: str) -> Json:
    made = manifest()
    made["metadata"]["annotations"] = annotations
    return made


HARMLESS = {
    "pv.kubernetes.io/bound-by-controller": "yes",
    "volume.alpha.kubernetes.io/pre-resize-capacity": "1Gi",
    "volume.beta.kubernetes.io/storage-class": "a",
    "volume.kubernetes.io/provisioner-deletion-secret-name": "",
    "volume.kubernetes.io/provisioner-deletion-secret-namespace": "",
    "volume.kubernetes.io/controller-modify-secret-namespace": "kube-system",
    "linstor.csi.linbit.com/skip-reclaim": "true",
    "kubectl.kubernetes.io/last-applied-configuration": "{}",
    "app.kubernetes.io/managed-by": "Helm",
    "override.piraeus.io/allowRemoteVolumeAccess": "false",
    "velero.io/backup": "x",
    "notkubernetes.io/x": "y",
    "note": "of a person",
}


@pytest.mark.parametrize("key", HARMLESS)
def test_an_annotation_that_gives_no_rights_requires_no_confirmation(key: str) -> None:
    assert demands_of(annotated(**{key: HARMLESS[key]})) == Demands()


REQUIREMENTS = [
    pytest.param(manifest(mountOptions=["suid", "dev"]), "mount options", id="mount options"),
    pytest.param(manifest(attributes={OPTIONS: "suid"}), "mount options", id="in the context"),
    pytest.param(manifest(mountOptions="suid"), "mount options", id="no list"),
    pytest.param(manifest(mountOptions=[{"a": 1}]), "mount options", id="no texts"),
    pytest.param(
        manifest(attributes={COMMANDS: "x"}), "commands to run on the node", id="commands"
    ),
    pytest.param(manifest(attributes={EXPORT: ""}), "unknown attributes", id="an export"),
    pytest.param(manifest(attributes={"other": "x"}), "unknown attributes", id="an attribute"),
    pytest.param(manifest(csi={"fsType": "sysfs"}), "another file system", id="a file system"),
    pytest.param(manifest(csi={"fsType": ["proc"]}), "another file system", id="no text"),
    pytest.param(
        manifest(csi={"nodeStageSecretRef": {"name": "s", "namespace": "kube-system"}}),
        "Secrets of another namespace",
        id="a Secret",
    ),
    pytest.param(
        annotated(
            **{
                "volume.kubernetes.io/controller-modify-secret-name": "s",
                "volume.kubernetes.io/controller-modify-secret-namespace": "kube-system",
            }
        ),
        "Secrets of another namespace",
        id="a Secret for modifications",
    ),
    *(
        pytest.param(
            annotated(**{key: "6"}), "unknown annotations of Kubernetes or LINSTOR", id=key
        )
        for key in (
            "pv.beta.kubernetes.io/gid",
            "volume.beta.kubernetes.io/mount-options",
            "later.k8s.io/power",
            "kubernetes.io/later",
            "linstor.csi.linbit.com/later",
        )
    ),
]


@pytest.mark.parametrize(("required", "part"), REQUIREMENTS)
@pytest.mark.parametrize("known", [None, of_class(), of_class(options="noatime", mountOpts="ro")])
def test_unknown_values_are_not_confirmed(
    required: Json, part: str, known: StorageClass | None
) -> None:
    assert unconfirmed(demands_of(required), original=None, storage_class=known) == (part,)


@pytest.mark.parametrize(("required", "part"), REQUIREMENTS)
def test_values_of_the_original_are_confirmed(required: Json, part: str) -> None:
    demands = demands_of(required)

    assert unconfirmed(demands, original=demands, storage_class=None) == ()
    assert part


def test_values_of_the_class_are_confirmed() -> None:
    known = of_class(
        options="noatime nodev",
        **{"linstor.csi.linbit.com/mountOpts": "ro,sync", "PostMountXfsOpts": "extsize 2m"},
    )
    required = manifest(
        mountOptions=["noatime", "nodev"], attributes={OPTIONS: "ro,sync", COMMANDS: "extsize 2m"}
    )

    assert unconfirmed(demands_of(required), original=None, storage_class=known) == ()
    assert unconfirmed(demands_of(manifest()), original=None, storage_class=known) == ()


@pytest.mark.parametrize("parameter", ["csi.storage.k8s.io/fstype", "fstype", "fsType"])
def test_a_file_system_of_the_class_is_confirmed(parameter: str) -> None:
    demands = demands_of(manifest(csi={"fsType": "btrfs"}))

    assert unconfirmed(demands, original=None, storage_class=of_class(**{parameter: "btrfs"})) == ()
    assert unconfirmed(demands, original=None, storage_class=of_class(**{parameter: "ext4"})) != ()


@pytest.mark.parametrize("file_system", ["", "ext4", "xfs"])
def test_a_file_system_known_to_linstor_csi_needs_no_confirmation(file_system: str) -> None:
    assert demands_of(manifest(csi={"fsType": file_system})) == Demands()


def test_a_missing_volume_context_is_added() -> None:
    minimal = manifest(attributes={"storage.kubernetes.io/csiProvisionerIdentity": "x"})
    known = of_class(mountOpts="noatime")
    given = with_volume_context(minimal, known)

    assert given["spec"]["csi"]["volumeAttributes"] == {
        "storage.kubernetes.io/csiProvisionerIdentity": "x",
        CONTEXT: "true",
        OPTIONS: "noatime",
        COMMANDS: "",
    }
    assert unconfirmed(demands_of(given), original=None, storage_class=known) == ()
    assert with_volume_context(given, of_class()) == given
    assert (
        unconfirmed(
            demands_of(with_volume_context(minimal, None)), original=None, storage_class=None
        )
        == ()
    )


def test_a_class_of_another_driver_confirms_nothing() -> None:
    foreign = StorageClass.read(
        "a", {}, lambda _: LOCAL_ONLY, is_ours=False, mount_options=["noatime"]
    )
    demands = demands_of(manifest(mountOptions=["noatime"]))

    assert unconfirmed(demands, original=None, storage_class=foreign) == ("mount options",)


@pytest.mark.parametrize("key", ["pv.kubernetes.io/provisioned-by", "pv.kubernetes.io/migrated-to"])
def test_a_provisioner_annotation_of_another_driver_requires_confirmation(key: str) -> None:
    other = manifest()
    other["metadata"]["annotations"] = {key: "ebs.csi.aws.com"}
    ours = manifest()
    ours["metadata"]["annotations"] = {key: "linstor.csi.linbit.com"}

    assert demands_of(ours) == Demands()
    assert unconfirmed(demands_of(other), original=None, storage_class=of_class()) == (
        "the provisioner of another driver",
    )


def test_an_owner_reference_is_not_confirmed_by_a_class() -> None:
    owned = manifest()
    owned["metadata"]["ownerReferences"] = [{"kind": "ConfigMap", "name": "x", "uid": "y"}]

    demands = demands_of(owned)

    assert unconfirmed(demands, original=None, storage_class=of_class()) == ("an owner",)
