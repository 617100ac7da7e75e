"""`check` reports whether each check passes, and how to fix it."""

from typing import Any

import orjson
import pytest

from linstor_affinity_events.adapters.kubernetes.journal import MOST_READS
from linstor_affinity_events.engine.journal_lists import MOST_LISTS
from linstor_affinity_events.model.keys import SAVED_PV_PROPERTY as SAVED
from tests.fakes.linstor_server import LinstorServer, LinstorWorld
from tests.model.manifests import begun, volume, with_metadata
from tests.testbed import manifests
from tests.testbed.command import Said, command
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
ENTRY_LABELS = {"linstor-affinity-events/journal": "true"}


def checks_of(said: Said) -> dict[str, Json]:
    return {each["check"]: each for each in said.json}


def worst(said: Said) -> dict[str, str]:
    return {each["check"]: each["status"] for each in said.json if each["status"] != "ok"}


async def know_nodes(testbed: Testbed) -> None:
    """Have Kubernetes know the nodes that LINSTOR knows."""
    for name in ("n1", "n2", "n3", "n4"):
        if await testbed.cluster.find(f"/api/v1/nodes/{name}") is None:
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            await testbed.cluster.ask("POST", "/api/v1/nodes", node)


async def test_a_healthy_cluster_passes_every_check(testbed: Testbed) -> None:
    await know_nodes(testbed)
    await testbed.add("pvc-1", ["n1"])

    said = await command(testbed, "check", "--output=json")

    assert worst(said) == {}
    assert said.code == 0
    checks = checks_of(said)
    assert checks["kubernetes"]["detail"].startswith("version v1.37.2 at http")
    assert checks["linstor"]["detail"].startswith("version 1.33.3 at http")
    assert checks["permissions"]["detail"] == "all 20 permissions are granted"
    assert "PersistentVolumes are deleted and recreated" in checks["in-place"]["detail"]
    assert checks["nodes"]["detail"] == "LINSTOR and Kubernetes have the same 4 nodes"
    assert checks[f"storage-class {manifests.LOCAL_CLASS}"]["detail"] == "local only"
    assert checks["journal"]["detail"] == "entries can be created in namespace default"
    assert {"linstor-login", "linstor-stream-promotion", "linstor-stream-nodes"} <= checks.keys()


async def test_a_cluster_with_mutable_affinity_is_detected(mutable_testbed: Testbed) -> None:
    await mutable_testbed.add("pvc-1", ["n1"])
    before = await mutable_testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")

    said = await command(mutable_testbed, "check", "-o", "json")

    assert "PersistentVolumes are patched" in checks_of(said)["in-place"]["detail"]
    assert await mutable_testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1") == before


async def test_text_is_one_line_per_check_and_one_for_its_remedy(fake_testbed: Testbed) -> None:
    said = await command(fake_testbed, "check")

    lines = said.out.splitlines()
    at = lines.index("warn  nodes: only in LINSTOR: n1, n2, n3, n4")
    assert lines[0] == "ok    settings: valid"
    assert lines[at + 1].startswith("      pods cannot run on nodes that are not in Kubernetes")


@pytest.mark.parametrize(
    ("verb", "resource", "reported"),
    [
        ("delete", "persistentvolumes", "the account is not allowed to delete persistentvolumes"),
        (
            "create",
            "configmaps",
            "the account is not allowed to create configmaps in namespace default",
        ),
        ("watch", "storageclasses", "the account is not allowed to watch storageclasses"),
    ],
)
async def test_a_missing_permission_is_named(
    fake_testbed: Testbed, verb: str, resource: str, reported: str
) -> None:
    assert fake_testbed.cluster.server is not None
    fake_testbed.cluster.server.access.denied.add((verb, resource))

    said = await command(fake_testbed, "check", "-o", "json")

    assert said.code == 1
    assert checks_of(said)["permissions"]["detail"] == reported
    assert "docs/permissions.md" in checks_of(said)["permissions"]["remedy"]


@pytest.mark.parametrize("text", ["name", "/name", "namespace/", "a/b/c"])
async def test_service_account_must_have_namespace_and_name(
    fake_testbed: Testbed, text: str
) -> None:
    said = await command(fake_testbed, "check", f"--service-account={text}")

    assert said.code == 2
    assert "is not of the form NAMESPACE/NAME" in said.out


async def test_without_permissions_check_reports_what_it_could_not_read(
    fake_testbed: Testbed,
) -> None:
    assert fake_testbed.cluster.server is not None
    fake_testbed.cluster.server.access.denied.add(("*", "*"))

    said = await command(fake_testbed, "check", "-o", "json")

    assert said.code == 1
    assert "Traceback" not in said.err
    assert {"permissions", "volumes", "conflicting-controller", "nodes", "leftovers"} <= worst(
        said
    ).keys()


async def test_a_journal_namespace_that_does_not_exist_is_reported(testbed: Testbed) -> None:
    said = await command(testbed, "check", "-o", "json", "--journal-namespace=is-not-there")

    assert said.code == 1
    journal = checks_of(said)["journal"]
    assert journal["status"] == "fail"
    assert "namespace is-not-there" in journal["detail"]
    assert "--journal-namespace" in journal["detail"]


async def test_unreachable_linstor_is_reported_and_the_rest_checked(fake_testbed: Testbed) -> None:
    said = await command(fake_testbed, "check", "-o", "json", LS_CONTROLLERS="http://127.0.0.1:1")

    assert said.code == 1
    assert worst(said) == {"linstor": "fail"}
    assert "et LS_CONTROLLERS to the address of" in checks_of(said)["linstor"]["remedy"]


@pytest.mark.parametrize("arguments", [("plan",), ("check",), ("migrate-properties",)])
async def test_a_load_balancer_without_a_backend_is_skipped(
    fake_testbed: Testbed, arguments: tuple[str, ...]
) -> None:
    testbed = fake_testbed
    await know_nodes(testbed)
    await testbed.add("pvc-1", ["n1"])
    testbed.world.definition("pvc-1").props[SAVED] = "old"
    world = LinstorWorld()
    world.fail_next("/", 503, b"<html>no backend</html>", times=100)

    async with LinstorServer(world) as balancer:
        both = f"{balancer.url},{testbed.linstor.url}"
        said = await command(testbed, *arguments, LS_CONTROLLERS=both)
    world.close()

    assert (said.code, said.err) == (0, "")
    moved = arguments == ("migrate-properties",)
    assert (SAVED in testbed.world.definition("pvc-1").props) is not moved


async def test_a_linstor_that_requires_tls_is_reported_with_the_setting(
    fake_testbed: Testbed,
) -> None:
    location = "https://linstor-controller:3371/v1/controller/version"
    fake_testbed.world.fail_next("/v1/", 302, headers={"Location": location}, times=100)

    said = await command(fake_testbed, "check", "-o", "json")

    assert said.code == 1
    check = checks_of(said)["linstor"]
    assert check["status"] == "fail"
    assert (
        "set LS_CONTROLLERS=https://linstor-controller:3371, set LS_ROOT_CA_FILE" in check["detail"]
    )


async def test_the_proxy_to_kubernetes_is_named(fake_testbed: Testbed) -> None:
    to_it = {
        "LINSTOR_AFFINITY_SERVER": "http://kube.invalid",
        "HTTP_PROXY": fake_testbed.cluster.url,
    }
    spared = {**to_it, "NO_PROXY": "*.invalid"}

    through = checks_of(await command(fake_testbed, "check", "-o", "json", **to_it))["kubernetes"]
    past = checks_of(await command(fake_testbed, "check", "-o", "json", **spared))["kubernetes"]

    assert through["status"] == "ok"
    assert through["detail"].endswith(f"at http://kube.invalid through {fake_testbed.cluster.url}")
    assert past["status"] == "fail"
    assert "NO_PROXY" in past["remedy"]


async def test_unreachable_kubernetes_is_reported_and_the_rest_checked(
    fake_testbed: Testbed,
) -> None:
    said = await command(
        fake_testbed, "check", "-o", "json", LINSTOR_AFFINITY_SERVER="http://127.0.0.1:1"
    )

    assert said.code == 1
    assert checks_of(said)["kubernetes"]["status"] == "fail"
    assert checks_of(said)["linstor-login"]["status"] == "ok"


async def test_a_login_required_by_linstor_is_reported(fake_testbed: Testbed) -> None:
    fake_testbed.world.login = ("admin", "a password")

    said = await command(fake_testbed, "check", "-o", "json")
    good = await command(
        fake_testbed, "check", "-o", "json", LS_USERNAME="admin", LS_PASSWORD="a password"
    )

    assert checks_of(said)["linstor"]["status"] == "ok"
    assert checks_of(said)["linstor-login"]["status"] == "fail"
    assert "LS_USERNAME" in checks_of(said)["linstor-login"]["remedy"]
    assert checks_of(good)["linstor-login"]["status"] == "ok"
    assert checks_of(good)["linstor-stream-nodes"]["status"] == "ok"


async def test_a_running_conflicting_controller_is_a_failure(fake_testbed: Testbed) -> None:
    labels = {"app.kubernetes.io/name": "linstor-affinity-controller"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
    conflicting = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "conflicting", "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
    }
    await fake_testbed.cluster.ask(
        "POST", "/apis/apps/v1/namespaces/default/deployments", conflicting
    )

    said = await command(fake_testbed, "check", "-o", "json")

    assert said.code == 1
    assert checks_of(said)["conflicting-controller"]["status"] == "fail"
    assert "default/conflicting" in checks_of(said)["conflicting-controller"]["detail"]
    remedy = checks_of(said)["conflicting-controller"]["remedy"]
    assert 0 < remedy.index("spec.affinityController.enabled: false") < remedy.index("$patch")


async def test_a_class_with_an_unreadable_policy_is_a_failure(fake_testbed: Testbed) -> None:
    odd = manifests.storage_class("odd", {"allowRemoteVolumeAccess": "- fromsame: [zone]"})
    await fake_testbed.cluster.ask("POST", "/apis/storage.k8s.io/v1/storageclasses", odd)

    said = await command(fake_testbed, "check", "-o", "json")

    assert said.code == 1
    assert "rule 1 is not of the form fromSame" in checks_of(said)["storage-class odd"]["detail"]


async def test_nodes_that_lack_a_label_are_named(fake_testbed: Testbed) -> None:
    fake_testbed.world.add_node("bare")

    said = await command(fake_testbed, "check", "-o", "json")

    assert said.code == 0
    assert checks_of(said)["node-labels"]["detail"] == "bare lacks topology.kubernetes.io/zone"


async def test_a_node_that_is_too_large_is_named_and_its_labels_are_not_known(
    fake_testbed: Testbed,
) -> None:
    for number in range(150):
        fake_testbed.world.set_node_prop("n4", f"Aux/p{number}", "x" * 4096)

    said = await command(fake_testbed, "check", "-o", "json")

    found = checks_of(said)["node-labels"]
    assert (found["status"], found["detail"].partition(" has ")[0]) == ("warn", "n4")


async def test_leftovers_fail_only_if_checked_alone(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    clean = await command(testbed, "check", "--leftovers")
    mark = {"metadata": {"finalizers": ["linstor-affinity-events/replacing"]}}
    await testbed.cluster.ask("PATCH", "/api/v1/persistentvolumes/pvc-1", mark)

    whole = await command(testbed, "check", "-o", "json")
    alone = await command(testbed, "check", "--leftovers")

    none = "ok    leftovers: there are no unfinished replacements (journal in namespace default)\n"
    assert (clean.code, clean.out) == (0, none)
    assert checks_of(whole)["leftovers"]["status"] == "warn"
    assert whole.code == 0
    assert alone.code == 1
    assert alone.out.startswith("fail  leftovers: unfinished replacements: pvc-1\n")


async def forge_entries(
    testbed: Testbed, number: int, annotations: dict[str, str] | None = None
) -> None:
    """Entries that are not valid, before those of the volumes of these tests."""
    for each in range(number):
        metadata = {
            "name": f"affinity-journal-0{each}",
            "labels": ENTRY_LABELS,
            "annotations": annotations,
        }
        await testbed.cluster.ask("POST", CONFIG_MAPS, {"metadata": metadata})


@pytest.mark.parametrize("annotations", [{}, {"x": "\x01" * 160_000}], ids=["without", "long"])
async def test_leftovers_are_found_among_very_many_forged_entries(
    fake_testbed: Testbed, annotations: dict[str, str]
) -> None:
    """So many that one list is not read to its end, or that not all of them are read."""
    await forge_entries(fake_testbed, 90, annotations)
    text = orjson.dumps(begun(with_metadata(volume(), name="pvc-1")).written()).decode()
    metadata = {"name": "affinity-journal-pvc-1", "labels": ENTRY_LABELS}
    entry = {"metadata": metadata, "data": {"entry.json": text}}
    await fake_testbed.cluster.ask("POST", CONFIG_MAPS, entry)

    said = await command(fake_testbed, "check", "--leftovers")

    assert said.code == 1
    assert said.out.startswith("fail  leftovers: unfinished replacements: pvc-1\n")


async def test_an_entry_that_is_not_valid_may_be_a_leftover(fake_testbed: Testbed) -> None:
    await forge_entries(fake_testbed, 1)

    said = await command(fake_testbed, "check", "--leftovers")

    assert said.code == 1
    assert said.out.startswith("fail  leftovers: there are journal entries that are not valid (1)")
    assert "affinity-journal-00" in said.err


async def test_that_not_all_entries_can_be_listed_is_said(fake_testbed: Testbed) -> None:
    await fake_testbed.add("pvc-1", ["n1"])
    await forge_entries(fake_testbed, MOST_LISTS * MOST_READS + 1)

    checked = await command(fake_testbed, "check", "--leftovers")
    planned = await command(fake_testbed, "plan")

    assert checked.code == 1
    assert checked.out.startswith("fail  leftovers: there are too many journal entries")
    assert planned.code == 0
    assert "there are too many journal entries in namespace default" in planned.err


async def test_invalid_settings_are_listed_and_exit_with_2(fake_testbed: Testbed) -> None:
    said = await command(fake_testbed, "check", "-o", "json", "--workers=0", LS_USERNAME="alone")

    assert said.code == 2
    assert [each["detail"] for each in said.json] == [
        "--workers='0' is below the minimum of 1",
        "LS_USERNAME and LS_PASSWORD must be set together",
    ]


async def test_a_label_that_no_node_has_is_a_failure(fake_testbed: Testbed) -> None:
    racks = manifests.storage_class("racks", {"allowRemoteVolumeAccess": "- fromSame: [rack]"})
    await fake_testbed.cluster.ask("POST", "/apis/storage.k8s.io/v1/storageclasses", racks)

    said = await command(fake_testbed, "check", "-o", "json")

    assert said.code == 1
    assert checks_of(said)["node-labels"]["status"] == "fail"
    assert "no LINSTOR node has rack" in checks_of(said)["node-labels"]["detail"]
