"""LINSTOR's REST API, against a controller on loopback."""

import dataclasses
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from aiohttp import web

from linstor_affinity_events.adapters.linstor.connection import Login, Tls
from linstor_affinity_events.adapters.linstor.event_streams import NODES_PATH, LinstorStream
from linstor_affinity_events.adapters.linstor.rest import LinstorRest
from linstor_affinity_events.errors import LoginRefused, Refused, Unreachable
from linstor_affinity_events.model.keys import SAVED_PV_PROPERTY, SKIP_PROPERTY
from linstor_affinity_events.model.names import NodeName, ResourceName
from linstor_affinity_events.model.placement import Definition, Placement, Replica
from linstor_affinity_events.model.poll_result import NodeState
from tests.adapters.peers import (
    CLOSED,
    deaf_peer,
    linstor_at,
    linstor_world,
    serving,
)
from tests.fakes.linstor_server import LinstorServer, LinstorWorld, Timing

RD = ResourceName("pvc-1")
PLACED = Placement(
    RD,
    (
        Replica(NodeName("n1")),
        Replica(NodeName("n3"), frozenset({"DISKLESS", "DRBD_DISKLESS", "TIE_BREAKER"})),
    ),
)
MIB = 1024 * 1024
TEXT = b"x" * (MIB // 4)
ROWS = b"[" + b'{"name":"pvc-1","node_name":"n1","props":{"x":"%s"}},' % TEXT * 70 + b"{}]"
"""More than is read of one resource."""

DEFINITION_PATH = "GET /v1/resource-definitions/{rd}/resources"


@pytest.fixture
async def rest(linstor: LinstorServer) -> AsyncIterator[LinstorRest]:
    async with LinstorRest(linstor_at(linstor.url)) as rest:
        yield rest


@asynccontextmanager
async def controllers(*worlds: LinstorWorld) -> AsyncIterator[list[LinstorServer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(LinstorServer(world)) for world in worlds]


async def test_the_version_is_shown(rest: LinstorRest) -> None:
    assert await rest.version() == "1.33.3"


async def test_nodes_have_their_labels(rest: LinstorRest) -> None:
    nodes = await rest.nodes()

    assert nodes.namespace == "Aux/topology or Aux"
    assert nodes.labels[NodeName("n2")] == {
        "kubernetes.io/hostname": "n2",
        "zone": "z-n2",
        "linbit.com/hostname": "n2",
    }


async def test_a_configured_namespace_is_not_guessed(
    linstor: LinstorServer, world: LinstorWorld
) -> None:
    world.set_node_prop("n1", "Aux/mine/zone", "here")

    async with LinstorRest(linstor_at(linstor.url), namespace="Aux/mine") as rest:
        nodes = await rest.nodes()

    assert nodes.labels[NodeName("n1")] == {"zone": "here", "linbit.com/hostname": "n1"}


async def test_a_poll_has_the_states_of_all_nodes_and_the_number_of_resources(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.go_offline("n2")
    world.evict("n3")
    world.set_node_prop("n1", "CurStltConnName", "default")

    poll = await rest.poll()

    assert poll.resources == 2
    assert poll.nodes[NodeName("n1")] == NodeState(
        connection="ONLINE",
        labels=frozenset(
            {("Aux/topology/kubernetes.io/hostname", "n1"), ("Aux/topology/zone", "z-n1")}
        ),
    )
    assert poll.nodes[NodeName("n2")].connection == "OFFLINE"
    assert poll.nodes[NodeName("n3")].flags == {"EVICTED"}


async def test_a_poll_requests_only_what_is_in_memory(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.hung_satellites.add("n1")

    await rest.poll()

    assert world.requests == {"GET /v1/nodes": 1, "GET /v1/stats/resources": 1}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(404, [{"ret_code": -4611686018427386906, "message": "404"}], id="unknown"),
        pytest.param(500, [], id="broken"),
        *(
            pytest.param(200, body, id=body.decode())
            for body in (b"[]", b"{}", b'{"count":"7"}', b'{"count":true}', b'{"count":1.5}')
        ),
    ],
)
async def test_a_poll_without_a_count_still_has_the_nodes(
    rest: LinstorRest, world: LinstorWorld, status: int, body: object
) -> None:
    world.fail_next("/v1/stats", status, body)

    poll = await rest.poll()

    assert poll.resources is None
    assert poll.nodes.keys() == {"n1", "n2", "n3"}


@pytest.mark.parametrize(
    "shape", [{}, [7], [{"name": "n1", "flags": "x"}], [{"name": "n1", "props": 7}]], ids=str
)
async def test_a_poll_of_the_wrong_shape_is_an_error(
    rest: LinstorRest, world: LinstorWorld, shape: Any
) -> None:
    world.fail_next("/v1/nodes", 200, orjson.dumps(shape))

    with pytest.raises(Unreachable):
        await rest.poll()


async def test_one_definition_is_read(rest: LinstorRest) -> None:
    assert await rest.definition(RD) == Definition(resource=RD)


async def test_a_definition_that_does_not_exist_is_none(rest: LinstorRest) -> None:
    assert await rest.definition(ResourceName("pvc-9")) is None


async def test_a_definition_has_the_skip_property(rest: LinstorRest, world: LinstorWorld) -> None:
    world.set_definition_prop("pvc-1", SKIP_PROPERTY, "yes")

    definition = await rest.definition(RD)

    assert definition is not None
    assert definition.skip


async def test_a_definition_has_the_saved_pvs_of_itself_and_its_volumes(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.set_definition_prop("pvc-1", SAVED_PV_PROPERTY, "{old}")
    world.set_volume_prop("pvc-1", 1, SAVED_PV_PROPERTY, "{new}")

    definition = await rest.definition(RD)

    assert definition is not None
    assert definition.saved == {-1: "{old}", 1: "{new}"}


async def test_all_definitions_are_read_by_name(rest: LinstorRest) -> None:
    assert (await rest.definitions()).keys() == {"pvc-1", "pvc-2"}


async def test_a_placement_has_every_replica_with_its_flags(rest: LinstorRest) -> None:
    assert await rest.placement(RD) == PLACED


async def test_a_resource_without_replicas_has_an_empty_placement(rest: LinstorRest) -> None:
    assert await rest.placement(ResourceName("pvc-2")) == Placement(ResourceName("pvc-2"))


async def test_a_resource_that_does_not_exist_has_no_placement(rest: LinstorRest) -> None:
    assert await rest.placement(ResourceName("pvc-9")) is None


async def test_all_placements_are_read_at_once(rest: LinstorRest) -> None:
    assert await rest.placements() == {RD: PLACED}


async def test_names_are_lower_case_however_linstor_spells_them(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.add_definition("PVC-Big")
    world.place("PVC-Big", "N2")

    placement = await rest.placement(ResourceName("pvc-big"))
    definition = await rest.definition(ResourceName("pvc-big"))

    assert placement == Placement(ResourceName("pvc-big"), (Replica(NodeName("n2")),))
    assert definition == Definition(resource=ResourceName("pvc-big"))


async def test_a_404_for_an_unknown_path_is_not_a_missing_resource(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    unknown_path = [{"ret_code": -4611686018427386906, "message": "HTTP 404 Not Found"}]
    world.fail_next("/v1/resource-definitions", 404, unknown_path)

    with pytest.raises(Unreachable, match="HTTP 404"):
        await rest.placement(RD)


@pytest.mark.parametrize(
    "body", [b"<html>not found</html>", b"", b"{}", b"[1]", b'[{"message":1}]']
)
async def test_a_404_not_written_by_linstor_is_not_a_missing_resource(
    rest: LinstorRest, world: LinstorWorld, body: bytes
) -> None:
    world.fail_next("/v1/resource-definitions", 404, body)

    with pytest.raises(Unreachable, match="HTTP 404"):
        await rest.placement(RD)


async def test_a_missing_login_error_names_the_setting(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.login = ("admin", "secret")

    with pytest.raises(LoginRefused, match="LS_USERNAME") as refused:
        await rest.nodes()

    assert "Login required" in str(refused.value)


async def test_a_rejected_login_error_does_not_show_the_login(
    linstor: LinstorServer, world: LinstorWorld
) -> None:
    world.login = ("admin", "secret")
    login = Login(username="admin", password="hunter2")

    async with LinstorRest(linstor_at(linstor.url, login=login)) as rest:
        with pytest.raises(LoginRefused) as refused:
            await rest.nodes()

    assert "Sign-in failed" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_a_login_is_sent_with_every_request(
    linstor: LinstorServer, world: LinstorWorld
) -> None:
    world.login = ("admin", "sécret:with:colons")
    login = Login(username="admin", password="sécret:with:colons")

    async with LinstorRest(linstor_at(linstor.url, login=login)) as rest:
        assert await rest.placement(RD) == PLACED


async def test_a_rotated_token_file_is_read_again(
    linstor: LinstorServer, world: LinstorWorld, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    world.bearer = "first"

    async with LinstorRest(linstor_at(linstor.url, login=Login(token_file=str(token)))) as rest:
        await rest.nodes()
        world.bearer = "second-one"
        token.write_text("second-one\n")

        assert NodeName("n1") in (await rest.nodes()).labels


async def test_a_missing_token_file_is_named(linstor: LinstorServer, tmp_path: Path) -> None:
    login = Login(token_file=str(tmp_path / "nothing"))

    async with LinstorRest(linstor_at(linstor.url, login=login)) as rest:
        with pytest.raises(LoginRefused, match="LS_BEARER_TOKEN_FILE"):
            await rest.nodes()


async def test_a_bad_request_is_a_refusal(rest: LinstorRest, world: LinstorWorld) -> None:
    world.fail_next("/v1/nodes", 400, [{"ret_code": -1, "message": "no such filter"}])

    with pytest.raises(Refused, match="no such filter"):
        await rest.nodes()


async def test_an_error_contains_the_message_of_linstor(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.fail_next("/v1/nodes", 500, [{"ret_code": -1, "message": "oh", "cause": "no database"}])

    with pytest.raises(Unreachable, match="HTTP 500: oh; no database"):
        await rest.nodes()


async def test_an_error_without_a_message_says_so(rest: LinstorRest, world: LinstorWorld) -> None:
    world.hung_satellites.add("n1")

    with pytest.raises(Unreachable, match="HTTP 500: no message"):
        await rest.placements()


async def test_with_a_hung_satellite_single_placements_can_still_be_read(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.hung_satellites.add("n1")

    assert await rest.placement(RD) == PLACED


async def test_a_saved_pv_is_deleted(rest: LinstorRest, world: LinstorWorld) -> None:
    world.set_volume_prop("pvc-1", 1, SAVED_PV_PROPERTY, "{}")

    await rest.forget_saved(RD, 1)

    assert SAVED_PV_PROPERTY not in world.volume("pvc-1", 1).props


async def test_a_pv_saved_on_the_definition_is_deleted(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.set_definition_prop("pvc-1", SAVED_PV_PROPERTY, "{}")

    await rest.forget_saved(RD, -1)

    assert SAVED_PV_PROPERTY not in world.definition("pvc-1").props


async def test_a_saved_pv_is_deleted_despite_a_hung_satellite(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.set_volume_prop("pvc-1", 1, SAVED_PV_PROPERTY, "{}")
    world.hung_satellites.add("n1")

    await rest.forget_saved(RD, 1)

    assert SAVED_PV_PROPERTY not in world.volume("pvc-1", 1).props


async def test_a_saved_pv_that_could_not_be_deleted_is_reported(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.set_volume_prop("pvc-1", 1, SAVED_PV_PROPERTY, "{}")
    world.fail_next("/v1/resource-definitions/pvc-1/volume-definitions", 500, [])

    with pytest.raises(Unreachable):
        await rest.forget_saved(RD, 1)


@pytest.mark.parametrize(
    ("resource", "number"), [("pvc-9", -1), ("pvc-9", 0), ("pvc-1", 7)], ids=str
)
async def test_deleting_a_missing_saved_pv_is_a_success(
    rest: LinstorRest, resource: str, number: int
) -> None:
    await rest.forget_saved(ResourceName(resource), number)


SHAPES: list[Any] = [{}, "text", 7, None, [1], [[]], [{}], [{"name": 7}], [{"name": ""}]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_nodes_of_the_wrong_shape_are_an_error(
    rest: LinstorRest, world: LinstorWorld, shape: Any
) -> None:
    world.fail_next("/v1/nodes", 200, orjson.dumps(shape))

    with pytest.raises(Unreachable):
        await rest.nodes()


@pytest.mark.parametrize(
    "shape",
    [
        *SHAPES,
        [{"name": "pvc-1", "node_name": 7}],
        [{"name": "pvc-1"}],
        [{"name": "pvc-1", "node_name": "n1", "flags": "DISKLESS"}],
        [{"name": "pvc-1", "node_name": "n1", "flags": [7]}],
        [{"name": "pvc-1", "node_name": "n1", "flags": {"DISKLESS": True}}],
    ],
    ids=str,
)
async def test_a_placement_of_the_wrong_shape_is_an_error(
    rest: LinstorRest, world: LinstorWorld, shape: Any
) -> None:
    world.fail_next("/v1/resource-definitions", 200, orjson.dumps(shape))

    with pytest.raises(Unreachable):
        await rest.placement(RD)


@pytest.mark.parametrize(
    "shape",
    [
        *SHAPES,
        [{"name": "pvc-1", "props": []}],
        [{"name": "pvc-1", "props": {"x": 7}}],
        [{"name": "pvc-1", "volume_definitions": [7]}],
        [{"name": "pvc-1", "volume_definitions": [{"props": "x"}]}],
    ],
    ids=str,
)
async def test_definitions_of_the_wrong_shape_are_an_error(
    rest: LinstorRest, world: LinstorWorld, shape: Any
) -> None:
    world.fail_next("/v1/resource-definitions", 200, orjson.dumps(shape), times=2)

    with pytest.raises(Unreachable):
        await rest.definitions()
    if shape:
        with pytest.raises(Unreachable):
            await rest.definition(RD)


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[", b"\xff\xfe", b"[" * 100_000, b"NaN"],
    ids=["html", "half", "binary", "deep", "NaN"],
)
async def test_a_response_that_is_not_json_is_an_error(
    rest: LinstorRest, world: LinstorWorld, body: bytes
) -> None:
    world.fail_next("/v1/nodes", 200, body)

    with pytest.raises(Unreachable, match=r"did not return a list of objects|did not return text"):
        await rest.nodes()


async def test_cookies_of_a_response_are_not_sent_back() -> None:
    # By name: aiohttp never keeps cookies of an IP address.
    async with (
        serving(200, b'{"version": "1"}', {"Set-Cookie": "a=b; Path=/"}) as (url, heard),
        LinstorRest(linstor_at(url.replace("127.0.0.1", "localhost"))) as rest,
    ):
        await rest.version()
        await rest.version()

    assert ["Cookie" in request.headers for request in heard] == [False, False]


async def test_an_empty_body_is_an_error(rest: LinstorRest, world: LinstorWorld) -> None:
    world.fail_next("/v1/nodes", 200, b"")

    with pytest.raises(Unreachable):
        await rest.nodes()


def nodes_of(size: int) -> bytes:
    """A list of nodes that is so long."""
    node = b'{"name":"n1","props":{"x":"' + b"x" * 8192 + b'"}},'
    return b"[" + node * (size // len(node) + 1) + b"{}]"


async def test_a_body_without_end_is_cut_off(rest: LinstorRest, world: LinstorWorld) -> None:
    world.fail_next("/v1/controller/version", 200, nodes_of(MIB + 1))

    with pytest.raises(Unreachable, match="more than 1 MiB"):
        await rest.version()


async def test_a_decompression_bomb_is_cut_off(rest: LinstorRest, world: LinstorWorld) -> None:
    packed = gzip.compress(nodes_of(17 * MIB))
    world.fail_next("/v1/controller/version", 200, packed, headers={"Content-Encoding": "gzip"})

    with pytest.raises(Unreachable, match="more than 1 MiB"):
        await rest.version()


MANY = {f"Aux/p{number}": "x" * 4096 for number in range(150)}
"""More properties than are read of one object, though LINSTOR accepts them."""


async def test_a_node_with_very_many_properties_hides_no_other(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    before = await rest.nodes()
    for key, value in MANY.items():
        world.set_node_prop("n2", key, value)

    nodes = await rest.nodes()
    poll = await rest.poll()

    assert nodes.unreadable == {"n2"}
    assert nodes.labels == {name: labels for name, labels in before.labels.items() if name != "n2"}
    assert poll.nodes[NodeName("n2")] == NodeState(unreadable=True)
    assert poll.nodes.keys() == before.labels.keys()


async def test_a_node_of_more_than_16_mib_hides_no_other(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    body = b'[{"name":"N1","props":{"x":"' + b"x" * 17 * MIB + b'"}},{"name":"n2"}]'
    world.fail_next("/v1/nodes", 200, body)

    nodes = await rest.nodes()

    assert nodes.labels.keys() == {"n2"}
    assert nodes.unreadable == {"n1"}


async def test_labels_of_some_nodes_that_exceed_the_memory_for_all_hide_no_other(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    many = {f"Aux/{number}": "" for number in range(5000)}
    hostile = [{"name": f"evil-{number}", "props": many} for number in range(100)]
    few = {f"Aux/{number}": "z" for number in range(10)}
    usual = [{"name": f"n{number}", "props": few} for number in range(500)]
    body = [*hostile, *usual, *hostile[:1]]
    world.fail_next("/v1/nodes", 200, orjson.dumps(body), times=2)

    nodes = await rest.nodes()
    poll = await rest.poll()

    assert nodes.labels.keys() >= {name["name"] for name in usual}
    assert 20 < len(nodes.unreadable) < 100
    assert all(name.startswith("evil-") for name in nodes.unreadable)
    assert poll.nodes[NodeName("n1")].labels == frozenset(few.items())
    assert poll.nodes.keys() == nodes.labels.keys() | nodes.unreadable


async def test_a_definition_with_very_many_properties_hides_no_other(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.change_definition("pvc-2", override=MANY)
    other = ResourceName("pvc-2")

    assert await rest.definitions() == {
        RD: Definition(resource=RD),
        other: Definition(resource=other, unreadable=True),
    }
    assert await rest.definition(other) == Definition(resource=other, unreadable=True)


async def test_replicas_with_very_many_properties_hide_no_others(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.add_definition("pvc-9")
    world.place("pvc-9", "n1")
    world.place("pvc-9", "n2").volume_props[0] = MANY
    other = ResourceName("pvc-9")

    assert await rest.placements() == {RD: PLACED, other: Placement(other, unreadable=True)}
    # Alone it is read without its volumes, of which the properties are.
    placed = await rest.placement(other)
    assert placed is not None
    assert placed.serving_nodes == {"n1", "n2"}


async def test_a_replica_that_is_too_long_makes_its_resource_unreadable(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    long = b'[{"name":"pvc-1","node_name":"n1"},{"name":"PVC-1","x":"%s"}]' % (b"x" * MIB)
    world.fail_next("/v1/resource-definitions/pvc-1/resources", 200, long)

    assert await rest.placement(RD) == Placement(RD, unreadable=True)


async def test_a_resource_of_more_than_16_mib_is_unreadable(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    """It fails no reading of all others, one after the other, while a satellite hangs."""
    world.fail_next("/v1/resource-definitions/pvc-1/resources", 200, ROWS)
    world.fail_next("/v1/resource-definitions", 200, ROWS)

    assert await rest.placement(RD) == Placement(RD, unreadable=True)
    assert await rest.definition(RD) == Definition(resource=RD, unreadable=True)


async def test_what_is_too_long_and_has_no_name_makes_the_list_unusable(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    """It could be any of those that are missing."""
    world.fail_next("/v1/nodes", 200, b'[{"x":"' + b"x" * MIB + b'","name":"n1"},{"name":"n2"}]')

    with pytest.raises(Unreachable, match="does not begin with its name"):
        await rest.nodes()


async def test_what_is_too_long_is_reported_once_each_time_it_becomes_so(
    rest: LinstorRest, world: LinstorWorld, caplog: pytest.LogCaptureFixture
) -> None:
    def reported() -> int:
        return sum("LINSTOR has more about these" in record.message for record in caplog.records)

    world.change_definition("pvc-2", override=MANY)
    await rest.definitions()
    await rest.definitions()
    assert reported() == 1

    world.change_definition("pvc-2", override={}, delete=MANY)
    assert not (await rest.definitions())[ResourceName("pvc-2")].unreadable
    world.change_definition("pvc-2", override=MANY)
    await rest.definitions()
    assert reported() == 2


async def test_a_saved_pv_is_not_taken_for_deleted_if_its_definition_is_unreadable(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.set_volume_prop("pvc-1", 1, SAVED_PV_PROPERTY, "{}")
    world.change_definition("pvc-1", override=MANY)
    world.fail_next("/v1/resource-definitions/pvc-1/volume-definitions", 500, [])

    with pytest.raises(Unreachable):
        await rest.forget_saved(RD, 1)


async def test_saved_pvs_of_all_definitions_are_not_kept(
    rest: LinstorRest, world: LinstorWorld
) -> None:
    world.set_volume_prop("pvc-1", 1, SAVED_PV_PROPERTY, "{}")

    definitions = await rest.definitions()

    assert definitions[RD] == Definition(resource=RD, saved_unread=True)
    assert definitions[RD].may_have_saved
    assert not definitions[ResourceName("pvc-2")].may_have_saved


async def test_a_redirect_is_not_followed(
    rest: LinstorRest, world: LinstorWorld, linstor: LinstorServer
) -> None:
    elsewhere = f"{linstor.url}/v1/controller/version"
    world.fail_next("/v1/nodes", 302, headers={"Location": elsewhere})

    with pytest.raises(Unreachable, match="redirected"):
        await rest.nodes()

    assert world.requests["GET /v1/controller/version"] == 0


@pytest.mark.parametrize(
    ("status", "body"), [(302, b""), (200, b"<html>"), (200, b'{"not": "a list"}')]
)
async def test_after_a_response_that_is_none_of_linstor_another_controller_is_asked(
    linstor: LinstorServer, status: int, body: bytes
) -> None:
    """A login page may stand where a controller was."""
    async with (
        serving(status, body, {"Location": "https://login.example/"}) as (other, _),
        LinstorRest(linstor_at(other, linstor.url)) as rest,
    ):
        with pytest.raises(Unreachable):
            await rest.nodes()

        await rest.nodes()


async def test_a_resource_of_more_than_16_mib_is_no_reason_to_ask_another_controller() -> None:
    """Any of them has as much, and event streams of the one that is left are closed."""
    first, second = linstor_world(), linstor_world()
    first.fail_next("/v1/resource-definitions/pvc-1/resources", 200, ROWS)
    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        assert await rest.placement(RD) == Placement(RD, unreadable=True)
        await rest.nodes()

    assert second.requests.total() == 0


@pytest.mark.parametrize("length", [10, 2 * MIB])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 503])
async def test_after_an_error_page_of_another_program_the_next_controller_is_used(
    linstor: LinstorServer, status: int, length: int
) -> None:
    """A load balancer, or a proxy, may respond without its controller."""
    async with (
        serving(status, b"x" * length) as (other, _),
        LinstorRest(linstor_at(other, linstor.url)) as rest,
    ):
        assert await rest.placement(RD) == PLACED


@pytest.mark.fast_clock(100)
@pytest.mark.parametrize("seconds", [3.0, 10.0])
async def test_after_a_controller_that_accepts_no_connection_the_next_one_is_used(
    linstor: LinstorServer, seconds: float
) -> None:
    """Its host is down: nothing refuses the connection."""
    with deaf_peer() as url:
        async with LinstorRest(linstor_at(url, linstor.url), timeout=seconds) as rest:
            assert await rest.placement(RD) == PLACED


async def test_a_redirect_to_tls_names_the_setting(rest: LinstorRest, world: LinstorWorld) -> None:
    # As LINSTOR itself responds once its API has TLS.
    location = "https://linstor-controller.piraeus.svc:3371/v1/nodes"
    world.fail_next("/v1/", 302, headers={"Location": location}, times=2)

    for ask in (rest.nodes, rest.placements):
        with pytest.raises(Unreachable, match="LINSTOR's API requires TLS") as reported_error:
            await ask()

        for setting in (
            "LS_CONTROLLERS=https://linstor-controller.piraeus.svc:3371,",
            "LS_ROOT_CA_FILE",
            "LS_USER_CERTIFICATE_FILE",
            "LS_TLS_SERVER_NAME",
        ):
            assert setting in str(reported_error.value)


@pytest.mark.parametrize(
    "location",
    ["", "//[", "//[]@", "http://[;].@", "http://elsewhere/v1/nodes", "https://x:y/"],
)
async def test_a_redirect_to_anywhere_else_is_reported_as_one(
    rest: LinstorRest, world: LinstorWorld, location: str
) -> None:
    world.fail_next("/v1/nodes", 302, headers={"Location": location})

    with pytest.raises(Unreachable, match=r"redirected .*; redirects are not followed"):
        await rest.nodes()


async def test_credentials_are_sent_to_the_controller_only(
    linstor: LinstorServer, world: LinstorWorld
) -> None:
    world.login = ("admin", "secret")
    heard: list[str] = []

    async def listen(request: web.Request) -> web.Response:
        heard.append(request.headers.get("Authorization", ""))
        return web.json_response([])

    app = web.Application()
    app.router.add_get("/{path:.*}", listen)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    world.fail_next(
        "/v1/nodes",
        307,
        headers={"Location": f"http://127.0.0.1:{runner.addresses[0][1]}/v1/nodes"},
    )

    login = Login(username="admin", password="secret")
    async with LinstorRest(linstor_at(linstor.url, login=login)) as rest:
        with pytest.raises(Unreachable):
            await rest.nodes()
    await runner.cleanup()

    assert heard == []


@pytest.mark.parametrize("name", ["a/b", "a?b=c", "a#b", "a%2fb", "a b", "ä", "..", "a&limit=1"])
async def test_an_unusual_name_is_one_segment_of_the_path(
    rest: LinstorRest, world: LinstorWorld, name: str
) -> None:
    world.add_definition(name)
    world.place(name, "n2")

    definition = await rest.definition(ResourceName(name))
    placement = await rest.placement(ResourceName(name))

    assert definition == Definition(resource=ResourceName(name))
    assert placement == Placement(ResourceName(name), (Replica(NodeName("n2")),))


async def test_without_any_controller_all_are_named() -> None:
    async with LinstorRest(linstor_at(CLOSED, "http://127.0.0.1:2")) as rest:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1\b.*127\.0\.0\.1:2\b"):
            await rest.nodes()


async def test_if_the_first_controller_refuses_the_connection_the_second_is_used(
    linstor: LinstorServer,
) -> None:
    async with LinstorRest(linstor_at(CLOSED, linstor.url)) as rest:
        assert await rest.placement(RD) == PLACED


async def test_the_controller_that_responded_is_used_first_from_then_on() -> None:
    first, second = linstor_world(), linstor_world()

    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        await one.stop_listening()
        await rest.nodes()
        await one.start_listening()
        await rest.nodes()

    assert (first.requests["GET /v1/nodes"], second.requests["GET /v1/nodes"]) == (0, 2)


async def test_if_the_second_controller_stops_the_first_is_used_again() -> None:
    first, second = linstor_world(), linstor_world()

    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        await one.stop_listening()
        await rest.nodes()
        await one.start_listening()
        await two.stop_listening()

        assert await rest.placement(RD) == PLACED

    assert first.requests[DEFINITION_PATH] == 1


async def test_a_controller_on_standby_is_skipped() -> None:
    first, second = linstor_world(), linstor_world()
    first.standby = True

    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        assert await rest.placement(RD) == PLACED


async def test_a_controller_that_became_standby_between_two_requests_is_skipped() -> None:
    first, second = linstor_world(), linstor_world()

    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        await rest.nodes()
        first.standby = True

        assert await rest.placement(RD) == PLACED


NO_BACKEND = b"<html><body>503 Service Unavailable</body></html>"
OWN_ERROR = [{"ret_code": -1, "message": "oh", "cause": "no database"}]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(503, NO_BACKEND, id="a load balancer without a backend"),
        pytest.param(502, b"", id="a load balancer whose backend fails"),
        pytest.param(504, b"upstream timeout", id="a load balancer whose backend is silent"),
        pytest.param(500, [], id="without a word"),
        pytest.param(500, OWN_ERROR, id="LINSTOR's own"),
    ],
)
async def test_after_an_error_of_the_first_controller_the_next_one_is_used(
    status: int, body: object
) -> None:
    first, second = linstor_world(), linstor_world()
    first.fail_next("/v1", status, body, times=100)

    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        placement = await rest.placement(RD)
        listed = await rest.placements()
        url = rest.url

    assert placement == PLACED
    assert listed == {RD: PLACED}
    # The one that responded is used first from then on.
    assert url == two.url
    assert first.requests.total() == 1


async def test_an_error_of_all_controllers_contains_the_message_of_linstor(
    world: LinstorWorld,
) -> None:
    other = linstor_world()
    world.fail_next("/v1/nodes", 503, NO_BACKEND)
    other.fail_next("/v1/nodes", 500, OWN_ERROR)

    async with (
        controllers(world, other) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        with pytest.raises(Unreachable, match="HTTP 500: oh; no database"):
            await rest.nodes()


async def test_an_error_of_the_active_controller_is_reported_if_the_others_are_on_standby(
    world: LinstorWorld,
) -> None:
    world.hung_satellites.add("n1")
    async with (
        LinstorServer(world) as server,
        LinstorRest(linstor_at(server.url, CLOSED)) as rest,
    ):
        with pytest.raises(Unreachable, match="HTTP 500") as reported_error:
            await rest.placements()

        # It is the active one all the same.
        assert rest.url == server.url
        assert await rest.placement(RD) == PLACED
    assert "127.0.0.1:1" in str(reported_error.value)


async def test_a_login_rejected_by_the_first_controller_is_not_tried_elsewhere() -> None:
    first, second = linstor_world(), linstor_world()
    first.login = ("admin", "secret")

    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        with pytest.raises(LoginRefused):
            await rest.nodes()

    assert second.requests.total() == 0


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_write_that_failed_is_not_sent_to_another_controller(
    status: int,
) -> None:
    first, second = linstor_world(), linstor_world()
    for world in (first, second):
        world.set_volume_prop("pvc-1", 1, SAVED_PV_PROPERTY, "{}")
    first.fail_next("/v1/resource-definitions/pvc-1/volume-definitions", status, [])

    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        with pytest.raises(Unreachable):
            await rest.forget_saved(RD, 1)

    assert second.requests.total() == 0


async def test_a_write_that_was_cut_off_is_not_sent_to_another_controller() -> None:
    first, second = linstor_world(), linstor_world()
    second.set_volume_prop("pvc-1", 1, SAVED_PV_PROPERTY, "{}")
    first.standby = True

    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        with pytest.raises(Unreachable):
            await rest.forget_saved(RD, 1)

    assert [route for route in second.requests if route.startswith("PUT")] == []


@pytest.mark.fast_clock(100)
async def test_a_controller_that_never_responds_times_out() -> None:
    world = linstor_world()
    world.rest_hang = True
    async with (
        LinstorServer(world) as server,
        LinstorRest(linstor_at(server.url)) as rest,
    ):
        with pytest.raises(Unreachable, match="timed out"):
            await rest.nodes()


@pytest.mark.fast_clock(100)
async def test_after_a_controller_that_never_responds_the_next_one_is_used() -> None:
    first, second = linstor_world(), linstor_world()
    first.rest_hang = True
    async with (
        controllers(first, second) as [one, two],
        LinstorRest(linstor_at(one.url, two.url)) as rest,
    ):
        with pytest.raises(Unreachable):
            await rest.placement(RD)
        assert await rest.placement(RD) == PLACED


@pytest.mark.fast_clock(100)
async def test_a_slow_satellite_has_a_longer_timeout_than_a_single_read() -> None:
    world = LinstorWorld(timing=Timing(view_delay=20.0))
    async with (
        LinstorServer(world) as server,
        LinstorRest(linstor_at(server.url)) as rest,
    ):
        assert len(await rest.placements()) == 0


class Certificates:
    """A CA, the server's certificate and a client's, as files."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.root, self.certificate = directory / "ca.pem", directory / "tls.crt"
        self.key = directory / "tls.key"
        self.ca.cert_pem.write_to_path(str(self.root))
        self.issue(self.ca)

    def issue(self, ca: trustme.CA) -> None:
        """Write a new client certificate."""
        issued = ca.issue_cert("client@example.com")
        issued.cert_chain_pems[0].write_to_path(str(self.certificate))
        issued.private_key_pem.write_to_path(str(self.key))

    def spoil(self, name: str, how: str) -> None:
        path: Path = getattr(self, name)
        path.unlink()
        if how == "garbage":
            path.write_text("garbage")

    def server(self, *, name: str = "127.0.0.1") -> ssl.SSLContext:
        """Ask for a certificate of this CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(name).configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def files(self) -> Tls:
        return Tls(
            certificate_file=str(self.certificate),
            key_file=str(self.key),
            root_ca_file=str(self.root),
        )

    def texts(self) -> Tls:
        return Tls(
            certificate=self.certificate.read_text(),
            key=self.key.read_text(),
            root_ca=self.root.read_text(),
        )


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
async def secured(world: LinstorWorld, certificates: Certificates) -> AsyncIterator[LinstorServer]:
    # Connections are not kept, so that every request shows its certificate again.
    async with LinstorServer(world, ssl_context=certificates.server(), keepalive=0.0) as server:
        yield server
    world.close()


@pytest.mark.parametrize("form", ["files", "texts"])
async def test_certificates_can_be_files_or_texts(
    secured: LinstorServer, certificates: Certificates, form: str
) -> None:
    tls = certificates.files() if form == "files" else certificates.texts()

    async with LinstorRest(linstor_at(secured.url, tls=tls)) as rest:
        assert await rest.placement(RD) == PLACED


async def test_a_required_client_certificate_that_is_missing_is_reported(
    secured: LinstorServer, certificates: Certificates
) -> None:
    tls = Tls(root_ca_file=str(certificates.root))

    async with LinstorRest(linstor_at(secured.url, tls=tls)) as rest:
        with pytest.raises(Unreachable):
            await rest.placement(RD)


async def test_an_untrusted_controller_is_not_sent_the_login(
    secured: LinstorServer, world: LinstorWorld
) -> None:
    login = Login(username="admin", password="secret")

    async with LinstorRest(linstor_at(secured.url, login=login)) as rest:
        with pytest.raises(Unreachable, match="certificate"):
            await rest.placement(RD)

    assert world.requests.total() == 0


async def test_rotated_certificates_are_loaded(
    secured: LinstorServer, certificates: Certificates
) -> None:
    certificates.issue(trustme.CA())
    async with LinstorRest(linstor_at(secured.url, tls=certificates.files())) as rest:
        with pytest.raises(Unreachable):
            await rest.placement(RD)

        certificates.issue(certificates.ca)

        assert await rest.placement(RD) == PLACED


async def test_the_expected_certificate_name_can_differ_from_the_host(
    world: LinstorWorld, certificates: Certificates
) -> None:
    context = certificates.server(name="linstor-controller.piraeus.svc")
    named = dataclasses.replace(certificates.files(), server_name="linstor-controller.piraeus.svc")
    async with LinstorServer(world, ssl_context=context, keepalive=0.0) as server:
        async with LinstorRest(linstor_at(server.url, tls=certificates.files())) as rest:
            with pytest.raises(Unreachable, match="certificate"):
                await rest.placement(RD)

        connection = linstor_at(server.url, tls=named)
        async with LinstorRest(connection) as rest:
            assert await rest.placement(RD) == PLACED
            assert await rest.placements() == {RD: PLACED}
        async with LinstorStream(connection, name="nodes", path=NODES_PATH).connect():
            pass
    world.close()


async def test_an_expected_certificate_name_is_checked(
    secured: LinstorServer, certificates: Certificates
) -> None:
    named = dataclasses.replace(certificates.files(), server_name="somebody-else")

    async with LinstorRest(linstor_at(secured.url, tls=named)) as rest:
        with pytest.raises(Unreachable, match="certificate"):
            await rest.placement(RD)


async def test_a_missing_ca_file_is_reported_until_it_exists(
    secured: LinstorServer, certificates: Certificates
) -> None:
    root = certificates.root.read_bytes()
    certificates.root.unlink()

    async with LinstorRest(linstor_at(secured.url, tls=certificates.files())) as rest:
        with pytest.raises(Unreachable, match=r"LS_ROOT_CA_FILE: .*ca\.pem does not exist"):
            await rest.placement(RD)
        certificates.root.write_bytes(root)

        assert await rest.placement(RD) == PLACED


@pytest.mark.parametrize("broken", ["root", "certificate", "key"])
@pytest.mark.parametrize("how", ["missing", "garbage"])
async def test_certificates_that_cannot_be_used_are_named(
    secured: LinstorServer, certificates: Certificates, broken: str, how: str
) -> None:
    certificates.spoil(broken, how)

    async with LinstorRest(linstor_at(secured.url, tls=certificates.files())) as rest:
        with pytest.raises(Unreachable, match="LS_ROOT_CA"):
            await rest.placement(RD)


@pytest.mark.parametrize("what", ["nodes", "definitions", "placements", "poll", "version"])
async def test_that_linstor_denies_a_list_is_not_believed(what: str) -> None:
    """Its own error for an unknown resource definition, in response to what is always there."""
    world = linstor_world()
    unknown = b'[{"ret_code": 301, "message": "unknown"}]'
    async with LinstorServer(world) as server, LinstorRest(linstor_at(server.url)) as rest:
        world.fail_next("/v1/", 404, unknown, times=9)

        with pytest.raises(Unreachable, match="unknown"):
            await getattr(rest, what)()


async def test_a_definition_that_linstor_denies_is_unknown() -> None:
    world = linstor_world()
    unknown = b'[{"ret_code": 301, "message": "unknown"}]'
    async with LinstorServer(world) as server, LinstorRest(linstor_at(server.url)) as rest:
        world.fail_next("/v1/", 404, unknown, times=9)

        assert await rest.definition(ResourceName("pvc-1")) is None
