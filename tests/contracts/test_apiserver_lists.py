"""Lists and watches of a kube-apiserver, be it the fake or the real one."""

import asyncio

import pytest

from tests.contracts.conftest import Apiserver
from tests.contracts.kube_client import CLAIMS, CONFIG_MAPS, VOLUMES, Json, KubeClient, Lines
from tests.contracts.manifests import OURS, claim, volume

INITIAL_EVENTS = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}


async def family(kube: KubeClient, name: str, size: int) -> list[str]:
    """Volumes that share a label and are left alone by the controllers from now on."""
    names = [f"{name}-{number}" for number in range(size)]
    for each in names:
        await kube.post(VOLUMES, volume(each, metadata={"labels": {"family": name}}))
    for each in names:
        await kube.until_phase(f"{VOLUMES}/{each}", "Available")
    return names


def names_in(listed: Json) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


def reported(event: Json) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"].get("name", "")


async def current_version(kube: KubeClient) -> str:
    version: str = (await kube.get(VOLUMES, limit="1")).metadata["resourceVersion"]
    return version


async def test_a_list_is_sorted_and_its_items_have_no_kind(kube: KubeClient, name: str) -> None:
    names = await family(kube, name, 3)

    listed = await kube.get(VOLUMES, labelSelector=f"family={name}")

    assert (listed.body["kind"], listed.body["apiVersion"]) == ("PersistentVolumeList", "v1")
    assert names_in(listed.body) == names
    assert list(listed.body["items"][0]) == ["metadata", "spec", "status"]
    assert "continue" not in listed.metadata


async def test_pages_are_one_consistent_snapshot(kube: KubeClient, name: str) -> None:
    names = await family(kube, name, 5)
    query = {"limit": "2", "labelSelector": f"family={name}"}

    first = await kube.get(VOLUMES, **query)
    await kube.post(VOLUMES, volume(f"{name}-3b", metadata={"labels": {"family": name}}))
    second = await kube.get(VOLUMES, **query, **{"continue": first.metadata["continue"]})
    third = await kube.get(VOLUMES, **query, **{"continue": second.metadata["continue"]})

    pages = [first, second, third]
    assert [names_in(page.body) for page in pages] == [names[:2], names[2:4], names[4:]]
    assert len({page.metadata["resourceVersion"] for page in pages}) == 1
    assert "continue" not in third.metadata


async def test_a_page_without_selector_has_the_remaining_count(kube: KubeClient, name: str) -> None:
    await family(kube, name, 3)
    everything = await kube.get(VOLUMES)

    page = await kube.get(VOLUMES, limit="1")

    assert page.metadata["remainingItemCount"] == len(everything.body["items"]) - 1


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("number=1", [1]),
        ("number==1", [1]),
        ("number!=1", [0, 2, 3]),
        ("number in (1,2)", [1, 2]),
        ("number notin (1,2)", [0, 3]),
        ("number", [0, 1, 2]),
        ("!number", [3]),
        ("number in (0,1),number!=0", [1]),
    ],
)
async def test_label_selectors_work(
    kube: KubeClient, name: str, selector: str, chosen: list[int]
) -> None:
    for number in range(4):
        labels = {"family": name} | ({"number": str(number)} if number < 3 else {})
        await kube.post(VOLUMES, volume(f"{name}-{number}", metadata={"labels": labels}))

    listed = await kube.get(VOLUMES, labelSelector=f"family={name},{selector}")

    assert names_in(listed.body) == [f"{name}-{number}" for number in chosen]


async def test_field_selectors_on_names_work(kube: KubeClient, name: str) -> None:
    await family(kube, name, 2)

    listed = await kube.get(VOLUMES, fieldSelector=f"metadata.name={name}-1")
    unknown = await kube.get(VOLUMES, fieldSelector="spec.nope=1")

    assert names_in(listed.body) == [f"{name}-1"]
    assert unknown.status == 400
    assert unknown.message == (
        '"spec.nope" is not a known field selector: only "metadata.name", "metadata.namespace"'
    )


async def test_a_metadata_only_list_has_no_data(kube: KubeClient, name: str) -> None:
    for number in range(3):
        metadata = {
            "name": f"{name}-{number}",
            "labels": {"family": name},
            "annotations": {"a.example/b": str(number)},
        }
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        await kube.post(CONFIG_MAPS, {**body, "data": {"x": "x" * 500_000}})
    query = {"labelSelector": f"family={name}", "limit": "2"}
    alone = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

    first = await kube.send("GET", CONFIG_MAPS, None, query, alone)
    more = {**query, "continue": first.metadata["continue"]}
    second = await kube.send("GET", CONFIG_MAPS, None, more, alone)

    items = [*first.body["items"], *second.body["items"]]
    assert (first.status, len(first.body["items"])) == (200, 2)
    assert first.body["kind"] == "PartialObjectMetadataList"
    assert not any("data" in item for item in items)
    assert [item["metadata"]["annotations"]["a.example/b"] for item in items] == ["0", "1", "2"]
    assert all({"uid", "resourceVersion", "name"} <= item["metadata"].keys() for item in items)


async def test_claims_are_listed_by_namespace_or_for_all_namespaces(
    kube: KubeClient, name: str
) -> None:
    await kube.post(CLAIMS, claim(name))
    selector = f"metadata.name={name}"

    here = await kube.get(CLAIMS, fieldSelector=selector)
    elsewhere = await kube.get(CLAIMS.replace("default", "kube-system"), fieldSelector=selector)
    anywhere = await kube.get("/api/v1/persistentvolumeclaims", fieldSelector=selector)

    assert [names_in(each.body) for each in (here, elsewhere, anywhere)] == [[name], [], [name]]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"limit": "abc"}, 400),
        ({"resourceVersion": "abc"}, 400),
        ({"labelSelector": "((("}, 400),
        ({"continue": "garbage"}, 400),
        ({"resourceVersionMatch": "Exact"}, 422),
        ({"sendInitialEvents": "true"}, 422),
        ({"watch": "1", "resourceVersion": "abc"}, 500),
        ({"watch": "1", "timeoutSeconds": "abc"}, 400),
        ({"watch": "1", "sendInitialEvents": "true"}, 422),
        ({"watch": "1", "resourceVersion": "1", "resourceVersionMatch": "NotOlderThan"}, 422),
    ],
)
async def test_invalid_options_are_rejected(
    kube: KubeClient, query: dict[str, str], status: int
) -> None:
    reply = await kube.get(VOLUMES, **query)

    assert (reply.status, reply.body["kind"]) == (status, "Status")


async def test_a_large_list_is_compressed(apiserver: Apiserver, name: str) -> None:
    large = {"annotations": {"filler": "x" * 200_000}}
    await apiserver.kube.post(VOLUMES, volume(name, metadata=large))

    compressed = await apiserver.kube.get(VOLUMES, fieldSelector=f"metadata.name={name}")
    plain = await apiserver.kube.send(
        "GET", f"{VOLUMES}/{name}", headers={"Accept-Encoding": "identity"}
    )

    # The client unpacks by itself and leaves the header as it came.
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert compressed.body["items"][0]["spec"] == plain.body["spec"]


async def test_a_watch_continues_from_the_version_of_a_list(kube: KubeClient, name: str) -> None:
    await family(kube, name, 1)
    path = f"{VOLUMES}/{name}-0"
    version = await current_version(kube)
    await kube.patch(path, {"metadata": {"labels": {"step": "before"}}})

    async with kube.watch(
        VOLUMES, resourceVersion=version, fieldSelector=f"metadata.name={name}-0"
    ) as lines:
        first = await lines.next()
        await kube.patch(path, {"metadata": {"labels": {"step": "after"}}})
        second = await lines.next()
        await kube.delete(path)
        rest = await lines.until(lambda event: event["type"] == "DELETED")

    assert reported(first) == reported(second) == ("MODIFIED", f"{name}-0")
    assert first["object"]["metadata"]["labels"]["step"] == "before"
    assert second["object"]["metadata"]["labels"]["step"] == "after"
    assert first["object"]["kind"] == "PersistentVolume"
    versions = [
        int(event["object"]["metadata"]["resourceVersion"]) for event in (first, second, *rest)
    ]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("version", [{}, {"resourceVersion": "0"}])
async def test_a_watch_without_version_begins_with_existing_objects(
    kube: KubeClient, name: str, version: dict[str, str]
) -> None:
    names = await family(kube, name, 2)

    async with kube.watch(VOLUMES, labelSelector=f"family={name}", **version) as lines:
        first = [await lines.next() for _ in names]
        await kube.patch(f"{VOLUMES}/{names[0]}", {"metadata": {"labels": {"new": "1"}}})
        then = await lines.next()

    assert [reported(event) for event in first] == [("ADDED", each) for each in names]
    assert reported(then) == ("MODIFIED", names[0])


async def test_initial_events_end_with_a_bookmark(kube: KubeClient, name: str) -> None:
    names = await family(kube, name, 2)

    async with kube.watch(VOLUMES, labelSelector=f"family={name}", **INITIAL_EVENTS) as lines:
        *state, mark = await lines.until(lambda event: event["type"] == "BOOKMARK")
        await kube.patch(f"{VOLUMES}/{names[0]}", {"metadata": {"labels": {"new": "1"}}})
        then = await lines.next()

    assert [reported(event) for event in state] == [("ADDED", each) for each in names]
    assert mark["object"]["kind"] == "PersistentVolume"
    metadata = mark["object"]["metadata"]
    assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
    newest = max(int(event["object"]["metadata"]["resourceVersion"]) for event in state)
    assert int(metadata["resourceVersion"]) >= newest
    assert reported(then) == ("MODIFIED", names[0])


async def test_objects_enter_and_leave_a_selection(kube: KubeClient, name: str) -> None:
    await family(kube, name, 1)
    version = await current_version(kube)
    path = f"{VOLUMES}/{name}-0"

    async with kube.watch(VOLUMES, resourceVersion=version, labelSelector=f"in={name}") as lines:
        for value in (name, name, "elsewhere", name):
            await kube.patch(path, {"metadata": {"labels": {"in": value, "n": None}}})
            await kube.patch(path, {"metadata": {"labels": {"n": "1"}}})
        observed = [(await lines.next())["type"] for _ in range(7)]

    assert observed == ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED", "ADDED", "MODIFIED"]


async def test_a_watch_ends_after_its_timeout(kube: KubeClient) -> None:
    version = await current_version(kube)

    async with kube.watch(
        VOLUMES, resourceVersion=version, timeoutSeconds="1", fieldSelector="metadata.name=none"
    ) as lines:
        with pytest.raises(EOFError):
            await lines.next()


async def test_all_watches_receive_the_same_events_in_the_same_order(
    kube: KubeClient, name: str
) -> None:
    await family(kube, name, 1)
    version = await current_version(kube)
    path = f"{VOLUMES}/{name}-0"
    query = {"resourceVersion": version, "fieldSelector": f"metadata.name={name}-0"}

    async def steps(lines: Lines) -> list[str]:
        events = [await lines.next() for _ in range(10)]
        return [event["object"]["metadata"]["labels"]["step"] for event in events]

    async with kube.watch(VOLUMES, **query) as one, kube.watch(VOLUMES, **query) as two:
        for number in range(10):
            await kube.patch(path, {"metadata": {"labels": {"step": str(number)}}})
        observed = list(await asyncio.gather(steps(one), steps(two)))

    assert observed == [[str(number) for number in range(10)]] * 2


async def test_a_compacted_version_is_expired(apiserver: Apiserver, name: str) -> None:
    kube = apiserver.kube
    await family(kube, name, 3)
    page = await kube.get(VOLUMES, limit="1")
    version = page.metadata["resourceVersion"]
    await kube.patch(f"{VOLUMES}/{name}-0", {"metadata": {"finalizers": [OURS]}})

    await apiserver.forget_history()

    further = await kube.get(VOLUMES, limit="1", **{"continue": page.metadata["continue"]})
    async with kube.watch(VOLUMES, resourceVersion=version) as lines:
        error = await lines.next()
        with pytest.raises(EOFError):
            await lines.next()
    assert (further.status, further.reason) == (410, "Expired")
    resumed = await kube.get(VOLUMES, **{"continue": further.metadata["continue"]})
    assert resumed.status == 200
    assert error["type"] == "ERROR"
    status = error["object"]
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    assert status["message"].startswith(f"too old resource version: {version} (")
