"""ConfigMaps, leases, events and the rest, on a fake or a real kube-apiserver."""

import pytest

from tests.contracts.conftest import Apiserver
from tests.contracts.kube_client import (
    CLAIMS,
    CONFIG_MAPS,
    CORE_EVENTS,
    EVENTS,
    LEASES,
    STORAGE_CLASSES,
    Json,
    KubeClient,
)
from tests.contracts.manifests import event, lease

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_a_config_map_is_deleted_at_once(kube: KubeClient, name: str) -> None:
    made = await kube.post(CONFIG_MAPS, config_map(name, a="b"))

    other = await kube.delete(f"{CONFIG_MAPS}/{name}", {"preconditions": {"uid": "other"}})
    dry_run = await kube.delete(f"{CONFIG_MAPS}/{name}", dryRun="All")
    gone = await kube.delete(f"{CONFIG_MAPS}/{name}")

    assert (made.status, made.metadata["namespace"]) == (201, "default")
    assert other.status == 409
    assert dry_run.body == gone.body
    assert gone.body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": name, "kind": "configmaps", "uid": made.metadata["uid"]},
    }
    assert (await kube.get(f"{CONFIG_MAPS}/{name}")).status == 404


async def test_a_config_map_is_not_overwritten_with_an_old_version(
    kube: KubeClient, name: str
) -> None:
    first = (await kube.post(CONFIG_MAPS, config_map(name, a="1"))).body
    second = await kube.put(f"{CONFIG_MAPS}/{name}", {**first, "data": {"a": "2"}})

    late = await kube.put(f"{CONFIG_MAPS}/{name}", {**first, "data": {"a": "3"}})
    blind = await kube.put(f"{CONFIG_MAPS}/{name}", config_map(name, a="4"))

    assert (second.status, late.status, late.reason) == (200, 409, "Conflict")
    assert (blind.status, blind.body["data"]) == (200, {"a": "4"})


@pytest.mark.parametrize(
    ("data", "status", "causes"),
    [
        ({"a": "x" * (1024 * 1024 + 1)}, 422, [("FieldValueTooLong", "[]")]),
        ({"a b": ""}, 422, [("FieldValueInvalid", "data[a b]")]),
        ({"a": {}}, 400, None),
    ],
    ids=["too long", "bad key", "wrong type"],
)
async def test_a_config_map_has_limits(
    kube: KubeClient, name: str, data: Json, status: int, causes: list[tuple[str, str]] | None
) -> None:
    reply = await kube.post(CONFIG_MAPS, {**config_map(name), "data": data})

    assert reply.status == status
    assert causes is None or reply.causes == causes


async def test_a_volume_with_the_largest_annotations_fits_into_a_config_map(
    kube: KubeClient, name: str
) -> None:
    reply = await kube.post(CONFIG_MAPS, config_map(name, entry="x" * 300 * 1024))

    assert reply.status == 201


async def test_a_namespace_must_exist_and_match_the_path(kube: KubeClient, name: str) -> None:
    missing = await kube.post(f"/api/v1/namespaces/{name}/configmaps", config_map(name))
    other = {**config_map(name), "metadata": {"name": name, "namespace": "kube-system"}}
    mismatch = await kube.post(CONFIG_MAPS, other)

    assert (missing.status, missing.message) == (404, f'namespaces "{name}" not found')
    assert (mismatch.status, mismatch.reason) == (400, "BadRequest")


async def test_the_server_can_generate_a_name(kube: KubeClient, name: str) -> None:
    manifest = {"metadata": {"generateName": f"{name}-"}, "data": {"a": "b"}}

    made = await kube.post(CONFIG_MAPS, manifest)
    nameless = await kube.post(CONFIG_MAPS, {"metadata": {}, "data": {}})

    assert made.metadata["name"].startswith(f"{name}-")
    assert len(made.metadata["name"]) == len(name) + 6
    assert nameless.causes == [("FieldValueRequired", "metadata.name")]


async def test_a_lease_is_written_with_its_latest_version_only(kube: KubeClient, name: str) -> None:
    path = f"{LEASES}/{name}"
    made = (await kube.post(LEASES, lease(name))).body
    taken = await kube.put(path, {**made, "spec": {**made["spec"], "holderIdentity": "b"}})

    late = await kube.put(path, {**made, "spec": {**made["spec"], "holderIdentity": "c"}})
    blind = await kube.put(path, lease(name, holderIdentity="d"))

    assert (taken.status, late.status, blind.status) == (200, 409, 422)
    assert late.message.startswith(
        f'Operation cannot be fulfilled on leases.coordination.k8s.io "{name}": the object has '
    )
    details = {"name": name, "group": "coordination.k8s.io", "kind": "leases"}
    assert late.body["details"] == details
    assert blind.causes == [("FieldValueInvalid", "metadata.resourceVersion")]
    assert (await kube.get(path)).body["spec"]["holderIdentity"] == "b"


async def test_a_lease_can_be_created_by_a_put(kube: KubeClient, name: str) -> None:
    versioned = lease(name)
    versioned["metadata"]["resourceVersion"] = "7"
    with_uid = lease(f"{name}-b")
    with_uid["metadata"]["uid"] = "7"

    made = await kube.put(f"{LEASES}/{name}", versioned)
    refused = await kube.put(f"{LEASES}/{name}-b", with_uid)

    assert (made.status, refused.status) == (201, 409)


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({"leaseDurationSeconds": 0}, 422),
        ({"leaseTransitions": -1}, 422),
        ({"renewTime": "soon"}, 400),
        ({"renewTime": "2026-01-01T00:00:00Z"}, 400),
        ({"renewTime": "2026-01-01T00:00:00.123456789Z"}, 400),
        ({"renewTime": "2026-01-01T00:00:00.123456+02:00"}, 201),
    ],
)
async def test_a_lease_is_validated(kube: KubeClient, name: str, spec: Json, status: int) -> None:
    reply = await kube.post(LEASES, lease(name, **spec))

    assert reply.status == status


async def test_a_missing_lease_is_reported_with_its_group(kube: KubeClient, name: str) -> None:
    reply = await kube.get(f"{LEASES}/{name}")

    assert reply.message == f'leases.coordination.k8s.io "{name}" not found'
    details = {"name": name, "group": "coordination.k8s.io", "kind": "leases"}
    assert reply.body["details"] == details


async def test_an_event_has_a_core_and_an_events_form(kube: KubeClient, name: str) -> None:
    made = await kube.post(EVENTS, event(name))

    core = await kube.get(f"{CORE_EVENTS}/{name}")

    assert made.status == 201
    assert made.body["note"] == core.body["message"] == "moved"
    assert made.body["regarding"] == core.body["involvedObject"]
    assert core.body["reportingComponent"] == "linstor-affinity-events"
    assert (core.body["kind"], core.body["apiVersion"]) == ("Event", "v1")


async def test_only_the_series_of_an_event_can_change(kube: KubeClient, name: str) -> None:
    await kube.post(EVENTS, event(name))
    series = {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}

    grown = await kube.patch(f"{EVENTS}/{name}", {"series": series})
    changed = await kube.patch(f"{EVENTS}/{name}", {"note": "other"})

    assert (grown.status, grown.body["series"]) == (200, series)
    assert (changed.status, changed.causes) == (422, [("FieldValueInvalid", "message")])


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"eventTime": None}, ["eventTime"]),
        ({"reportingController": None}, ["reportingController"] * 3),
        ({"reportingInstance": None}, ["reportingInstance"]),
        ({"action": None}, ["action"]),
        ({"reason": None}, ["reason"]),
        ({"type": None}, ["type"]),
        ({"type": "Odd"}, ["type"]),
        ({"note": "x" * 1025}, ["message"]),
        ({"reason": "x" * 129}, ["reason"]),
        ({"action": "x" * 129}, ["action"]),
        ({"reportingInstance": "x" * 129}, ["reportingInstance"]),
        (
            {"series": {"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}},
            ["series.count"],
        ),
    ],
)
async def test_an_event_must_be_complete(
    kube: KubeClient, name: str, changes: Json, fields: list[str]
) -> None:
    reply = await kube.post(EVENTS, event(name, **changes))

    assert reply.status == 422
    assert [field for _, field in reply.causes] == fields


@pytest.mark.parametrize("changes", [{"note": None}, {"regarding": None}])
async def test_an_event_needs_no_optional_fields(
    kube: KubeClient, name: str, changes: Json
) -> None:
    reply = await kube.post(EVENTS, event(name, **changes))

    assert reply.status == 201


async def test_an_event_about_a_volume_is_in_the_default_namespace(
    kube: KubeClient, name: str
) -> None:
    replies = {
        namespace: await kube.post(EVENTS.replace("default", namespace), event(name))
        for namespace in ("default", "kube-system", "kube-public")
    }

    assert [reply.status for reply in replies.values()] == [201, 201, 422]
    assert replies["kube-public"].causes == [("FieldValueInvalid", "involvedObject.namespace")]


async def test_the_time_of_an_event_has_six_digits(kube: KubeClient, name: str) -> None:
    reply = await kube.post(EVENTS, event(name, eventTime="2026-01-01T00:00:00Z"))

    assert reply.status == 400


async def test_an_event_of_the_core_group_is_about_its_namespace(
    kube: KubeClient, name: str
) -> None:
    about = {"kind": "PersistentVolumeClaim", "namespace": "default", "name": "c"}
    old = {"metadata": {"name": name}, "involvedObject": about, "reason": "R", "message": "m"}

    made = await kube.post(CORE_EVENTS, {**old, "type": "Normal"})
    other = {**old, "involvedObject": {**about, "namespace": "other"}}
    refused = await kube.post(CORE_EVENTS, other)

    assert made.status == 201
    assert (await kube.get(f"{EVENTS}/{name}")).body["note"] == "m"
    assert refused.causes == [("FieldValueInvalid", "involvedObject.namespace")]


async def test_a_storage_class_has_defaults_and_is_immutable(kube: KubeClient, name: str) -> None:
    manifest = {"metadata": {"name": name}, "provisioner": "linstor.csi.linbit.com"}
    made = await kube.post(STORAGE_CLASSES, {**manifest, "parameters": {"a": "b"}})

    changed = await kube.patch(f"{STORAGE_CLASSES}/{name}", {"parameters": {"a": "c"}})
    nobody = await kube.post(STORAGE_CLASSES, {"metadata": {"name": f"{name}-b"}})

    assert (made.body["reclaimPolicy"], made.body["volumeBindingMode"]) == ("Delete", "Immediate")
    # Forbidden it is in Kubernetes 1.34.
    [(cause, field)] = changed.causes
    assert (changed.status, field) == (422, "parameters")
    assert cause in {"FieldValueInvalid", "FieldValueForbidden"}
    assert nobody.causes == [("FieldValueRequired", "provisioner")]
    assert (await kube.delete(f"{STORAGE_CLASSES}/{name}")).status == 200


async def test_permissions_can_be_queried(kube: KubeClient) -> None:
    wish = {"verb": "patch", "resource": "persistentvolumes"}

    reply = await kube.post(REVIEWS, {"spec": {"resourceAttributes": wish}})
    nothing = await kube.post(REVIEWS, {"spec": {}})

    assert (reply.status, reply.body["status"]["allowed"]) == (201, True)
    assert reply.body["kind"] == "SelfSubjectAccessReview"
    [(cause, field)] = nothing.causes
    assert cause == "FieldValueInvalid"
    # It is the attributes' fault until 1.36, and from 1.37 on that of both kinds of them.
    assert field in {"spec", "spec.resourceAttributes"}


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nodes",
        "/api/v1/namespaces",
        "/apis/apps/v1/deployments",
        "/apis/apps/v1/namespaces/default/deployments",
        CLAIMS,
    ],
)
async def test_other_kinds_can_be_listed(kube: KubeClient, path: str) -> None:
    listed = await kube.get(path)

    assert listed.status == 200
    assert listed.body["kind"].endswith("List")


async def test_the_default_namespace_exists(kube: KubeClient) -> None:
    found = await kube.get("/api/v1/namespaces/default")

    assert (found.status, found.body["status"]["phase"]) == (200, "Active")


async def test_the_server_reports_its_version(apiserver: Apiserver) -> None:
    kube = apiserver.kube
    version = (await kube.get("/version")).body
    core = (await kube.get("/api")).body
    groups = {group["name"] for group in (await kube.get("/apis")).body["groups"]}
    volumes = next(
        row
        for row in (await kube.get("/api/v1")).body["resources"]
        if row["name"] == "persistentvolumes"
    )
    classes = (await kube.get("/apis/storage.k8s.io/v1")).body

    assert version["gitVersion"] == apiserver.version
    assert apiserver.version.startswith(f"v{version['major']}.{version['minor']}.")
    assert core["versions"] == ["v1"]
    assert {"storage.k8s.io", "coordination.k8s.io", "events.k8s.io", "apps"} <= groups
    assert (volumes["kind"], volumes["namespaced"]) == ("PersistentVolume", False)
    assert {"get", "list", "watch", "patch", "update", "create", "delete"} <= set(volumes["verbs"])
    assert classes["groupVersion"] == "storage.k8s.io/v1"


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
async def test_the_server_is_healthy(kube: KubeClient, path: str) -> None:
    reply = await kube.get(path)

    assert (reply.status, reply.body) == (200, b"ok")
