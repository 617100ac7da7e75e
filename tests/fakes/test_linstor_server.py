"""The fake controller has the manners that were measured on a real one."""

import asyncio
import gzip
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import linstor
import orjson
import pytest
import trustme

from tests.fakes.linstor_server import NODES, PROMOTION, Event, LinstorServer, LinstorWorld, Timing

PROMOTIONS_PATH, NODES_PATH = "/v1/events/drbd/promotion", "/v1/events/nodes"
EVENTS = {"Accept": "text/event-stream"}
PVC = "/v1/resource-definitions/pvc-1"
TIMEOUT = 10
LONG = 3600.0
"""Longer than any test: what is delayed by it has not happened yet, for certain."""


@pytest.fixture
def world() -> LinstorWorld:
    """pvc-1 with DRBD on n1 and n2, sto-1 without on n1; n3 has nothing yet."""
    world = LinstorWorld()
    for name in ("n1", "n2", "n3"):
        world.add_node(name)
    world.add_definition("pvc-1")
    world.place("pvc-1", "n1")
    world.place("pvc-1", "n2")
    world.add_definition("sto-1", layers=["STORAGE"])
    world.place("sto-1", "n1")
    world.emitted.clear()
    return world


@pytest.fixture
async def server(world: LinstorWorld) -> AsyncIterator[LinstorServer]:
    async with LinstorServer(world) as server:
        yield server
    world.close()


@pytest.fixture
async def client(server: LinstorServer) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as client:
        yield client


async def shown(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200
        return await response.json()


async def flags_shown(client: aiohttp.ClientSession, rd: str) -> dict[str, list[str]]:
    rows = await shown(client, f"/v1/resource-definitions/{rd}/resources")
    return {row["node_name"]: row.get("flags", []) for row in rows}


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(TIMEOUT):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


async def next_event(response: aiohttp.ClientResponse) -> tuple[str, dict[str, Any]]:
    raw = await response.content.readuntil(b"\n\n")
    event, data, *rest = raw.decode().split("\n")
    assert rest == ["", ""]
    return event.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))


async def till_it_breaks(stream: aiohttp.ClientResponse) -> tuple[bytes, Exception | None]:
    """All that came and what ended it; None is a proper end."""
    whole = b""
    try:
        while piece := await stream.content.readany():
            whole += piece
    except aiohttp.ClientError as error:
        return whole, error
    return whole, None


def events_of(world: LinstorWorld, stream: str) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, dict(event.payload)) for event in world.emitted if event.stream == stream]


def promotion(node: str, may_promote: bool | None, rd: str = "pvc-1") -> tuple[str, dict[str, Any]]:
    payload: dict[str, Any] = {"resource_name": rd, "node_name": node}
    if may_promote is not None:
        payload["may_promote"] = may_promote
    return "may-promote-change", payload


# Looking


async def test_names_ignore_case_and_keep_the_first_spelling(
    client: aiohttp.ClientSession,
) -> None:
    rows = await shown(client, "/v1/resource-definitions/PVC-1/resources")

    assert {row["name"] for row in rows} == {"pvc-1"}


async def test_a_definition_without_replicas_shows_an_empty_list(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.add_definition("pvc-new")

    assert await shown(client, "/v1/resource-definitions/pvc-new/resources") == []


async def test_an_unknown_path_has_another_404_than_an_unknown_definition(
    client: aiohttp.ClientSession,
) -> None:
    nowhere = await client.get("/v1/nonsense")
    nothing = await client.get("/v1/resource-definitions/nope")

    assert nowhere.status == nothing.status == 404
    assert (await nowhere.json())[0]["ret_code"] != (await nothing.json())[0]["ret_code"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["pvc-1", "sto-1"]),
        ("?resource_definitions=STO-1", ["sto-1"]),
        ("?resource_definitions=nope", []),
        ("?limit=1", ["pvc-1"]),
        ("?limit=1&offset=1", ["sto-1"]),
    ],
)
async def test_definitions_can_be_filtered_and_paged(
    client: aiohttp.ClientSession, query: str, names: list[str]
) -> None:
    rows = await shown(client, f"/v1/resource-definitions{query}")

    assert [row["name"] for row in rows] == names
    assert all("volume_definitions" not in row for row in rows)


async def test_the_view_can_be_filtered_by_resource_and_node(
    client: aiohttp.ClientSession,
) -> None:
    rows = await shown(client, "/v1/view/resources?resources=pvc-1&nodes=N2")

    assert [(row["name"], row["node_name"]) for row in rows] == [("pvc-1", "n2")]
    assert rows[0]["volumes"]


async def test_definitions_show_the_shared_secret_of_drbd(client: aiohttp.ClientSession) -> None:
    rows = await shown(client, "/v1/resource-definitions")

    assert rows[0]["layer_data"][0]["data"]["secret"] == "drbd-secret-pvc-1"


async def test_only_long_responses_are_compressed_and_only_on_request(
    server: LinstorServer,
) -> None:
    async with aiohttp.ClientSession(server.url, auto_decompress=False) as client:
        ask = {"Accept-Encoding": "gzip"}
        long = await client.get("/v1/nodes", headers=ask)
        short = await client.get("/v1/controller/version", headers=ask)
        plain = await client.get("/v1/nodes", headers={"Accept-Encoding": "identity"})

        assert long.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await long.read()) == await plain.read()
        assert "Content-Encoding" not in short.headers
        assert "Content-Encoding" not in plain.headers


async def test_idle_connections_are_closed(world: LinstorWorld) -> None:
    async with LinstorServer(world, keepalive=0.05) as server, asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /v1/controller/version HTTP/1.1\r\nHost: x\r\n\r\n")

        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_requests_are_counted_by_route(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    for name in ("pvc-1", "sto-1"):
        await shown(client, f"/v1/resource-definitions/{name}/resources")

    assert world.requests == {"GET /v1/resource-definitions/{rd}/resources": 2}
    assert world.bytes_sent["GET /v1/resource-definitions/{rd}/resources"] > 0


# Logging in


@pytest.mark.parametrize(
    ("authorization", "ret_code"),
    [
        pytest.param(None, -4611686018427377903, id="none given"),
        pytest.param("Basic bm9ib2R5Ondyb25n", -4611686018427377904, id="wrong password"),
        pytest.param("Bearer wrong", -4611686018427377904, id="wrong token"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/nodes", PROMOTIONS_PATH])
async def test_without_the_right_credentials_the_response_is_a_400(
    client: aiohttp.ClientSession,
    world: LinstorWorld,
    authorization: str | None,
    ret_code: int,
    path: str,
) -> None:
    world.login, world.bearer = ("admin", "secret"), "token"
    headers = EVENTS | ({"Authorization": authorization} if authorization else {})

    response = await client.get(path, headers=headers)

    assert response.status == 400
    assert (await response.json())[0]["ret_code"] == ret_code


async def test_the_right_credentials_are_accepted(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.login, world.bearer = ("admin", "secret"), "token"

    basic = await client.get("/v1/nodes", headers={"Authorization": "Basic YWRtaW46c2VjcmV0"})
    bearer = await client.get("/v1/nodes", headers={"Authorization": "Bearer token"})
    version = await client.get("/v1/controller/version")

    assert (basic.status, bearer.status, version.status) == (200, 200, 200)


# Replicas in motion


async def test_a_new_replica_is_listed_at_once_and_has_an_event_when_drbd_is_up(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as stream:
        world.create_replica("pvc-1", "n3")
        before = events_of(world, PROMOTION)
        rows = await flags_shown(client, "pvc-1")

        assert before == []
        assert rows["n3"] == []
        assert await next_event(stream) == promotion("n3", True)


async def test_at_the_event_of_a_deletion_the_replica_is_still_listed_with_the_flag(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.timing = Timing(delete_delay=LONG)

    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as stream:
        world.delete_replica("pvc-1", "n2")

        assert await next_event(stream) == promotion("n2", None)
        assert (await flags_shown(client, "pvc-1"))["n2"] == ["DELETE", "DRBD_DELETE"]


async def test_no_event_follows_when_a_deleted_replica_is_removed(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.delete_replica("pvc-1", "n2")
    await world.until_idle()

    assert await flags_shown(client, "pvc-1") == {"n1": []}
    assert events_of(world, PROMOTION) == [promotion("n2", None)]


async def test_a_deletion_can_be_flagged_before_its_event(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.timing = Timing(delete_event_delay=LONG)

    world.delete_replica("pvc-1", "n2")

    assert (await flags_shown(client, "pvc-1"))["n2"] == ["DELETE", "DRBD_DELETE"]
    assert not world.emitted


async def test_a_replica_deleted_before_it_was_up_never_comes_up(world: LinstorWorld) -> None:
    world.create_replica("pvc-1", "n3")
    world.delete_replica("pvc-1", "n3")
    await world.until_idle()

    assert events_of(world, PROMOTION) == [promotion("n3", None)]


async def test_a_replica_deleted_on_an_offline_node_stays_until_the_node_is_back(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.go_offline("n2")
    world.emitted.clear()

    world.delete_replica("pvc-1", "n2")
    await world.until_idle()

    assert (await flags_shown(client, "pvc-1"))["n2"] == ["DELETE", "DRBD_DELETE"]
    assert not world.emitted
    world.come_online("n2")
    await world.until_idle()
    assert await flags_shown(client, "pvc-1") == {"n1": []}


async def test_without_drbd_there_are_no_events(world: LinstorWorld) -> None:
    world.create_replica("sto-1", "n2")
    await world.until_idle()
    world.delete_replica("sto-1", "n1")
    world.go_offline("n2")
    world.come_online("n2")
    await world.until_idle()

    assert set(world.definition("sto-1").replicas) == {"N2"}
    assert all(payload["resource_name"] != "sto-1" for _, payload in events_of(world, PROMOTION))


def watched_flags(world: LinstorWorld, rd: str, node: str) -> list[frozenset[str]]:
    """The replica's flags at the moment of each event, filled as events come."""
    flags: list[frozenset[str]] = []

    def entry(events: Sequence[Event]) -> None:
        flags.extend(world.replica(rd, node).flags for _ in events)

    world.listen(entry)
    return flags


async def test_adding_a_disk_sends_an_event_while_flags_change_and_not_afterwards(
    world: LinstorWorld,
) -> None:
    world.place("pvc-1", "n3", diskless=True)
    flags_at_event = watched_flags(world, "pvc-1", "n3")

    world.toggle_disk("pvc-1", "n3", False)
    await world.until_idle()

    assert flags_at_event == [{"DISKLESS", "DRBD_DISKLESS", "DISK_ADDING"}]
    assert events_of(world, PROMOTION) == [promotion("n3", True)]
    assert world.replica("pvc-1", "n3").flags == frozenset()


async def test_removing_a_disk_sends_an_event_after_flags_are_stable(world: LinstorWorld) -> None:
    flags_at_event = watched_flags(world, "pvc-1", "n2")

    world.toggle_disk("pvc-1", "n2", True)
    asked = world.replica("pvc-1", "n2").flags
    await world.until_idle()

    assert asked == {"DISK_REMOVE_REQUESTED"}
    assert flags_at_event == [{"DISKLESS", "DRBD_DISKLESS"}]
    assert events_of(world, PROMOTION) == [promotion("n2", False)]


async def test_a_move_ends_on_the_new_node_and_overlaps_on_both(world: LinstorWorld) -> None:
    world.move("pvc-1", "n1", "n3")
    during = set(world.definition("pvc-1").replicas)
    await world.until_idle()

    assert during == {"N1", "N2", "N3"}
    assert set(world.definition("pvc-1").replicas) == {"N2", "N3"}


async def test_a_silent_move_sends_no_event(world: LinstorWorld) -> None:
    world.move_silently("pvc-1", "n1", "n3")

    assert set(world.definition("pvc-1").replicas) == {"N2", "N3"}
    assert not world.emitted


async def test_a_pod_changes_which_other_replicas_may_promote(world: LinstorWorld) -> None:
    world.promote("pvc-1", "n1")
    world.demote("pvc-1", "n1")

    assert events_of(world, PROMOTION) == [promotion("n2", False), promotion("n2", True)]


async def test_a_definition_in_deletion_has_the_flag_of_its_replicas(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.timing = Timing(delete_delay=LONG)

    world.delete_definition("pvc-1")

    assert (await shown(client, PVC))["flags"] == ["DELETE"]
    assert (await flags_shown(client, "pvc-1"))["n1"] == ["DELETE", "DRBD_DELETE"]


async def test_a_deleted_definition_is_removed_with_its_last_replica(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.delete_definition("pvc-1")
    await world.until_idle()

    assert (await client.get(f"{PVC}/resources")).status == 404


async def test_flags_can_be_set_without_an_event(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.set_flags("pvc-1", "n2", ["INACTIVE"])

    assert (await flags_shown(client, "pvc-1"))["n2"] == ["INACTIVE"]
    assert not world.emitted


# Nodes


async def test_losing_a_satellite_sends_one_event_per_replica_and_hides_its_state(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.go_offline("n2")

    rows = await shown(client, f"{PVC}/resources")
    lost = next(row for row in rows if row["node_name"] == "n2")
    nodes = await shown(client, "/v1/nodes")
    assert "state" not in lost
    assert (
        lost["layer_object"]["drbd"]
        .keys()
        .isdisjoint({"may_promote", "promotion_score", "connections"})
    )
    assert {node["name"]: node["connection_status"] for node in nodes}["n2"] == "OFFLINE"
    assert events_of(world, PROMOTION) == [promotion("n2", None)]
    assert events_of(world, NODES) == []


async def test_a_reconnected_satellite_sends_one_event_per_replica(world: LinstorWorld) -> None:
    world.go_offline("n2")
    world.emitted.clear()

    world.come_online("n2")

    assert events_of(world, PROMOTION) == [promotion("n2", True)]
    assert events_of(world, NODES) == []


async def test_a_lost_node_is_removed_without_an_event(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    await client.delete("/v1/nodes/n2/lost")

    assert await flags_shown(client, "pvc-1") == {"n1": []}
    assert not world.emitted


async def test_an_evacuation_moves_replicas_to_healthy_nodes(world: LinstorWorld) -> None:
    world.add_node("n4")
    world.go_offline("n3")

    world.evacuate("n1")
    marked = world.replica("pvc-1", "n1").flags
    await world.until_idle()

    assert marked == {"EVACUATE"}
    assert set(world.definition("pvc-1").replicas) == {"N2", "N4"}
    assert not world.node("n1").replicas
    assert [name for name, _ in events_of(world, NODES) if name != "node-create"] == [
        "node-evacuate"
    ]


async def test_an_evacuation_moves_replicas_to_the_given_nodes(world: LinstorWorld) -> None:
    world.add_node("n4")

    world.evacuate("n1", target="n4")
    await world.until_idle()

    assert set(world.definition("pvc-1").replicas) == {"N2", "N4"}


async def test_a_restored_node_is_complete_again(world: LinstorWorld) -> None:
    world.evict("n1")
    evicted = world.replica("pvc-1", "n1").flags

    world.restore("n1")

    assert evicted == {"EVICTED"}
    assert world.replica("pvc-1", "n1").flags == frozenset()
    assert [name for name, _ in events_of(world, NODES)] == ["node-evicted", "node-restored"]
    assert "flags" not in events_of(world, NODES)[-1][1]["node"]


async def test_a_deleted_node_has_an_event(world: LinstorWorld) -> None:
    world.delete_node("n3")

    [(name, payload)] = events_of(world, NODES)
    assert (name, payload["node"]["name"]) == ("node-delete", "n3")


async def test_labels_and_host_name_become_properties(
    world: LinstorWorld,
) -> None:
    topology = world.add_node("n4", labels={"zone": "z1"})
    flat = world.add_node("n5", labels={"kubernetes.io/hostname": "other"}, namespace="Aux")
    minimal = world.add_node("n6", hostname_label=False)

    assert topology.props["Aux/topology/zone"] == "z1"
    assert topology.props["Aux/topology/kubernetes.io/hostname"] == "n4"
    assert flat.props["Aux/kubernetes.io/hostname"] == "other"
    assert not any("hostname" in key for key in minimal.props)


# Properties


async def test_a_property_can_be_written_and_removed(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    path = f"{PVC}/volume-definitions/0"
    # A list asked for before must not be remembered.
    await shown(client, "/v1/resource-definitions?with_volume_definitions=true")

    await client.put(path, json={"override_props": {"Aux/a": "1", "Aux/b": "2"}})
    await client.put(path, json={"override_props": {}, "delete_props": ["Aux/a"]})

    props = (await shown(client, path))["props"]
    assert "Aux/a" not in props
    assert props["Aux/b"] == "2"
    listed = await shown(client, "/v1/resource-definitions?with_volume_definitions=true")
    assert listed[0]["volume_definitions"][0]["props"] == props
    assert not world.emitted


async def test_a_property_too_long_is_not_stored(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    body = {"override_props": {"Aux/short": "1", "Aux/long": "x" * 4097}}

    refused = await client.put(PVC, json=body)
    body["override_props"]["Aux/long"] = "x" * 4096
    taken = await client.put(f"{PVC}/volume-definitions/0", json=body)

    assert (refused.status, taken.status) == (500, 200)
    assert "Aux/short" not in world.definition("pvc-1").props
    assert len(world.volume("pvc-1", 0).props["Aux/long"]) == 4096


async def test_a_hung_satellite_fails_the_view_and_writes_that_are_stored(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.hung_satellites.add("N2")

    write = await client.put(PVC, json={"override_props": {"Aux/a": "1"}})
    view = await client.get("/v1/view/resources")
    others = [await client.get(path) for path in ("/v1/nodes", PVC, f"{PVC}/resources")]

    assert (write.status, view.status) == (500, 500)
    assert "message" not in (await view.json())[0]
    assert world.definition("pvc-1").props["Aux/a"] == "1"
    assert [response.status for response in others] == [200, 200, 200]


async def test_a_write_is_stored_even_if_the_client_disconnects(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.timing = Timing(property_write_delay=LONG)

    body = {"override_props": {"Aux/a": "1"}}
    writing = asyncio.create_task(put(client, PVC, body))
    await until(lambda: "Aux/a" in world.definition("pvc-1").props)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert (await shown(client, PVC))["props"]["Aux/a"] == "1"


async def put(client: aiohttp.ClientSession, path: str, body: object) -> int:
    async with client.put(path, json=body) as response:
        return response.status


# Changing things over REST


async def test_replicas_can_be_created_toggled_and_deleted_over_rest(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    created = await client.post(f"{PVC}/resources", json=[{"resource": {"node_name": "n3"}}])
    await world.until_idle()
    toggled = await client.put(f"{PVC}/resources/n3/toggle-disk/diskless")
    await world.until_idle()
    flags = await flags_shown(client, "pvc-1")
    deleted = await client.delete(f"{PVC}/resources/n3")
    await world.until_idle()

    assert (created.status, toggled.status, deleted.status) == (201, 200, 200)
    assert flags["n3"] == ["DISKLESS", "DRBD_DISKLESS"]
    assert set(await flags_shown(client, "pvc-1")) == {"n1", "n2"}


async def test_creating_an_existing_object_is_an_error_500(client: aiohttp.ClientSession) -> None:
    replica = await client.post(f"{PVC}/resources/n1", json={})
    body = {"resource_definition": {"name": "PVC-1"}}
    definition = await client.post("/v1/resource-definitions", json=body)

    assert (replica.status, definition.status) == (500, 500)


async def test_deleting_a_missing_object_is_a_warning(client: aiohttp.ClientSession) -> None:
    for path in (f"{PVC}/resources/n3", "/v1/resource-definitions/nope", "/v1/nodes/nope"):
        response = await client.delete(path)

        ret_code = (await response.json())[0]["ret_code"] % (1 << 64)
        assert response.status == 200
        assert ret_code >> 62 == 0b10


async def test_a_replica_in_use_cannot_be_deleted_over_rest(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.promote("pvc-1", "n1")

    response = await client.delete(f"{PVC}/resources/n1")

    assert response.status == 500
    assert world.replica("pvc-1", "n1").flags == frozenset()


# Streams


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
@pytest.mark.parametrize("path", [PROMOTIONS_PATH, NODES_PATH])
async def test_a_stream_requires_the_right_accept_header(
    client: aiohttp.ClientSession, path: str, accept: str
) -> None:
    response = await client.get(path, headers={"Accept": accept})

    assert response.status == 500


async def test_the_current_state_is_sent_to_every_subscriber(
    client: aiohttp.ClientSession, server: LinstorServer
) -> None:
    expected = [promotion("n1", True), promotion("n2", True)]

    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as first:
        await server.subscribed(PROMOTION)
        headers = EVENTS | {"Last-Event-ID": "current"}
        async with client.get(PROMOTIONS_PATH, headers=headers) as second:
            for stream in (first, second):
                assert [await next_event(stream), await next_event(stream)] == expected


async def test_a_stream_contains_nothing_but_its_frames(
    client: aiohttp.ClientSession, world: LinstorWorld, server: LinstorServer
) -> None:
    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as stream:
        await server.subscribed(PROMOTION)
        world.set_node_prop("n1", "Aux/x", "1")
        world.promote("pvc-1", "n1")
        world.demote("pvc-1", "n1")
        await server.stop_listening()

        whole, why = await till_it_breaks(stream)

    assert isinstance(why, aiohttp.ClientPayloadError)
    assert "Content-Encoding" not in stream.headers
    assert whole == (
        b"event: may-promote-change\n"
        b'data: {"resource_name":"pvc-1","node_name":"n2","may_promote":false}\n\n'
        b"event: may-promote-change\n"
        b'data: {"resource_name":"pvc-1","node_name":"n2","may_promote":true}\n\n'
    )


async def test_events_are_logged_with_the_time_of_their_writing(
    client: aiohttp.ClientSession, world: LinstorWorld, server: LinstorServer
) -> None:
    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as stream:
        await server.subscribed(PROMOTION)
        before = time.monotonic()
        world.promote("pvc-1", "n1")
        name, payload = await next_event(stream)
        after = time.monotonic()

    [event] = world.emitted
    assert event == Event(event.at, PROMOTION, name, payload)
    assert before <= event.at <= after


async def test_a_burst_is_one_write_and_a_slow_reader_blocks_no_other(
    client: aiohttp.ClientSession, world: LinstorWorld, server: LinstorServer
) -> None:
    for number in range(5000):
        world.add_definition(f"many-{number}")
        world.place(f"many-{number}", "n3")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    request = f"GET {PROMOTIONS_PATH} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(request.encode())
    await server.subscribed(PROMOTION)

    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as stream:
        await server.subscribed(PROMOTION, 2)
        for _ in range(5):
            world.go_offline("n3")
            world.come_online("n3")
        for _ in range(50_000):
            await stream.content.readuntil(b"\n\n")

    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_stream_can_be_cut_within_a_frame(
    client: aiohttp.ClientSession, server: LinstorServer
) -> None:
    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as stream:
        await server.subscribed(PROMOTION)
        server.cut_streams(mid_frame=True)

        whole, why = await till_it_breaks(stream)

    assert why is not None
    assert whole.startswith(b"event: may-promote-change\ndata: {")
    assert not whole.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("hang_up", "abrupt"),
    [
        pytest.param(LinstorServer.end_streams, False, id="FIN"),
        pytest.param(LinstorServer.cut_streams, True, id="RST"),
    ],
)
async def test_a_stream_never_ends_properly(
    server: LinstorServer, hang_up: Callable[[LinstorServer], None], abrupt: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    request = f"GET {NODES_PATH} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(request.encode())
    await server.subscribed(NODES)
    await reader.readuntil(b"\r\n\r\n")

    hang_up(server)
    rest, reset = b"", False
    try:
        async with asyncio.timeout(TIMEOUT):
            while chunk := await reader.read(1024):
                rest += chunk
    except ConnectionResetError:
        reset = True

    assert reset is abrupt
    assert b"0\r\n\r\n" not in rest
    writer.close()


async def test_a_paused_stream_sends_nothing_and_stays_open_until_resumed(
    client: aiohttp.ClientSession, world: LinstorWorld, server: LinstorServer
) -> None:
    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as stream:
        await server.subscribed(PROMOTION)
        server.pause_streams()
        world.promote("pvc-1", "n1")
        await shown(client, "/v1/nodes")
        unresponsive = stream.content.total_bytes == 0 and not stream.content.at_eof()
        server.resume_streams()

        assert unresponsive
        assert await next_event(stream) == promotion("n2", False)


async def test_hostile_bytes_are_sent_unchanged(
    client: aiohttp.ClientSession, server: LinstorServer
) -> None:
    async with client.get(NODES_PATH, headers=EVENTS) as stream:
        await server.subscribed(NODES)
        server.send_raw(NODES, b"data: \xff{\n\n")

        assert await stream.content.readuntil(b"\n\n") == b"data: \xff{\n\n"


async def test_a_disconnected_client_is_dropped(
    client: aiohttp.ClientSession, server: LinstorServer
) -> None:
    async with client.get(NODES_PATH, headers=EVENTS):
        await server.subscribed(NODES, 1)

    async with asyncio.timeout(TIMEOUT):
        await server.subscribed(NODES, 0)


# A broken controller


async def test_a_stopped_listener_refuses_connections_and_restarts_on_its_port(
    client: aiohttp.ClientSession, server: LinstorServer
) -> None:
    url = server.url
    await server.stop_listening()

    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get("/v1/nodes")
    await server.start_listening()
    assert server.url == url
    assert await shown(client, "/v1/nodes")


async def test_on_standby_connections_are_closed_without_response(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.standby = True

    with pytest.raises(aiohttp.ClientConnectionError):
        await client.put(PVC, json={"override_props": {"Aux/a": "1"}})

    assert "Aux/a" not in world.definition("pvc-1").props


async def test_injected_responses_are_sent_as_often_as_configured(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    world.fail_next("/v1/nodes", 502, b"<html>", times=2)
    world.fail_next("/v1/nodes", 200, {"not": "a list"})
    world.fail_next("/v1/view", 302, headers={"Location": "https://elsewhere/"})

    statuses = [(await client.get("/v1/nodes")).status for _ in range(2)]
    wrong = await shown(client, "/v1/nodes")
    right = await shown(client, "/v1/nodes")
    redirect = await client.get("/v1/view/resources", allow_redirects=False)

    assert statuses == [502, 502]
    assert wrong == {"not": "a list"}
    assert len(right) == 3
    assert redirect.headers["Location"] == "https://elsewhere/"


async def test_hanging_rest_does_not_affect_the_streams(
    client: aiohttp.ClientSession, world: LinstorWorld, server: LinstorServer
) -> None:
    world.rest_hang = True

    with pytest.raises(TimeoutError):
        await client.get("/v1/nodes", timeout=aiohttp.ClientTimeout(total=0.1))
    async with client.get(PROMOTIONS_PATH, headers=EVENTS) as stream:
        await server.subscribed(PROMOTION)
        world.promote("pvc-1", "n1")
        assert await next_event(stream) == promotion("n2", False)


async def test_shutdown_does_not_wait_for_streams_or_hung_requests(world: LinstorWorld) -> None:
    world.rest_hang = True
    async with aiohttp.ClientSession() as client:
        async with LinstorServer(world) as server:
            stream = await client.get(server.url + PROMOTIONS_PATH, headers=EVENTS)
            hung = asyncio.create_task(get(client, f"{server.url}/v1/nodes"))
            await server.subscribed(PROMOTION)
            await until(lambda: world.requests["GET /v1/nodes"] == 1)
            began = time.monotonic()
        took = time.monotonic() - began

        with pytest.raises(aiohttp.ClientError):
            await hung
        stream.close()
    assert took < 0.5


async def get(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(url) as response:
        return response.status


async def test_tls_is_served_with_a_context(world: LinstorWorld) -> None:
    authority = trustme.CA()
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    foreign = ssl.create_default_context()
    authority.configure_trust(foreign)

    async with (
        LinstorServer(world, ssl_context=ours) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=foreign)) as client,
    ):
        assert server.url.startswith("https://")
        async with client.get(server.url + PROMOTIONS_PATH, headers=EVENTS) as stream:
            await server.subscribed(PROMOTION)
            world.promote("pvc-1", "n1")
            assert await next_event(stream) == promotion("n2", False)


# Other people's programs


async def test_the_client_of_linbit_works_with_it(
    server: LinstorServer, world: LinstorWorld
) -> None:
    def work() -> dict[str, Any]:
        with linstor.Linstor(server.url.replace("http://", "linstor://")) as client:
            observed: dict[str, Any] = {
                "nodes": [node.name for node in client.node_list_raise().nodes],
                "definitions": [
                    definition.name
                    for definition in client.resource_dfn_list_raise().resource_definitions
                ],
                "resources": [
                    (row.name, row.node_name) for row in client.resource_list_raise().resources
                ],
            }
            replies = client.resource_dfn_create("pvc-9")
            replies += client.volume_dfn_create("pvc-9", 8192)
            replies += client.resource_create([linstor.ResourceData("n1", "pvc-9")])
            replies += client.resource_create([linstor.ResourceData("n3", "pvc-1", diskless=True)])
            replies += client.resource_delete("n1", "pvc-9")
            replies += client.resource_dfn_modify("pvc-1", {"Aux/x": "y"})
            replies += client.node_evacuate("n2")
            observed["all well"] = client.all_api_responses_success(replies)
            observed["refusal"] = client.resource_dfn_modify("nope", {"Aux/x": "y"})[0].message
            return observed

    observed = await asyncio.to_thread(work)
    await world.until_idle()

    assert observed == {
        "nodes": ["n1", "n2", "n3"],
        "definitions": ["pvc-1", "sto-1"],
        "resources": [("pvc-1", "n1"), ("pvc-1", "n2"), ("sto-1", "n1")],
        "all well": True,
        "refusal": "Resource definition 'nope' not found.",
    }
    assert world.definition("pvc-9").volumes.keys() == {0}
    assert not world.definition("pvc-9").replicas
    assert world.definition("pvc-1").props["Aux/x"] == "y"
    assert world.node("n2").flags == {"EVACUATE"}


@pytest.fixture
async def program() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The fake as a program of its own, and its URL."""
    arguments = ["-m", "tests.fakes.linstor_server", "--port", "0", "--definitions", "2"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        url = (await process.stdout.readline()).decode().strip()
    yield process, url
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_as_a_program_it_serves_has_controls_and_stops_on_a_signal(
    program: tuple[asyncio.subprocess.Process, str], number: signal.Signals
) -> None:
    process, url = program

    async with aiohttp.ClientSession(url) as client:
        body = {"resource": "pvc-1", "from": "n1", "to": "n3"}
        moved = await client.post("/fake/move-silently", json=body)
        hung = await client.post("/fake/hang/n1")
        view = await client.get("/v1/view/resources")
        healed = await client.delete("/fake/hang/n1")
        rows = await flags_shown(client, "pvc-1")
        counted = await shown(client, "/fake/requests")
        stream = await client.get(NODES_PATH, headers=EVENTS)
        process.send_signal(number)
        async with asyncio.timeout(TIMEOUT):
            code = await process.wait()
        stream.close()

    assert [r.status for r in (moved, hung, view, healed)] == [200, 200, 500, 200]
    assert set(rows) == {"n2", "n3"}
    assert counted["GET /v1/view/resources"]["count"] == 1
    assert code == 0


async def test_controls_are_not_served_in_tests(client: aiohttp.ClientSession) -> None:
    assert (await client.get("/fake/requests")).status == 404
