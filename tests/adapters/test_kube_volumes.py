"""Requests for single volumes and claims."""

import json

import pytest

from linstor_affinity_events.adapters.kubernetes.api import MOST_PATH, KubeApi, escaped
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.volumes import KubeVolumes
from linstor_affinity_events.errors import Conflict, Invalid, Missing
from linstor_affinity_events.model.keys import CLASS_ANNOTATION
from linstor_affinity_events.model.manifest import class_of
from linstor_affinity_events.model.names import ClaimName, PvName
from tests.contracts.manifests import volume
from tests.fakes.kube_server import KubeServer
from tests.testbed import manifests


@pytest.mark.parametrize(("namespace", "name"), [("..", "x"), ("default", "A"), ("", "x")])
async def test_a_claim_is_not_read_under_a_name_that_no_claim_has(
    kube: KubeServer, api: KubeApi, namespace: str, name: str
) -> None:
    volumes = KubeVolumes(api, VolumeIndex(lambda _: None))

    assert await volumes.read_claim(ClaimName(namespace=namespace, name=name)) is None
    assert not kube.log.latest


async def test_of_a_claim_only_what_replacements_need_is_kept(
    kube: KubeServer, api: KubeApi
) -> None:
    """Its owner can fill it, and it is kept until the replacement of its volume has ended."""
    wish = manifests.claim("large")
    texts = {f"a/{number}": "x" for number in range(2_000)}
    wish["metadata"] |= {"labels": texts, "annotations": {**texts, CLASS_ANNOTATION: "other"}}
    wish["spec"]["selector"] = {"matchLabels": texts}
    wish["spec"]["resources"]["requests"] |= texts
    made = kube.cluster.create("persistentvolumeclaims", wish, namespace="default")
    volumes = KubeVolumes(api, VolumeIndex(lambda _: None))

    found = await volumes.read_claim(ClaimName(namespace="default", name="large"))

    assert found is not None
    assert len(json.dumps(found)) < 1_000
    assert found["metadata"]["uid"] == made["metadata"]["uid"]
    assert class_of(found) is None
    assert found["spec"]["resources"]["requests"] == {"storage": "1Gi"}


async def test_the_error_about_an_object_is_short_whatever_its_name(api: KubeApi) -> None:
    path = f"/api/v1/persistentvolumes/{escaped('%' * 1000)}"

    with pytest.raises(Missing) as raised:
        await api.get(path)

    assert str(raised.value).startswith(f"GET {path[:MOST_PATH]}")
    assert "%25" * 200 not in str(raised.value)


async def test_text_that_cannot_be_sent_is_rejected(kube: KubeServer, api: KubeApi) -> None:
    """Half a surrogate pair is valid in JSON, as an escape, and so may come from anywhere."""
    volumes = KubeVolumes(api, VolumeIndex(lambda _: None))

    with pytest.raises(Invalid, match="cannot be sent"):
        await volumes.patch(PvName("pv-1"), {"metadata": {"annotations": {"a": "\ud800"}}})

    assert not kube.log.latest


async def test_deleting_a_volume_that_is_gone_is_a_conflict(kube: KubeServer, api: KubeApi) -> None:
    """It had our finalizer, so others have removed it: the request was not what deleted it."""
    made = kube.cluster.create("persistentvolumes", volume("pv-1"))
    volumes = KubeVolumes(api, VolumeIndex(lambda _: None))
    kube.cluster.delete("persistentvolumes", "pv-1")
    kube.cluster.patch("persistentvolumes", "pv-1", {"metadata": {"finalizers": None}})
    assert kube.cluster.get("persistentvolumes", "pv-1") is None

    with pytest.raises(Conflict):
        await volumes.delete(made)
