"""`plan` says what `run` then does, and writes nothing."""

from typing import Any

import pytest
import yaml

from tests.e2e.conftest import MakeService
from tests.stage import manifests
from tests.stage.command import command
from tests.stage.proxied import ProxiedStage
from tests.stage.service import running
from tests.stage.stage import Stage

PV = "/api/v1/persistentvolumes"
URGENT = "the current node affinity excludes all nodes with data, so no pod can start there"


async def with_drift(stage: Stage) -> None:
    """Settled, moved, moved away from every node that is admitted, and unset."""
    for name in ("pvc-good", "pvc-moved", "pvc-away"):
        await stage.add(name, ["n1", "n2"])
    stage.place("pvc-unset", ["n1"])
    await stage.bind("pvc-unset", None)
    await stage.until_bound("pvc-unset")
    stage.world.move("pvc-moved", "n1", "n3")
    stage.world.move("pvc-away", "n1", "n3")
    stage.world.move("pvc-away", "n2", "n4")


async def test_plan_prints_a_table_of_out_of_sync_volumes(stage: Stage) -> None:
    await with_drift(stage)

    said = await command(stage, "plan")

    local = f"local only (StorageClass {manifests.LOCAL_CLASS})"
    assert said.rows == [
        ["pvc-away", "default/claim-pvc-away", local, "-n1 -n2 +n3 +n4", "replace", URGENT],
        ["pvc-moved", "default/claim-pvc-moved", local, "-n1 +n3 =n2", "replace"],
        ["pvc-unset", "default/claim-pvc-unset", local, "-everywhere +n1", "patch"],
    ]
    assert said.out.splitlines()[-1] == "4 volumes: 1 in sync, 2 replace, 1 patch."
    assert (said.code, said.err) == (0, "")


async def test_run_does_what_plan_shows(stage: Stage, service_on: MakeService) -> None:
    await with_drift(stage)
    planned = (await command(stage, "plan", "--all", "--output=json")).json

    async with running(service_on(stage)) as service:
        for each in planned:
            wanted = each["current"] if each["action"] == "none" else each["wanted"]
            terms = [
                {e["key"]: e["values"][0] for e in term["matchExpressions"]}
                for term in wanted["required"]["nodeSelectorTerms"]
            ]
            await stage.observer.until_terms(each["volume"], *terms)
        assert await service.stop() == 0

    after = await command(stage, "plan", "--exit-code")
    assert (after.code, after.rows) == (0, [])


async def test_only_reads_are_sent(proxied: ProxiedStage) -> None:
    await with_drift(proxied.stage)
    peers = {"KUBECONFIG": str(proxied.kubeconfig), "LS_CONTROLLERS": proxied.linstor.url}
    for arguments in (
        ["--all"],
        ["pvc-moved"],
        ["--if-node-gone=n2"],
        ["--if-replica=pvc-good=n4", "--output=json"],
    ):
        proxied.record.forget()

        assert (await command(proxied.stage, "plan", *arguments, **peers)).code == 0

        assert len(proxied.record.asked) > 5
        assert {asked.method for asked in proxied.record} == {"GET"}


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--exit-code"], 2), ([], 0), (["--exit-code", "pvc-good"], 0)]
)
async def test_the_exit_code_shows_pending_changes_if_requested(
    fake_stage: Stage, arguments: list[str], code: int
) -> None:
    await with_drift(fake_stage)

    assert (await command(fake_stage, "plan", *arguments)).code == code


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
    fake_stage: Stage, arguments: list[str], volumes: list[str]
) -> None:
    await with_drift(fake_stage)

    said = await command(fake_stage, "plan", *arguments)

    assert [row[0] for row in said.rows] == volumes


async def test_json_and_yaml_have_the_same_content(fake_stage: Stage) -> None:
    await with_drift(fake_stage)

    as_json = await command(fake_stage, "plan", "--output=json")
    as_yaml = await command(fake_stage, "plan", "--output=yaml")

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
async def test_one_volume_is_explained(fake_stage: Stage, name: str) -> None:
    stage = fake_stage
    await with_drift(stage)
    stage.world.place("pvc-moved", "n4", flags=["DISKLESS", "DRBD_DISKLESS"])

    said = await command(stage, "plan", name)

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


async def test_the_explanation_stops_at_the_rule_that_decides(fake_stage: Stage) -> None:
    stage = fake_stage
    await stage.add("pvc-1", ["n1"], annotations={"piraeus.io/skip-affinity-controller": "yes"})

    said = await command(stage, "plan", "pvc-1")

    assert "passed  it is not being deleted" in said.out
    assert (
        "decides skip-annotation: annotation piraeus.io/skip-affinity-controller is set" in said.out
    )
    assert "its remote access policy is valid" not in said.out
    assert "action    skip: do nothing" in said.out


async def test_a_blocked_replacement_is_reported(fake_stage: Stage) -> None:
    stage = fake_stage
    await stage.add("pvc-1", ["n1"])
    finalizers = {"metadata": {"finalizers": ["example.com/mine", "kubernetes.io/pv-protection"]}}
    await stage.cluster.ask("PATCH", f"{PV}/pvc-1", finalizers)
    stage.world.move("pvc-1", "n1", "n2")

    [row] = (await command(stage, "plan")).rows
    [allowed] = (await command(stage, "plan", "--allow-finalizer=example.com/*")).rows

    assert row[4] == "refuse"
    assert "example.com/mine" in row[5]
    assert allowed[4] == "replace"


async def test_an_unfinished_replacement_of_an_absent_volume_is_shown(
    fake_stage: Stage, service_on: MakeService
) -> None:
    stage: Any = fake_stage
    await stage.add("pvc-1", ["n1"])
    async with running(service_on(stage)) as service:
        stage.cluster.server.faults.add(
            method="POST", path_regex=rf"{PV}\?(?!.*dryRun)", status=503, times=100
        )
        stage.world.move("pvc-1", "n1", "n2")
        await stage.observer.until(lambda: "pvc-1" not in stage.observer.volumes, "it is absent")
        await service.kill()

    [row] = (await command(stage, "plan")).rows

    assert row[0] == "pvc-1"
    assert row[-2:] == ["resume", "it is missing, and is recreated from its journal entry"]


async def test_a_forbidden_journal_is_a_warning(fake_stage: Stage) -> None:
    stage = fake_stage
    assert stage.cluster.server is not None
    stage.cluster.server.access.denied.add(("list", "configmaps"))
    await with_drift(stage)

    said = await command(stage, "plan")

    assert said.code == 0
    assert len(said.rows) == 3
    assert said.err.startswith("warning: cannot read the journal in namespace default")


async def test_what_if_a_node_is_gone(fake_stage: Stage) -> None:
    stage = fake_stage
    await stage.add("pvc-1", ["n1", "n2"])
    await stage.add("pvc-2", ["n2"])

    said = await command(stage, "plan", "--if-node-gone", "n2")

    assert [row[:1] + row[3:5] for row in said.rows] == [
        ["pvc-1", "-n2 =n1", "replace"],
        ["pvc-2", "n2", "refuse"],
    ]
    assert "no-replica-with-data" in said.rows[1][5]


async def test_what_if_replicas_are_elsewhere(fake_stage: Stage) -> None:
    stage = fake_stage
    await stage.add("pvc-1", ["n1"])
    await stage.add("pvc-2", ["n1"])

    said = await command(stage, "plan", "--if-replica", "PVC-1=n2,N3")

    assert [[row[0], row[3]] for row in said.rows] == [["pvc-1", "-n1 +n2 +n3"]]


@pytest.mark.parametrize(
    ("arguments", "told"),
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
    fake_stage: Stage, arguments: list[str], told: str
) -> None:
    await fake_stage.add("pvc-1", ["n1"])

    said = await command(fake_stage, "plan", "--exit-code", *arguments)

    assert (said.code, said.out) == (1, "")
    assert told in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("env", "told"),
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
    fake_stage: Stage, env: dict[str, str], told: str
) -> None:
    said = await command(fake_stage, "plan", **env)

    assert said.code == 1
    assert told in said.err


async def test_a_hung_satellite_does_not_block_the_plan(fake_stage: Stage) -> None:
    stage = fake_stage
    for number in range(25):
        stage.place(f"pvc-{number:02}", ["n1"])
        await stage.bind(f"pvc-{number:02}", manifests.on_nodes(["n2"]))
    stage.world.hung_satellites.add("n3")

    said = await command(stage, "plan")

    assert len(said.rows) == 25
