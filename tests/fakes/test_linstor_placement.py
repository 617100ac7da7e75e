"""What LINBIT's CSI driver asks a controller for, and how the fake one responds."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.fakes.linstor_server import LinstorServer, LinstorWorld

Json = dict[str, Any]

RD = "/v1/resource-definitions/pvc-1"
FAIL = 1 << 62


@pytest.fixture
def world() -> LinstorWorld:
    world = LinstorWorld()
    for name in ("n1", "n2", "n3"):
        world.add_node(name)
    return world


@pytest.fixture
async def client(world: LinstorWorld) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        LinstorServer(world) as server,
        aiohttp.ClientSession(server.url, timeout=timeout) as client,
    ):
        yield client


async def ask(client: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    async with client.request(method, path, json=body) as response:
        response.raise_for_status()
        return await response.json()


async def made_in_group(client: aiohttp.ClientSession, **select_filter: Any) -> None:
    """A group and a definition with a volume in it, without a replica."""
    await ask(client, "POST", "/v1/resource-groups", {"name": "sc-1"})
    await ask(client, "POST", "/v1/resource-groups/sc-1/volume-groups", {})
    await ask(client, "PUT", "/v1/resource-groups/sc-1", {"select_filter": select_filter})
    definition = {"name": "pvc-1", "resource_group_name": "sc-1"}
    await ask(client, "POST", "/v1/resource-definitions", {"resource_definition": definition})
    volume = {"volume_number": 0, "size_kib": 65536}
    await ask(client, "POST", f"{RD}/volume-definitions", {"volume_definition": volume})


def diskful(world: LinstorWorld) -> set[str]:
    return {r.node.name for r in world.definition("pvc-1").replicas.values() if r.diskful}


async def test_a_definition_has_its_resource_group(client: aiohttp.ClientSession) -> None:
    await made_in_group(client, place_count=1)

    assert (await ask(client, "GET", RD))["resource_group_name"] == "sc-1"
    group = await ask(client, "GET", "/v1/resource-groups/sc-1")
    assert group["select_filter"] == {"place_count": 1}
    assert await ask(client, "GET", "/v1/resource-groups/sc-1/volume-groups") == [
        {"volume_number": 0}
    ]


async def test_the_group_determines_the_number_of_replicas(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    await made_in_group(client, place_count=1)

    for _ in range(2):
        await ask(client, "POST", f"{RD}/autoplace", {})

    assert len(diskful(world)) == 1
    shown = await ask(client, "GET", "/v1/view/resources")
    assert [row["volumes"][0]["state"]["disk_state"] for row in shown] == ["UpToDate"]


async def test_an_additional_replica_is_placed_where_requested(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    await made_in_group(client, place_count=1)
    wish = {"node_name_list": ["n3"], "additional_place_count": 1, "place_count": 1}

    await ask(client, "POST", f"{RD}/autoplace", {"select_filter": wish})

    assert diskful(world) == {"n3"}


async def test_two_replicas_get_a_tie_breaker(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    await made_in_group(client, place_count=2)

    await ask(client, "POST", f"{RD}/autoplace", {})

    assert len(diskful(world)) == 2
    flags = [r.listed_flags for r in world.definition("pvc-1").replicas.values() if not r.diskful]
    assert flags == [["DISKLESS", "DRBD_DISKLESS", "TIE_BREAKER"]]
    shown = await ask(client, "GET", RD)
    assert shown["props"]["DrbdOptions/Resource/quorum"] == "majority"


@pytest.mark.parametrize(
    "select_filter", [{"place_count": 4}, {"place_count": 1, "storage_pool_list": ["other"]}]
)
async def test_too_few_nodes_are_an_error(
    client: aiohttp.ClientSession, world: LinstorWorld, select_filter: Json
) -> None:
    await made_in_group(client, **select_filter)

    async with client.post(f"{RD}/autoplace", json={}) as response:
        assert response.status == 500
        (error,) = await response.json()

    assert error["message"] == "Not enough available nodes"
    assert error["ret_code"] & 0xFFFF == 996
    assert error["ret_code"] & FAIL
    assert diskful(world) == set()


async def test_a_volume_can_be_made_available_diskless(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    await made_in_group(client, place_count=1)
    await ask(client, "POST", f"{RD}/autoplace", {"select_filter": {"node_name_list": ["n1"]}})
    other = f"{RD}/resources/n2"

    for _ in range(2):
        await ask(client, "POST", f"{other}/make-available", {"diskful": False})
    props = {"Aux/csi-created-for": "temporary-diskless-attach"}
    await ask(client, "PUT", f"{other}/volumes/0", {"override_props": props})

    assert diskful(world) == {"n1"}
    (shown,) = await ask(client, "GET", f"{other}/volumes")
    assert shown["provider_kind"] == "DISKLESS"
    assert shown["device_path"] == "/dev/drbd1000"
    assert shown["props"] == props
    view = await ask(client, "GET", "/v1/view/resources?nodes=n2")
    assert view[0]["volumes"] == [shown]


async def test_a_volume_can_be_resized(client: aiohttp.ClientSession) -> None:
    await made_in_group(client)

    await ask(client, "PUT", f"{RD}/volume-definitions/0", {"size_kib": 131072})

    assert (await ask(client, "GET", f"{RD}/volume-definitions/0"))["size_kib"] == 131072


async def test_a_group_in_use_cannot_be_deleted(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    await made_in_group(client)

    async with client.delete("/v1/resource-groups/sc-1") as response:
        assert response.status == 500
        (error,) = await response.json()
    assert error["ret_code"] & 0xFFFF == 501

    await ask(client, "DELETE", f"{RD}/volume-definitions/0")
    await ask(client, "DELETE", RD)
    await ask(client, "DELETE", "/v1/resource-groups/sc-1")

    async with client.get("/v1/resource-groups/sc-1") as response:
        assert response.status == 404


async def test_there_are_no_snapshots(client: aiohttp.ClientSession) -> None:
    await made_in_group(client)

    assert await ask(client, "GET", f"{RD}/snapshots") == []
    assert await ask(client, "GET", "/v1/view/snapshots") == []
    assert await ask(client, "GET", "/v1/remotes/s3") == []
    async with client.get("/v1/key-value-store/csi-backup-mapping") as response:
        assert response.status == 404
