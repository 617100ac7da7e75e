"""The fake controller's responses have the shape of those recorded from a real one."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.fakes.linstor_server import LinstorServer, LinstorWorld
from tests.fakes.linstor_server.streams import frame

SAMPLES = Path(__file__).parents[1] / "data" / "linstor"
ZONE = "topology.kubernetes.io/zone"
EVENTS = {"Accept": "text/event-stream"}

MAPS = {"props", "connections", "replication_states", "unsupported_providers", "unsupported_layers"}
"""Objects whose keys are content: names of properties, nodes and tools."""


def kind(value: object) -> str:
    """JSON's type, with integers distinguished from other numbers."""
    names = {bool: "bool", int: "int", float: "float", str: "string", type(None): "null"}
    return names.get(type(value)) or ("object" if isinstance(value, dict) else "list")


def differences(sample: Any, response: Any, at: str = "$") -> list[str]:
    """Every place where the keys or the types of two JSON values differ; values may."""
    if kind(sample) != kind(response):
        return [f"{at}: {kind(sample)} became {kind(response)}"]
    if isinstance(sample, dict):
        if at.rpartition(".")[2] in MAPS:
            return _map_differences(sample, response, at)
        found = [f"{at}.{key}: missing" for key in sample.keys() - response.keys()]
        found += [f"{at}.{key}: unknown" for key in response.keys() - sample.keys()]
        for key in sample.keys() & response.keys():
            found += differences(sample[key], response[key], f"{at}.{key}")
        return found
    if isinstance(sample, list):
        return _list_differences(sample, response, at)
    return []


def _map_differences(sample: dict[str, Any], response: dict[str, Any], at: str) -> list[str]:
    if bool(sample) != bool(response):
        return [f"{at}: empty on one side"]
    example = next(iter(sample.values()), None)
    return [
        difference
        for key, value in response.items()
        for difference in differences(example, value, f"{at}[{key}]")
    ]


def _list_differences(sample: list[Any], response: list[Any], at: str) -> list[str]:
    if all(isinstance(item, str) for item in sample):
        # Flags, tools' complaints and the like: how many there are is content.
        if bool(sample) != bool(response):
            return [f"{at}: empty on one side"]
        return [d for item in response for d in differences("", item, f"{at}[]")]
    if len(sample) != len(response):
        return [f"{at}: {len(sample)} items became {len(response)}"]
    return [
        difference
        for number, (foreign, ours) in enumerate(zip(sample, response, strict=True))
        for difference in differences(foreign, ours, f"{at}[{number}]")
    ]


def recorded(name: str) -> Any:
    return orjson.loads((SAMPLES / name).read_bytes())


@pytest.fixture
def world() -> LinstorWorld:
    """The cluster the samples were taken from."""
    world = LinstorWorld()
    for number in (1, 2, 3):
        world.add_node(f"n{number}", labels={ZONE: f"z{number}"})
    world.add_definition("pvc-3", props={"Aux/csi-x": "{}"})
    world.place("pvc-3", "n1")
    world.place("pvc-3", "n3", diskless=True)
    world.add_definition("sto-1", layers=["STORAGE"])
    world.place("sto-1", "n1")
    return world


@pytest.fixture
async def server(world: LinstorWorld) -> AsyncIterator[LinstorServer]:
    async with LinstorServer(world) as server:
        yield server


@pytest.fixture
async def client(server: LinstorServer) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as client:
        yield client


@pytest.mark.parametrize(
    ("sample", "path"),
    [
        ("controller-version.json", "/v1/controller/version"),
        ("nodes.json", "/v1/nodes"),
        ("resource-definitions.json", "/v1/resource-definitions?with_volume_definitions=true"),
        ("resources-pvc-3.json", "/v1/resource-definitions/pvc-3/resources"),
        ("resources-sto-1.json", "/v1/resource-definitions/sto-1/resources"),
        ("view-resources.json", "/v1/view/resources"),
    ],
)
async def test_a_response_has_the_recorded_shape(
    client: aiohttp.ClientSession, sample: str, path: str
) -> None:
    response = await client.get(path)

    assert response.status == 200
    assert differences(recorded(sample), await response.json()) == []


async def test_the_version_is_the_recorded_one(client: aiohttp.ClientSession) -> None:
    response = await client.get("/v1/controller/version")

    assert await response.json() == recorded("controller-version.json")


async def test_a_missing_definition_is_an_error_as_recorded(client: aiohttp.ClientSession) -> None:
    response = await client.get("/v1/resource-definitions/nope/resources")

    sample, shown = recorded("error-404-missing-rd.json"), await response.json()
    assert response.status == 404
    assert differences(sample, shown) == []
    assert [without_date(entry) for entry in shown] == [without_date(entry) for entry in sample]


async def test_a_property_too_long_is_rejected_as_recorded(client: aiohttp.ClientSession) -> None:
    body = {"override_props": {"Aux/long": "x" * 4097}}
    path = "/v1/resource-definitions/pvc-3/volume-definitions/0"
    response = await client.put(path, json=body)

    sample, shown = recorded("error-500-property-too-long.json"), await response.json()
    assert response.status == 500
    assert differences(sample, shown) == []
    for key in ("ret_code", "message", "details", "obj_refs"):
        assert shown[0][key] == sample[0][key]


async def test_the_current_promotions_are_sent_byte_for_byte_as_recorded(
    client: aiohttp.ClientSession,
) -> None:
    sample = (SAMPLES / "sse-promotion-current.txt").read_bytes()
    headers = EVENTS | {"Last-Event-ID": "current"}

    async with client.get("/v1/events/drbd/promotion", headers=headers) as response:
        written = await response.content.readexactly(len(sample))

    assert written == sample


async def test_node_events_have_the_recorded_shape(
    client: aiohttp.ClientSession, world: LinstorWorld
) -> None:
    samples = re.findall(r"event: (.*)\ndata: (.*)\n\n", (SAMPLES / "sse-nodes.txt").read_text())

    async with client.get("/v1/events/nodes", headers=EVENTS) as response:
        world.set_node_prop("n1", f"Aux/topology/{ZONE}", "z9")
        written = await response.content.readuntil(b"\n\n")

    name, text = samples[0]
    event, data = written.decode().removesuffix("\n\n").split("\n")
    assert event == f"event: {name}"
    assert data.startswith("data: ")
    payload = orjson.loads(data.removeprefix("data: "))
    assert differences(orjson.loads(text), payload) == []
    assert payload["old_node"] == payload["new_node"]


@pytest.mark.parametrize("sample", ["sse-nodes.txt", "sse-promotion-current.txt"])
def test_frames_are_built_byte_for_byte_as_recorded(sample: str) -> None:
    text = (SAMPLES / sample).read_bytes()

    parts = re.findall(rb"event: (.*)\ndata: (.*)\n\n", text)

    assert parts
    assert b"".join(frame(name.decode(), orjson.loads(data)) for name, data in parts) == text


def without_date(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "created_at"}


def test_equal_shapes_have_no_differences() -> None:
    sample = {"name": "a", "flags": ["X"], "props": {"k": "v"}, "rows": [{"n": 1}]}
    response = {"name": "b", "flags": ["Y", "Z"], "props": {"other": "w"}, "rows": [{"n": 2}]}

    assert differences(sample, response) == []


@pytest.mark.parametrize(
    ("sample", "response", "expected"),
    [
        pytest.param({"a": 1}, {}, "$.a: missing", id="key missing"),
        pytest.param({}, {"a": 1}, "$.a: unknown", id="key added"),
        pytest.param({"a": 1}, {"a": True}, "$.a: int became bool", id="bool for int"),
        pytest.param({"a": 1}, {"a": "1"}, "$.a: int became string", id="string for int"),
        pytest.param({"a": {}}, {"a": []}, "$.a: object became list", id="list for object"),
        pytest.param(
            [{"a": [{"b": 1}]}], [{"a": [{"c": 1}]}], "$[0].a[0].b: missing", id="deep inside"
        ),
        pytest.param([{}], [{}, {}], "$: 1 items became 2", id="more rows"),
        pytest.param(
            {"props": {"k": "v"}}, {"props": {"k": 1}}, "$.props[k]: string became int", id="map"
        ),
        pytest.param({"flags": ["X"]}, {"flags": [1]}, "$.flags[]: string became int", id="flags"),
        pytest.param({"flags": ["X"]}, {"flags": []}, "$.flags: empty on one side", id="no flags"),
    ],
)
def test_the_comparison_detects_a_difference(
    sample: object, response: object, expected: str
) -> None:
    assert expected in differences(sample, response)
