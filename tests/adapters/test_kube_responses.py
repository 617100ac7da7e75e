"""Responses of the API server with what clients can write there and nobody can read."""

import asyncio
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.transport.bodies import (
    LONGEST_FIELDS,
    MIB,
    without_costly_managed_fields,
)
from linstor_affinity_events.errors import Unreachable
from tests.adapters.peers import loads, serving

VOLUMES = "/api/v1/persistentvolumes"

DEEP = b'{"f:x":' * 1500 + b"{}" + b"}" * 1500
NOT_UTF8 = b'{"f:\xff":{}}'
LONG = b'{"f:x":' * 900 + b"{}" + b"}" * 900 + b" " * 64 * 1024
ODD = [
    pytest.param(DEEP, id="1,500 levels"),
    pytest.param(NOT_UTF8, id="not UTF-8"),
    pytest.param(LONG, id="long"),
]


def volume(name: bytes, fields: bytes) -> bytes:
    managed = b'[{"manager":"x","fieldsType":"FieldsV1","fieldsV1":%s}]' % fields
    metadata = (
        b'{"name":"%s","uid":"u","resourceVersion":"1","managedFields":%s,"labels":{"a":"b"}}'
    )
    return b'{"metadata":%s}' % (metadata % (name, managed))


def names(manifests: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["metadata"]["name"], each["metadata"]["labels"]["a"]) for each in manifests]


@pytest.mark.parametrize("odd", ODD)
async def test_costly_managed_fields_hide_no_object(odd: bytes) -> None:
    items = b",".join([volume(b"one", b"{}"), volume(b"odd", odd), volume(b"two", b"{}")])
    async with serving(200, b'{"items":[%s]}' % items) as (url, _):
        api = KubeApi(loads(url))
        try:
            listed = (await api.get(VOLUMES))["items"]
        finally:
            await api.close()

    assert names(listed) == [("one", "b"), ("odd", "b"), ("two", "b")]
    kept = [bool(each["metadata"]["managedFields"]) for each in listed]
    assert kept == [True, False, True]


@pytest.mark.parametrize("odd", ODD)
async def test_costly_managed_fields_end_no_watch(odd: bytes) -> None:
    lines = (
        b'{"type":"ADDED","object":%s}\n' % volume(n, f)
        for n, f in ((b"odd", odd), (b"two", b"{}"))
    )
    async with serving(200, b"".join(lines)) as (url, _):
        api = KubeApi(loads(url))
        try:
            async with api.watch(VOLUMES, {}) as events:
                found = [event["object"] async for event in events]
        finally:
            await api.close()

    assert names(found) == [("odd", "b"), ("two", "b")]


async def test_a_response_that_is_invalid_elsewhere_is_an_error() -> None:
    async with serving(200, b'{"items":[%s' % volume(b"odd", DEEP)) as (url, _):
        api = KubeApi(loads(url))
        try:
            with pytest.raises(Unreachable, match="valid JSON"):
                await api.get(VOLUMES)
        finally:
            await api.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=14), inner, max_size=3)
    ),
)


@given(before=json_values, fields=st.lists(json_values, max_size=3), after=json_values)
def test_only_costly_managed_fields_are_emptied(before: Any, fields: list[Any], after: Any) -> None:
    """Whatever stands around them, brackets and quotes in strings among it."""
    text = json.dumps({"before": before, "managedFields": fields, "after": after})
    readable = text.replace(" ", "").encode()
    odd = json.dumps({"before": before, "managedFields": ["HERE"], "after": after})
    unreadable = odd.encode().replace(b'"HERE"', DEEP, 1)

    assert asyncio.run(without_costly_managed_fields(readable)) is readable
    if b"HERE" not in json.dumps(before).encode():
        emptied = orjson.loads(asyncio.run(without_costly_managed_fields(unreadable)))
        assert emptied == {"before": before, "managedFields": [], "after": after}


@pytest.mark.parametrize("more", [0, 1])
async def test_managed_fields_are_emptied_from_a_length_on(more: int) -> None:
    fields = b'["' + b"x" * (LONGEST_FIELDS - 4 + more) + b'"]'
    body = b'{"managedFields":%s}' % fields

    left = await without_costly_managed_fields(body)

    assert left == (b'{"managedFields":[]}' if more else body)


async def emptied_and_passes(body: bytes) -> tuple[bytes, int]:
    """What is left of a body, and how often another task ran meanwhile."""
    passes, work = 0, asyncio.create_task(without_costly_managed_fields(body))
    while not work.done():
        passes += 1
        await asyncio.sleep(0)
    return await work, passes


async def test_other_tasks_run_while_long_managed_fields_are_skipped() -> None:
    brackets = 100_000
    body = b'{"managedFields":[' + b'{"f:a":' * brackets + b"1" + b"}" * brackets + b"]}"

    left, passes = await emptied_and_passes(body)

    assert left == b'{"managedFields":[]}'
    assert passes >= brackets / 5_000


@pytest.mark.parametrize(
    "text",
    [b"x" * MIB, b"\\\\" * (MIB // 2), b'","'.join([b"x"] * (MIB // 4))],
    ids=["one string", "escapes", "short strings"],
)
async def test_other_tasks_run_while_long_texts_in_managed_fields_are_skipped(text: bytes) -> None:
    left, passes = await emptied_and_passes(b'{"managedFields":["%s"]}' % text)

    assert left == b'{"managedFields":[]}'
    assert passes >= 10


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b'"]'])
async def test_long_texts_in_managed_fields_may_end_anywhere(end: bytes) -> None:
    body = b'{"managedFields":["' + b"\\u003c" * MIB + end

    left = await without_costly_managed_fields(body)

    assert left == (b'{"managedFields":[]' if end == b'"]' else body)


async def test_other_tasks_run_while_many_short_managed_fields_are_examined() -> None:
    number = 1_000
    one = b'{"managedFields":[' + b",".join([b'{"f:0":{}}'] * 100) + b"]}"
    body = b"[" + b",".join([one] * number) + b"]"

    left, passes = await emptied_and_passes(body)

    assert left == body
    assert passes >= number * 200 / 5_000


async def test_where_metadata_is_enough_all_managed_fields_of_a_long_page_are_emptied() -> None:
    items = [volume(b"%d" % number, b"{}") for number in range(1_000)]
    async with serving(200, b'{"items":[%s]}' % b",".join(items)) as (url, _):
        api = KubeApi(loads(url))
        try:
            for metadata_only in (True, False):
                page, _ = await api.get_page(VOLUMES, {}, limit=MIB, metadata_only=metadata_only)
                assert len(page["items"]) == 1_000
                kept = any(each["metadata"]["managedFields"] for each in page["items"])
                assert kept is not metadata_only
        finally:
            await api.close()
