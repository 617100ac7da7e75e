"""Hostile things in the places that a running service reads: it stays up, writes nothing that it
should not, and continues its work.
"""

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.figures import Figures
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Respond
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

ENTRIES = "/api/v1/namespaces/default/configmaps"
SAVED = "Aux/affinity-updater-saved-pv"


def saved(**spec: Any) -> Json:
    """A PersistentVolume as the reference controller saves it, with something wrong in it."""
    made = manifests.volume(
        "pvc-gone",
        claim={
            "metadata": {
                "namespace": "default",
                "name": "claim-x",
                "uid": "u-1",
                "resourceVersion": "1",
            }
        },
        node_affinity=manifests.on_nodes(["n1"]),
    )
    made["metadata"]["uid"] = "11111111-1111-1111-1111-111111111111"
    made["spec"] |= spec
    return made


def named(name: str) -> Json:
    made = saved()
    made["metadata"]["name"] = name
    return made


CSI = saved()["spec"]["csi"]
HOSTILE: dict[str, Json | str] = {
    "another-driver": saved(csi={**CSI, "driver": "ebs.csi.aws.com"}),
    "another-handle": saved(csi={**CSI, "volumeHandle": "pvc-other"}),
    "host-path": saved(hostPath={"path": "/"}),
    "host-path-alone": saved(csi=None, hostPath={"path": "/"}),
    "another-name": named("kube-system-secrets"),
    "a-path": named("../../secrets/all"),
    "a-query": named("pvc-gone?dryRun=All"),
    "wrong-types": saved(csi=[1], claimRef="x", capacity=7),
    "deep": "[" * 3000,
    "no-json": "{",
}


def writes(proxied: ProxiedTestbed) -> list[str]:
    """What was written about volumes and claims, dry runs included."""
    return [
        str(asked)
        for asked in proxied.record
        if asked.method != "GET" and re.search(r"persistentvolume", asked.path)
    ]


async def still_works(testbed: Testbed, service: Service) -> None:
    """Another volume is moved as ever, by the same process."""
    process = service.process
    testbed.world.move("pvc-well", "n1", "n2")
    await testbed.until_on("pvc-well", "n2")
    assert service.process is process
    assert "Traceback" not in service.said()


@pytest.mark.parametrize("name", [n for n in HOSTILE if n != "another-name"])
async def test_a_hostile_saved_pv_on_linstor_causes_no_write(
    proxied: ProxiedTestbed, figures: Figures, name: str
) -> None:
    testbed, hostile = proxied.testbed, HOSTILE[name]
    text = hostile if isinstance(hostile, str) else json.dumps(hostile)
    await testbed.add("pvc-well", ["n1"])
    testbed.place("pvc-gone", ["n1"])
    testbed.world.volume("pvc-gone", 0).props[SAVED] = text

    async with running(proxied.service()) as service:
        await service.until_said("saved PersistentVolume in LINSTOR is ignored")
        assert writes(proxied) == []
        assert not [a for a in proxied.record if a.method == "PUT" and "linstor" in a.label]
        await still_works(testbed, service)
    assert testbed.world.volume("pvc-gone", 0).props[SAVED] == text
    figures.count("hostile inputs survived by the service")


def as_entry(change: Callable[[Json], None]) -> Json:
    """An entry of ours, with something wrong in it."""
    wanted = saved()
    del wanted["metadata"]["uid"]
    tree: Json = {
        "format": 1,
        "pv": "pvc-gone",
        "volume": "pvc-gone/0",
        "uid": "11111111-1111-1111-1111-111111111111",
        "claim": {"namespace": "default", "name": "claim-x", "uid": "u-1"},
        "state": "deleting",
        "holder": "",
        "wanted": wanted,
    }
    change(tree)
    return tree


def put(*path: str, to: Any) -> Callable[[Json], None]:
    def change(tree: Json) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = to

    return change


ENTRY_CHANGES = {
    "another-driver": put("wanted", "spec", "csi", "driver", to="ebs.csi.aws.com"),
    "another-handle": put("volume", to="pvc-other/0"),
    "another-name": put("wanted", "metadata", "name", to="pvc-well"),
    "host-path": put("wanted", "spec", "hostPath", to={"path": "/"}),
    "a-path": put("pv", to="../../secrets/all"),
    "wrong-types": put("wanted", "spec", to=[1, 2, 3]),
    "deep": put("wanted", "spec", "x", to=json.loads("[" * 500 + "]" * 500)),
    "huge": put("wanted", "spec", "persistentVolumeReclaimPolicy", to="x" * 500_000),
}


@pytest.mark.parametrize("name", ENTRY_CHANGES)
async def test_a_hostile_entry_in_a_config_map_causes_no_write(
    proxied: ProxiedTestbed, figures: Figures, name: str
) -> None:
    testbed = proxied.testbed
    await testbed.add("pvc-well", ["n1"])
    entry = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "affinity-journal-pvc-gone",
            "labels": {"linstor-affinity-events/journal": "true"},
        },
        "data": {"entry.json": json.dumps(as_entry(ENTRY_CHANGES[name]))},
    }
    await testbed.cluster.ask("POST", ENTRIES, entry)

    async with running(proxied.service()) as service:
        await service.until_said("journal entry is not valid and is ignored")
        assert writes(proxied) == []
        await still_works(testbed, service)
    preserved = await testbed.cluster.ask("GET", f"{ENTRIES}/affinity-journal-pvc-gone")
    assert preserved["data"] == entry["data"]
    figures.count("hostile inputs survived by the service")


async def test_the_entry_without_the_hostile_change_is_valid(proxied: ProxiedTestbed) -> None:
    """Else the tests above would pass for an entry that nobody would take anyway."""
    testbed = proxied.testbed
    testbed.place("pvc-gone", ["n1"])
    entry = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "affinity-journal-pvc-gone",
            "labels": {"linstor-affinity-events/journal": "true"},
        },
        "data": {"entry.json": json.dumps(as_entry(lambda _: None))},
    }
    await testbed.cluster.ask("POST", ENTRIES, entry)

    async with running(proxied.service()):

        async def back() -> bool:
            return await testbed.cluster.find("/api/v1/persistentvolumes/pvc-gone") is not None

        await until(back, "the volume of a good note is created")
    made = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-gone")
    # Its claim does not exist, so its data is not handed to the reclaimer.
    assert made["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


BIG = 200 * 1024 * 1024
REDIRECT = {"Location": "http://127.0.0.1:1/elsewhere"}
ODD_KIND = {"Content-Type": "text/event-stream; a*" + "1" * 5000 + "=x"}


@pytest.mark.parametrize(
    ("what", "response"),
    [
        pytest.param(
            "linstor get view/resources", lambda: Respond(200, b"[" + b" " * BIG), id="200-MB"
        ),
        pytest.param(
            "linstor get nodes", lambda: Respond(200, b'[{"name":"' + b"x" * BIG), id="200-MB-one"
        ),
        pytest.param(
            "linstor get events/drbd/promotion", lambda: Respond(200, b"", ODD_KIND), id="headers"
        ),
        pytest.param("linstor get nodes", lambda: Respond(307, b"", REDIRECT), id="redirect"),
        pytest.param("linstor get nodes", lambda: Respond(200, b'{"a": 1}'), id="shape"),
        pytest.param("linstor get nodes", lambda: Respond(200, b'[{"ret_code":[]}]'), id="types"),
        pytest.param(
            "linstor get resource-definitions",
            lambda: Respond(500, b'[{"ret_code":{}}]'),
            id="code",
        ),
    ],
)
async def test_oversized_and_empty_responses_do_no_harm(
    proxied: ProxiedTestbed, figures: Figures, what: str, response: Callable[[], Respond]
) -> None:
    testbed = proxied.testbed
    await testbed.add("pvc-well", ["n1"])
    rule = proxied.linstor.on(what, response(), times=2)
    service = proxied.service("--timeout=20s")
    try:
        await service.start()
        await rule.struck.wait()
        await service.until_ready()
        await still_works(testbed, service)
        memory = await service.metric("process_resident_memory_bytes")
    finally:
        await service.kill()
    assert memory < 400 * 2**20
    figures.count("hostile inputs survived by the service")


ODD = ["PVC-üñí", "rd%2F..%2Fnodes", "a?b=c", "x#y", "semi;colon", "plus+and&"]


@pytest.mark.parametrize("name", ODD)
async def test_handles_that_are_not_linstor_names_are_never_requested(
    proxied: ProxiedTestbed, figures: Figures, name: str
) -> None:
    testbed = proxied.testbed
    await testbed.bind("pvc-odd", manifests.on_nodes(["n1"]), handle=name)
    await testbed.add("pvc-well", ["n1"])
    await testbed.until_bound("pvc-odd")

    async with running(proxied.service()) as service:
        await service.until_said("is not a valid LINSTOR volume")
        await still_works(testbed, service)
    odd = {name, name.lower(), quote(name, safe=""), quote(name.lower(), safe="")}
    assert not [each for each in proxied.record if any(part in each.path for part in odd)]
    figures.count("hostile inputs survived by the service")
