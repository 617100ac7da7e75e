"""`plan` says what `run` then does, and writes nothing."""

from typing import Any

import pytest
import yaml

from tests.e2e.conftest import MakeService
from tests.testbed import manifests
from tests.testbed.command import command
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

PV = "/api/v1/persistentvolumes"
URGENT = "the current node affinity excludes all nodes with data, so no pod can start there"


async def with_drift(testbed: Testbed) -> None:
    """In sync, moved, moved away from every node that is admitted, and unset."""
    for name in ("pvc-good", "pvc-moved", "pvc-away"):
        await testbed.add(name, ["n1", "n2"])
    testbed.place("pvc-unset", ["n1"])
    await testbed.bind("pvc-unset", None)
    await testbed.until_bound("pvc-unset")
    testbed.world.move("pvc-moved", "n1", "n3")
    testbed.world.move("pvc-away", "n1", "n3")
    testbed.world.move("pvc-away", "n2", "n4")


async def test_plan_prints_a_table_of_out_of_sync_volumes(testbed: Testbed) -> None:
    await with_drift(testbed)

    said = await command(testbed, "plan")

    local = f"local only (StorageClass {manifests.LOCAL_CLASS})"
    assert said.rows == [
        ["pvc-away", "default/claim-pvc-away", local, "-n1 -n2 +n3 +n4", "replace", URGENT],
        ["pvc-moved", "default/claim-pvc-moved", local, "-n1 +n3 =n2", "replace"],
        ["pvc-unset", "default/claim-pvc-unset", local, "-everywhere +n1", "patch"],
    ]
    assert said.out.splitlines()[-1] == "4 volumes: 1 in sync, 2 replace, 1 patch."
    assert (said.code, said.err) == (0, "")


async def test_run_does_what_plan_shows(testbed: Testbed, service_on: MakeService) -> None:
    await with_drift(testbed)
    planned = (await command(testbed, "plan", "--all", "--output=json")).json

    async with running(service_on(testbed)) as service:
        for each in planned:
            wanted = each["current"] if each["action"] == "none" else each["wanted"]
            terms = [
                {e["key"]: e["values"][0] for e in term["matchExpressions"]}
                for term in wanted["required"]["nodeSelectorTerms"]
            ]
            await testbed.observer.until_terms(each["volume"], *terms)
        assert await service.stop() == 0

    after = await command(testbed, "plan", "--exit-code")
    assert (after.code, after.rows) == (0, [])


async def test_only_reads_are_sent(proxied: ProxiedTestbed) -> None:
    await with_drift(proxied.testbed)
    peers = {"KUBECONFIG": str(proxied.kubeconfig), "LS_CONTROLLERS": proxied.linstor.url}
    for arguments in (
        ["--all"],
        ["pvc-moved"],
        ["--if-node-gone=n2"],
        ["--if-replica=pvc-good=n4", "--output=json"],
    ):
        proxied.record.forget()

        assert (await command(proxied.testbed, "plan", *arguments, **peers)).code == 0

        assert len(proxied.record.asked) > 5
        assert {asked.method for asked in proxied.record} == {"GET"}


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--exit-code"], 2), ([], 0), (["--exit-code", "pvc-good"], 0)]
)
async def test_the_exit_code_shows_pending_changes_if_requested(
    fake_testbed: Testbed, arguments: list[str], code: int
) -> None:
    await with_drift(fake_testbed)

    assert (await command(fake_testbed, "plan", *arguments)).code == code


@pytest.mark.parametrize(
    ("arguments", "volumes"),
    [
        (["--all"], ["pvc-away", "pvc-good", "pvc-moved", "pvc-unset"]),
        (["--all", "--namespace=default"], ["pvc-away", "pvc-good", "pvc-moved", "pvc-unset"]),
        (["--all", "-n", "elsewhere"], []),
        ([f"--storage-class={manifests.ZONE_CLASS}"], []),
        (["--all", "--node=n4"], ["pvc-away"]),
        (["--all", "--node", "n3"], ["pvc-away", "pvc-moved"]),
        (["pvc-good", "default/claim-pvc-moved"], ["pvc-good", "pvc-moved"]),
    ],
    ids=str,
)
async def test_plan_can_be_filtered(
    fake_testbed: Testbed, arguments: list[str], volumes: list[str]
) -> None:
    await with_drift(fake_testbed)

    said = await command(fake_testbed, "plan", *arguments)

    assert [row[0] for row in said.rows] == volumes


async def test_json_and_yaml_have_the_same_content(fake_testbed: Testbed) -> None:
    await with_drift(fake_testbed)

    as_json = await command(fake_testbed, "plan", "--output=json")
    as_yaml = await command(fake_testbed, "plan", "--output=yaml")

    assert as_json.json == yaml.safe_load(as_yaml.out)
    assert as_json.json[0] == {
        "volume": "pvc-away",
        "claim": "default/claim-pvc-away",
        "storageClass": manifests.LOCAL_CLASS,
        "resource": "pvc-away",
        "volumeNumber": 0,
        "policy": {
            "source": f"StorageClass {manifests.LOCAL_CLASS}",
            "fromSame": [["linbit.com/hostname"]],
        },
        "current": manifests.on_nodes(["n1", "n2"]),
        "wanted": manifests.on_nodes(["n3", "n4"]),
        "action": "replace",
        "urgent": True,
        "reason": None,
        "message": URGENT,
    }


@pytest.mark.parametrize("name", ["pvc-moved", "claim-pvc-moved", "default/claim-pvc-moved"])
async def test_one_volume_is_explained(fake_testbed: Testbed, name: str) -> None:
    testbed = fake_testbed
    await with_drift(testbed)
    testbed.world.place("pvc-moved", "n4", flags=["DISKLESS", "DRBD_DISKLESS"])

    said = await command(testbed, "plan", name)

    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    for line in (
        "PersistentVolume pvc-moved",
        "claim default/claim-pvc-moved",
        "policy local only (StorageClass linstor-local)",
        "affinity n1 or n2",
        "n2: has data; linbit.com/hostname=n2",
        "n4, flags DISKLESS DRBD_DISKLESS: not counted because of DISKLESS, DRBD_DISKLESS",
        "passed it is not being deleted",
        "decides the node affinity does not match policy and replicas",
        "wanted n2 or n3",
        "change -n1 +n3 =n2",
    ):
        assert line in lines


async def test_the_explanation_stops_at_the_rule_that_decides(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"], annotations={"piraeus.io/skip-affinity-controller": "yes"})

    said = await command(testbed, "plan", "pvc-1")

    assert "passed  it is not being deleted" in said.out
    assert (
        "decides skip-annotation: annotation piraeus.io/skip-affinity-controller is set" in said.out
    )
    assert "its remote access policy is valid" not in said.out
    assert "action    skip: do nothing" in said.out


async def test_a_blocked_replacement_is_reported(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    finalizers = {"metadata": {"finalizers": ["example.com/mine", "kubernetes.io/pv-protection"]}}
    await testbed.cluster.ask("PATCH", f"{PV}/pvc-1", finalizers)
    testbed.world.move("pvc-1", "n1", "n2")

    [row] = (await command(testbed, "plan")).rows
    [allowed] = (await command(testbed, "plan", "--allow-finalizer=example.com/*")).rows

    assert row[4] == "refuse"
    assert "example.com/mine" in row[5]
    assert allowed[4] == "replace"


async def test_an_unfinished_replacement_of_an_absent_volume_is_shown(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    testbed: Any = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    async with running(service_on(testbed)) as service:
        testbed.cluster.server.faults.add(
            method="POST", path_regex=rf"{PV}\?(?!.*dryRun)", status=503, times=100
        )
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.observer.until(
            lambda: "pvc-1" not in testbed.observer.volumes, "it is absent"
        )
        await service.kill()

    [row] = (await command(testbed, "plan")).rows

    assert row[0] == "pvc-1"
    assert row[-2:] == ["resume", "it is missing, and is recreated from its journal entry"]


async def test_a_forbidden_journal_is_a_warning(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    assert testbed.cluster.server is not None
    testbed.cluster.server.access.denied.add(("list", "configmaps"))
    await with_drift(testbed)

    said = await command(testbed, "plan")

    assert said.code == 0
    assert len(said.rows) == 3
    assert said.err.startswith("warning: cannot read the journal in namespace default")


async def test_what_if_a_node_is_gone(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1", "n2"])
    await testbed.add("pvc-2", ["n2"])

    said = await command(testbed, "plan", "--if-node-gone", "n2")

    assert [row[:1] + row[3:5] for row in said.rows] == [
        ["pvc-1", "-n2 =n1", "replace"],
        ["pvc-2", "n2", "refuse"],
    ]
    assert "no-replica-with-data" in said.rows[1][5]


async def test_what_if_replicas_are_elsewhere(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    await testbed.add("pvc-2", ["n1"])

    said = await command(testbed, "plan", "--if-replica", "PVC-1=n2,N3")

    assert [[row[0], row[3]] for row in said.rows] == [["pvc-1", "-n1 +n2 +n3"]]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nobody"], "no PersistentVolume, claim or resource of LINSTOR's CSI driver is named"),
        (["--if-node-gone=n9"], "LINSTOR has no node n9; its nodes are n1, n2, n3, n4"),
        (["--if-replica=pvc-1=n9"], "LINSTOR has no node n9"),
        (["--if-replica=nobody=n1"], "no PersistentVolume refers to resource nobody"),
        (["--if-replica=pvc-1"], "is not of the form RESOURCE=NODE,NODE"),
        (["--output=xml"], "xml"),
        (["--workers=none"], "--workers='none' is not a valid integer"),
        (["--no-such-flag"], "No such option"),
    ],
    ids=str,
)
async def test_errors_are_reported_and_exit_with_1(
    fake_testbed: Testbed, arguments: list[str], error: str
) -> None:
    await fake_testbed.add("pvc-1", ["n1"])

    said = await command(fake_testbed, "plan", "--exit-code", *arguments)

    assert (said.code, said.out) == (1, "")
    assert error in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("env", "error"),
    [
        ({"LS_CONTROLLERS": "http://127.0.0.1:1"}, "et LS_CONTROLLERS to the address of"),
        (
            {"LINSTOR_AFFINITY_SERVER": "http://127.0.0.1:1"},
            "--kubeconfig (KUBECONFIG), --context or --server",
        ),
        ({"KUBECONFIG": "/nothing/there"}, "KUBECONFIG='/nothing/there' is not an existing file"),
    ],
    ids=["linstor", "kubernetes", "kubeconfig"],
)
async def test_an_unreachable_peer_is_named_with_its_setting(
    fake_testbed: Testbed, env: dict[str, str], error: str
) -> None:
    said = await command(fake_testbed, "plan", **env)

    assert said.code == 1
    assert error in said.err


async def test_a_hung_satellite_does_not_block_the_plan(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    for number in range(25):
        testbed.place(f"pvc-{number:02}", ["n1"])
        await testbed.bind(f"pvc-{number:02}", manifests.on_nodes(["n2"]))
    testbed.world.hung_satellites.add("n3")

    said = await command(testbed, "plan")

    assert len(said.rows) == 25
