"""What a kube-apiserver responds to writes of volumes, be it the fake or the real one."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.contracts.conftest import Apiserver
from tests.contracts.kube_client import JSON_PATCH, STRATEGIC, VOLUMES, Json, KubeClient, Reply
from tests.contracts.manifests import OURS, affinity, claim_ref, volume

MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)
SECOND_SOURCE = {"server": "host", "path": "/"}


async def stable_volume(kube: KubeClient, name: str, **spec: object) -> Json:
    """A new volume that our finalizer holds and that the controllers are done with."""
    made = await kube.post(VOLUMES, volume(name, metadata={"finalizers": [OURS]}, **spec))
    assert made.status == 201
    return await kube.until_phase(f"{VOLUMES}/{name}", "Available")


async def terminating_volume(kube: KubeClient, name: str) -> Json:
    """A volume that only our finalizer keeps."""
    await stable_volume(kube, name)
    assert (await kube.delete(f"{VOLUMES}/{name}")).status == 200
    return await kube.until(
        f"{VOLUMES}/{name}", lambda observed: observed["metadata"].get("finalizers") == [OURS]
    )


async def test_a_new_volume_gets_the_fields_that_only_the_server_sets(
    kube: KubeClient, name: str
) -> None:
    reported = {"uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "finalizers": [OURS]}
    reported["deletionTimestamp"] = "2001-01-01T00:00:00Z"

    made = await kube.post(
        VOLUMES,
        {**volume(name, metadata=reported), "status": {"phase": "Bound"}},
        fieldManager="me",
    )

    assert made.status == 201
    assert made.metadata["uid"] != "mine"
    assert int(made.metadata["resourceVersion"]) > 1
    assert made.metadata["creationTimestamp"] > "2020"
    assert "deletionTimestamp" not in made.metadata
    assert made.metadata["finalizers"] == [OURS, "kubernetes.io/pv-protection"]
    [entry] = made.metadata["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("me", "Update", "v1")
    assert made.body["spec"]["volumeMode"] == "Filesystem"
    assert made.body["status"]["phase"] == "Pending"
    assert list(made.body) == ["kind", "apiVersion", "metadata", "spec", "status"]


async def test_a_volume_that_exists_cannot_be_created(kube: KubeClient, name: str) -> None:
    await kube.post(VOLUMES, volume(name))

    again = await kube.post(VOLUMES, volume(name))
    dry_run = await kube.post(VOLUMES, volume(name), dryRun="All")

    assert (again.status, again.reason) == (409, "AlreadyExists")
    assert again.message == f'persistentvolumes "{name}" already exists'
    assert again.body["details"] == {"name": name, "kind": "persistentvolumes"}
    assert dry_run.body == again.body


async def test_a_dry_run_creation_is_validated_and_not_stored(kube: KubeClient, name: str) -> None:
    fine = await kube.post(VOLUMES, volume(name), dryRun="All")
    broken = await kube.post(VOLUMES, volume(name, capacity=None), dryRun="All")

    assert fine.status == 201
    assert "resourceVersion" not in fine.metadata
    assert broken.status == 422
    assert (await kube.get(f"{VOLUMES}/{name}")).status == 404


async def test_a_name_stays_in_use_until_the_old_object_is_removed(
    kube: KubeClient, name: str
) -> None:
    await terminating_volume(kube, name)

    made = await kube.post(VOLUMES, volume(name))
    dry_run = await kube.post(VOLUMES, volume(name), dryRun="All")

    message = f'object is being deleted: persistentvolumes "{name}" already exists'
    assert (made.status, made.reason, made.message) == (409, "AlreadyExists", message)
    assert dry_run.body == made.body


async def test_a_new_object_must_not_have_a_resource_version(kube: KubeClient, name: str) -> None:
    made = await kube.post(VOLUMES, volume(name, metadata={"resourceVersion": "5"}))

    assert made.status == 500
    assert made.message == "resourceVersion should not be set on objects to be created"


async def test_a_missing_volume_is_not_found(kube: KubeClient, name: str) -> None:
    path = f"{VOLUMES}/{name}"

    replies = [
        await kube.get(path),
        await kube.patch(path, {"metadata": {"labels": {"a": "b"}}}),
        await kube.put(path, volume(name)),
        await kube.delete(path),
    ]

    for reply in replies:
        assert reply.body == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": f'persistentvolumes "{name}" not found',
            "reason": "NotFound",
            "details": {"name": name, "kind": "persistentvolumes"},
            "code": 404,
        }


@pytest.mark.parametrize(
    ("changes", "causes"),
    [
        pytest.param({"csi": None}, [("FieldValueRequired", "spec")], id="no source"),
        pytest.param(
            {"nfs": SECOND_SOURCE}, [("FieldValueForbidden", "spec.csi")], id="two sources"
        ),
        pytest.param(
            {"csi": {}},
            [
                ("FieldValueRequired", "spec.csi.driver"),
                ("FieldValueRequired", "spec.csi.volumeHandle"),
            ],
            id="empty source",
        ),
        pytest.param(
            {"capacity": None},
            [
                ("FieldValueRequired", "spec.capacity"),
                ("FieldValueNotSupported", "spec.capacity"),
            ],
            id="no capacity",
        ),
        pytest.param(
            {"accessModes": None}, [("FieldValueRequired", "spec.accessModes")], id="no modes"
        ),
        pytest.param(
            {"accessModes": ["X"], "persistentVolumeReclaimPolicy": "Y", "volumeMode": "Z"},
            [
                ("FieldValueNotSupported", "spec.accessModes"),
                ("FieldValueNotSupported", "spec.persistentVolumeReclaimPolicy"),
                ("FieldValueNotSupported", "spec.volumeMode"),
            ],
            id="unknown words",
        ),
        pytest.param(
            {"nodeAffinity": {"required": {"nodeSelectorTerms": []}}},
            [("FieldValueRequired", "spec.nodeAffinity.required.nodeSelectorTerms")],
            id="affinity without terms",
        ),
        pytest.param(
            {"metadata": {"annotations": {"a": "x" * 262_144}}},
            [("FieldValueTooLong", "metadata.annotations")],
            id="annotations too long",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["plain"]}},
            [("FieldValueInvalid", "metadata.finalizers[0]")],
            id="finalizer without domain",
        ),
        pytest.param(
            {"metadata": {"name": "No_Name"}}, [("FieldValueInvalid", "metadata.name")], id="name"
        ),
    ],
)
async def test_an_invalid_volume_is_rejected_with_every_error(
    kube: KubeClient, name: str, changes: Json, causes: list[tuple[str, str]]
) -> None:
    made = await kube.post(VOLUMES, volume(name, **changes))

    assert (made.status, made.reason) == (422, "Invalid")
    # Kubernetes 1.34 also says what is wrong with an empty name of a driver.
    assert [
        each for each in made.causes if each != ("FieldValueInvalid", "spec.csi.driver")
    ] == causes


async def test_an_unknown_field_is_dropped_with_a_warning(kube: KubeClient, name: str) -> None:
    manifest = volume(name, fromTheFuture={"kept": False})

    strict = await kube.post(VOLUMES, manifest, fieldValidation="Strict")
    made = await kube.post(VOLUMES, manifest)

    assert strict.status == 400
    assert strict.message.endswith('strict decoding error: unknown field "spec.fromTheFuture"')
    assert made.status == 201
    assert made.headers["Warning"] == '299 - "unknown field \\"spec.fromTheFuture\\""'
    assert "fromTheFuture" not in made.body["spec"]


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        pytest.param(("POST", VOLUMES, b'{"a":', {}), 400, "BadRequest", id="broken JSON"),
        pytest.param(("POST", VOLUMES, b"", {}), 400, "BadRequest", id="empty body"),
        pytest.param(
            ("POST", VOLUMES, b" " * (3 * 1024 * 1024 + 1), {}),
            413,
            "RequestEntityTooLarge",
            id="3 MiB",
        ),
        pytest.param(
            ("POST", VOLUMES, b"{}", {"Content-Type": "text/plain"}),
            415,
            "UnsupportedMediaType",
            id="plain text",
        ),
        pytest.param(
            ("POST", VOLUMES, volume("n") | {"kind": "Node"}, {}), 400, "BadRequest", id="kind"
        ),
        pytest.param(
            ("POST", VOLUMES, volume("n", capacity=3), {}), 400, "BadRequest", id="wrong type"
        ),
        pytest.param(("POST", f"{VOLUMES}/n", {}, {}), 405, "MethodNotAllowed", id="POST to name"),
        pytest.param(("PUT", VOLUMES, {}, {}), 405, "MethodNotAllowed", id="PUT to list"),
        pytest.param(("GET", "/api/v1/nopes", None, {}), 404, "NotFound", id="unknown resource"),
        pytest.param(
            ("GET", VOLUMES, None, {"Accept": "text/xml"}), 406, "NotAcceptable", id="XML"
        ),
    ],
)
async def test_a_malformed_request_gets_a_status(
    kube: KubeClient,
    request_: tuple[str, str, object, dict[str, str]],
    status: int,
    reason: str,
) -> None:
    method, path, body, headers = request_

    reply = await kube.send(method, path, body, headers=headers)

    assert (reply.status, reply.reason) == (status, reason)
    assert reply.body["kind"] == "Status"


async def test_a_wrong_token_is_unauthorized(apiserver: Apiserver) -> None:
    async with apiserver.sign_in("Bearer wrong") as session:
        reply = await KubeClient(session).get(VOLUMES)

    assert (reply.status, reply.message) == (401, "Unauthorized")


@pytest.mark.parametrize("sent", [None, "Bearer", "Bearer "], ids=repr)
async def test_a_request_without_a_token_is_anonymous_and_forbidden(
    apiserver: Apiserver, sent: str | None
) -> None:
    async with apiserver.sign_in(sent) as session:
        reply = await KubeClient(session).get(f"{VOLUMES}/n")

    assert (reply.status, reply.reason) == (403, "Forbidden")
    assert reply.message == (
        'persistentvolumes "n" is forbidden: User "system:anonymous" cannot get resource '
        '"persistentvolumes" in API group "" at the cluster scope'
    )


async def test_an_affinity_can_be_set_once(kube: KubeClient, name: str) -> None:
    await stable_volume(kube, name)

    unset = await kube.patch(f"{VOLUMES}/{name}", {"spec": {"nodeAffinity": affinity("a")}})
    same = await kube.patch(f"{VOLUMES}/{name}", {"spec": {"nodeAffinity": affinity("a")}})
    other = await kube.patch(f"{VOLUMES}/{name}", {"spec": {"nodeAffinity": affinity("b")}})
    none = await kube.patch(f"{VOLUMES}/{name}", {"spec": {"nodeAffinity": None}})

    assert (unset.status, same.status, other.status, none.status) == (200, 200, 422, 422)
    given = (
        '{"Required":{"NodeSelectorTerms":[{"MatchExpressions":[{"Key":"linbit.com/hostname",'
        '"Operator":"In","Values":["b"]}],"MatchFields":null}]}}'
    )
    fixed = "field is immutable, except for updating from beta label to GA"
    start = f'PersistentVolume "{name}" is invalid: nodeAffinity: Invalid value: '
    assert other.message == f"{start}{given}: {fixed}"
    assert other.causes == [("FieldValueInvalid", "nodeAffinity")]
    assert none.message == f"{start}null: {fixed}"


async def test_with_the_feature_gate_an_affinity_can_change_and_be_removed(
    mutable_apiserver: Apiserver, name: str
) -> None:
    kube = mutable_apiserver.kube
    await stable_volume(kube, name, nodeAffinity=affinity("a"))

    other = await kube.patch(f"{VOLUMES}/{name}", {"spec": {"nodeAffinity": affinity("b")}})
    none = await kube.patch(f"{VOLUMES}/{name}", {"spec": {"nodeAffinity": None}})

    assert (other.status, none.status) == (200, 200)
    assert other.body["spec"]["nodeAffinity"] == affinity("b")
    assert "nodeAffinity" not in none.body["spec"]


@pytest.mark.parametrize(
    ("spec", "reason", "field"),
    [
        pytest.param(
            {"csi": {"volumeHandle": "other"}},
            "FieldValueForbidden",
            "spec.persistentvolumesource",
            id="source",
        ),
        pytest.param({"volumeMode": "Block"}, "FieldValueInvalid", "volumeMode", id="mode"),
    ],
)
async def test_some_fields_are_immutable(
    kube: KubeClient, name: str, spec: Json, reason: str, field: str
) -> None:
    await stable_volume(kube, name)

    reply = await kube.patch(f"{VOLUMES}/{name}", {"spec": spec})

    assert (reply.status, reply.causes) == (422, [(reason, field)])


async def test_a_patch_can_be_guarded_by_uid(kube: KubeClient, name: str) -> None:
    was = await stable_volume(kube, name)
    patch = {"metadata": {"uid": "other", "labels": {"a": "b"}}}

    other = await kube.patch(f"{VOLUMES}/{name}", patch)
    patch["metadata"]["uid"] = was["metadata"]["uid"]
    same = await kube.patch(f"{VOLUMES}/{name}", patch)

    assert (other.status, other.causes) == (422, [("FieldValueInvalid", "metadata.uid")])
    assert other.message == (
        f'PersistentVolume "{name}" is invalid: metadata.uid: Invalid value: "other": '
        "field is immutable"
    )
    assert same.status == 200


async def test_a_write_can_be_guarded_by_resource_version(kube: KubeClient, name: str) -> None:
    was = await stable_volume(kube, name)
    outdated = was["metadata"]["resourceVersion"]
    newer = await kube.patch(f"{VOLUMES}/{name}", {"metadata": {"labels": {"a": "b"}}})

    patched = await kube.patch(f"{VOLUMES}/{name}", {"metadata": {"resourceVersion": outdated}})
    put = await kube.put(f"{VOLUMES}/{name}", was)
    current = await kube.put(f"{VOLUMES}/{name}", newer.body)

    assert int(newer.metadata["resourceVersion"]) > int(outdated)
    assert (patched.status, patched.reason) == (409, "Conflict")
    assert patched.message == (
        f'Operation cannot be fulfilled on persistentvolumes "{name}": {MODIFIED}'
    )
    assert put.body == patched.body
    assert current.status == 200


async def test_a_patch_that_changes_nothing_preserves_the_version(
    kube: KubeClient, name: str
) -> None:
    was = await stable_volume(kube, name)

    same = await kube.patch(
        f"{VOLUMES}/{name}",
        {"spec": {"storageClassName": name}, "status": {"phase": "Failed"}},
        fieldManager="another",
    )

    assert same.status == 200
    assert same.body == was


async def test_a_dry_run_patch_is_validated_and_not_stored(kube: KubeClient, name: str) -> None:
    was = await stable_volume(kube, name, nodeAffinity=affinity("a"))
    path = f"{VOLUMES}/{name}"

    fine = await kube.patch(path, {"metadata": {"labels": {"a": "b"}}}, dryRun="All")
    refused = await kube.patch(path, {"spec": {"nodeAffinity": affinity("b")}}, dryRun="All")
    put = await kube.put(
        path, {**was, "metadata": {**was["metadata"], "labels": {"c": "d"}}}, dryRun="All"
    )
    odd = await kube.patch(path, {}, dryRun="Some")

    assert (fine.status, refused.status, put.status, odd.status) == (200, 422, 200, 422)
    assert fine.metadata["labels"] == {"a": "b"}
    assert put.metadata["labels"] == {"c": "d"}
    assert (await kube.get(path)).body == was


async def test_finalizers_merge_only_in_a_strategic_merge_patch(
    kube: KubeClient, name: str
) -> None:
    await stable_volume(kube, name)
    path, one, two = f"{VOLUMES}/{name}", "a.io/one", "a.io/two"

    joined = await kube.patch(path, {"metadata": {"finalizers": [one]}}, STRATEGIC)
    less = {"metadata": {"$deleteFromPrimitiveList/finalizers": [one]}}
    taken = await kube.patch(path, less, STRATEGIC)
    added = [{"op": "add", "path": "/metadata/finalizers/-", "value": two}]
    appended = await kube.patch(path, added, JSON_PATCH)
    replaced = await kube.patch(path, {"metadata": {"finalizers": [two]}})

    protection = "kubernetes.io/pv-protection"
    assert joined.metadata["finalizers"] == [one, OURS, protection]
    assert taken.metadata["finalizers"] == [OURS, protection]
    assert appended.metadata["finalizers"] == [OURS, protection, two]
    assert replaced.metadata["finalizers"][0] == two
    assert OURS not in replaced.metadata["finalizers"]


async def test_a_json_patch_can_test_first(kube: KubeClient, name: str) -> None:
    was = await stable_volume(kube, name)
    path = f"{VOLUMES}/{name}"
    label = {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}

    def tested(uid: str) -> list[Json]:
        return [{"op": "test", "path": "/metadata/uid", "value": uid}, label]

    other = await kube.patch(path, tested("other"), JSON_PATCH)
    missing = await kube.patch(path, [{"op": "remove", "path": "/metadata/labels/x"}], JSON_PATCH)
    same = await kube.patch(path, tested(was["metadata"]["uid"]), JSON_PATCH)

    assert (other.status, other.reason) == (422, "Invalid")
    assert other.message == "the server rejected our request due to an error in our request"
    assert missing.body == other.body
    assert (same.status, same.metadata["labels"]) == (200, {"a": "b"})


async def test_the_status_is_a_subresource(kube: KubeClient, name: str) -> None:
    was = await stable_volume(kube, name)
    both = {"status": {"message": "hello"}, "spec": {"storageClassName": "other"}}

    main = await kube.patch(f"{VOLUMES}/{name}", {"status": {"message": "hello"}})
    status = await kube.patch(f"{VOLUMES}/{name}/status", both)

    assert "message" not in main.body["status"]
    assert status.body["status"]["message"] == "hello"
    assert status.body["spec"] == was["spec"]


async def test_a_deletion_can_be_guarded_by_uid_and_version(kube: KubeClient, name: str) -> None:
    was = (await stable_volume(kube, name))["metadata"]
    path = f"{VOLUMES}/{name}"

    other = await kube.delete(path, {"preconditions": {"uid": "other"}})
    outdated = await kube.delete(path, {"preconditions": {"resourceVersion": "5"}})
    right = {"uid": was["uid"], "resourceVersion": was["resourceVersion"]}
    fine = await kube.delete(path, {"preconditions": right})

    start = f'Operation cannot be fulfilled on PersistentVolume "{name}": the '
    assert (other.status, outdated.status, fine.status) == (409, 409, 200)
    assert other.message == (
        f"{start}UID in the precondition (other) does not match the UID in record ({was['uid']}). "
        "The object might have been deleted and then recreated"
    )
    assert other.body["details"] == {"name": name, "kind": "PersistentVolume"}
    assert outdated.message == (
        f"{start}ResourceVersion in the precondition (5) does not match the ResourceVersion in "
        f"record ({was['resourceVersion']}). The object might have been modified"
    )


async def test_a_dry_run_deletion_deletes_nothing(kube: KubeClient, name: str) -> None:
    was = await stable_volume(kube, name)
    path = f"{VOLUMES}/{name}"

    by_query = await kube.delete(path, dryRun="All")
    by_body = await kube.delete(path, {"dryRun": ["All"]})
    refused = await kube.delete(path, {"preconditions": {"uid": "other"}}, dryRun="All")

    assert (by_query.status, by_body.status, refused.status) == (200, 200, 409)
    assert "deletionTimestamp" in by_query.metadata
    assert (await kube.get(path)).body == was


async def test_finalizers_delay_a_deletion(kube: KubeClient, name: str) -> None:
    await stable_volume(kube, name)
    path = f"{VOLUMES}/{name}"

    deleted = await kube.delete(path)
    held = await kube.until(path, lambda observed: observed["metadata"]["finalizers"] == [OURS])
    again = await kube.delete(path)
    more = await kube.patch(path, {"metadata": {"finalizers": [OURS, "a.io/more"]}})

    assert (deleted.status, deleted.body["kind"]) == (200, "PersistentVolume")
    assert deleted.metadata["deletionGracePeriodSeconds"] == 0
    assert again.body == held
    assert (more.status, more.causes) == (422, [("FieldValueForbidden", "metadata.finalizers")])


async def test_without_finalizers_a_deletion_returns_a_status(kube: KubeClient, name: str) -> None:
    was = await stable_volume(kube, name)
    path = f"{VOLUMES}/{name}"
    await kube.patch(path, {"metadata": {"finalizers": None}})
    # The protection controller may put its own back at once.
    reply = await kube.delete(path)

    await kube.until_gone(path)
    if reply.body["kind"] == "Status":
        assert reply.body == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {
                "name": name,
                "kind": "persistentvolumes",
                "uid": was["metadata"]["uid"],
            },
        }


async def emptied_by_put(kube: KubeClient, path: str, was: Json) -> Reply:
    return await kube.put(path, {**was, "metadata": {**was["metadata"], "finalizers": []}})


async def emptied_by_patch(kube: KubeClient, path: str, _was: Json) -> Reply:
    return await kube.patch(path, {"metadata": {"finalizers": []}})


@pytest.mark.parametrize("empty", [emptied_by_put, emptied_by_patch])
async def test_removing_the_last_finalizer_removes_the_object(
    kube: KubeClient,
    name: str,
    empty: Callable[[KubeClient, str, Json], Awaitable[Reply]],
) -> None:
    was = await terminating_volume(kube, name)
    path = f"{VOLUMES}/{name}"

    dry_run = await kube.patch(path, {"metadata": {"finalizers": []}}, dryRun="All")
    still = await kube.get(path)
    reply = await empty(kube, path, was)

    assert (dry_run.status, still.status) == (200, 200)
    assert (reply.status, reply.metadata["uid"]) == (200, was["metadata"]["uid"])
    assert "finalizers" not in reply.metadata
    assert (await kube.get(path)).status == 404


async def test_a_late_put_does_not_affect_the_next_incarnation(kube: KubeClient, name: str) -> None:
    was = await terminating_volume(kube, name)
    path = f"{VOLUMES}/{name}"
    await emptied_by_put(kube, path, was)
    now = await stable_volume(kube, name)

    late = await emptied_by_put(kube, path, was)

    old, new = was["metadata"]["uid"], now["metadata"]["uid"]
    assert (late.status, late.reason) == (409, "Conflict")
    assert late.message.endswith(
        f"Precondition failed: UID in precondition: {old}, UID in object meta: {new}"
    )
    assert (await kube.get(path)).metadata["uid"] == new


@pytest.mark.parametrize("nth", range(8))
async def test_the_delete_event_has_what_the_last_write_changed(
    kube: KubeClient, name: str, nth: int
) -> None:
    """The real API server mostly takes both, though the PUT has a version that is old by then."""
    was = await terminating_volume(kube, name)
    path = f"{VOLUMES}/{name}"

    async with kube.watch(
        VOLUMES,
        resourceVersion=was["metadata"]["resourceVersion"],
        fieldSelector=f"metadata.name={name}",
    ) as lines:
        emptied, written = await asyncio.gather(
            emptied_by_put(kube, path, was),
            kube.patch(path, {"metadata": {"labels": {"late": str(nth)}}}),
        )
        if emptied.status != 200:
            await emptied_by_patch(kube, path, was)
        *_, last = await lines.until(lambda event: event["type"] == "DELETED")

    assert emptied.status in {200, 409}
    assert written.status in {200, 404}
    assert ("late" in last["object"]["metadata"].get("labels", {})) is (written.status == 200)


async def test_a_put_must_have_the_name_of_its_object(kube: KubeClient, name: str) -> None:
    await stable_volume(kube, name)

    reply = await kube.put(f"{VOLUMES}/{name}", volume(f"{name}-other"))

    assert (reply.status, reply.reason) == (400, "BadRequest")
    assert reply.message == (
        f"the name of the object ({name}-other) does not match the name on the URL ({name})"
    )


async def test_a_put_without_uid_and_version_is_unconditional(kube: KubeClient, name: str) -> None:
    was = await stable_volume(kube, name)
    minimal = volume(name, metadata={"finalizers": [OURS]}, mountOptions=["noatime"])

    put = await kube.put(f"{VOLUMES}/{name}", minimal)

    assert put.status == 200
    assert put.metadata["uid"] == was["metadata"]["uid"]
    assert put.body["spec"]["mountOptions"] == ["noatime"]


async def test_a_claim_ref_is_stored_as_given(kube: KubeClient, name: str) -> None:
    minimal = {"namespace": "default", "name": name, "uid": "gone", "resourceVersion": "7"}

    made = await kube.post(VOLUMES, volume(name, claimRef=minimal))
    full = await kube.post(VOLUMES, volume(f"{name}-b", claimRef=claim_ref(f"{name}-b")))

    assert made.body["spec"]["claimRef"] == minimal
    assert full.body["spec"]["claimRef"] == claim_ref(f"{name}-b")


async def test_of_many_writers_with_one_version_exactly_one_succeeds(
    kube: KubeClient, name: str
) -> None:
    was = await stable_volume(kube, name)
    version = was["metadata"]["resourceVersion"]

    replies = await asyncio.gather(
        *(
            kube.patch(
                f"{VOLUMES}/{name}",
                {"metadata": {"resourceVersion": version, "labels": {"winner": str(number)}}},
            )
            for number in range(8)
        )
    )

    assert sorted(reply.status for reply in replies) == [200] + [409] * 7
