"""A fake cluster, with a kube-apiserver's manners but without HTTP."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes.kube_server import metadata as meta
from tests.fakes.kube_server import patches
from tests.fakes.kube_server.collection import Key, Stored
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.kube_server.refusals import (
    Refusal,
    already_exists,
    bad_request,
    conflict,
    internal,
    invalid,
    not_found,
    wrong,
)
from tests.fakes.kube_server.resources import EVENTS, Resource, resource_named
from tests.fakes.kube_server.rules import Object
from tests.fakes.kube_server.store import Store, shown, shown_object

FIRST_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


class FakeCluster(Store):
    """Every method that writes raises `Refusal` for what a real server would refuse.

    Resources are named by their plural; "events.events.k8s.io" are events in their newer
    shape.
    """

    def __init__(self, *, mutable_affinity: bool = False, history_limit: int = 20_000) -> None:
        super().__init__(mutable_affinity=mutable_affinity, history_limit=history_limit)
        self.mutations: list[Mutation] = []
        """What admission makes of volumes that are created or updated, dry runs included."""
        for name in FIRST_NAMESPACES:
            self.create("namespaces", {"metadata": {"name": name}})
        self.compact()

    def create(
        self,
        resource: str,
        manifest: Mapping[str, Any],
        *,
        namespace: str = "",
        writer: Writer | None = None,
    ) -> Object:
        """Store a new object and return it as stored; `namespace` is the one in the address."""
        kind, writer = resource_named(resource), writer or Writer()
        new = self.read(kind, manifest, writer)
        self.prepare_namespace(kind, new, namespace)
        rules = self.rule(kind)
        meta.begin(new["metadata"], finalizer=rules.finalizer)
        self._mutate(kind, "CREATE", new, Writer())
        found = meta.mistakes(new["metadata"])
        name = new["metadata"].get("name", "")
        if name:
            rules.begin(new)
        found += rules.mistakes(new)
        if found:
            raise _invalid(kind, name, found)
        key = (new["metadata"].get("namespace", ""), name)
        existing = self.collection(kind).get(key)
        if existing is not None:
            terminating = "deletionTimestamp" in existing.content["metadata"]
            raise already_exists(kind.plural, name, group=kind.group, terminating=terminating)
        meta.entry_writer(new, None, kind, writer)
        if writer.dry_run:
            return shown_object(kind, new)
        return self.commit(kind, new)

    def update(
        self,
        resource: str,
        name: str,
        manifest: Mapping[str, Any],
        *,
        namespace: str = "",
        writer: Writer | None = None,
    ) -> tuple[Object, bool]:
        """PUT: the object as it should be. Returns it, and whether it was created."""
        kind, writer = resource_named(resource), writer or Writer()
        new = self.read(kind, manifest, writer)
        new["metadata"].setdefault("name", name)
        self.prepare_namespace(kind, new, namespace)
        _check_name(new, name)
        stored = self.collection(kind).get((namespace, name))
        rules = self.rule(kind)
        if stored is None:
            if not rules.put_creates or writer.subresource:
                raise not_found(kind.plural, name, group=kind.group)
            if new["metadata"].get("uid"):
                raise _other_uid(kind, (namespace, name), new["metadata"]["uid"], "")
            minimal = {**manifest, "metadata": {**manifest.get("metadata", {})}}
            minimal["metadata"].pop("resourceVersion", None)
            return self.create(resource, minimal, namespace=namespace, writer=writer), True
        old = stored.content
        uid, had = new["metadata"].get("uid"), old["metadata"]["uid"]
        if uid and uid != had:
            raise _other_uid(kind, stored.key, uid, had)
        if not new["metadata"].get("resourceVersion") and rules.updates_need_version:
            found = wrong("metadata.resourceVersion", "0", "must be specified for an update")
            raise invalid(kind.plural, name, [found], group=kind.group)
        return self._write(kind, stored, old, new, writer), False

    def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        *,
        namespace: str = "",
        content_type: str = patches.MERGE,
        writer: Writer | None = None,
    ) -> Object:
        """Change the object by a patch of one of the three kinds; returns it as it is then."""
        kind, writer = resource_named(resource), writer or Writer()
        stored = self.collection(kind).get((namespace, name))
        if stored is None:
            raise not_found(kind.plural, name, group=kind.group)
        before = shown(kind, stored)
        after = patches.patched(content_type, before, patch)
        new = self.read(kind, after, writer)
        self.prepare_namespace(kind, new, namespace)
        _check_name(new, name)
        return self._write(kind, stored, stored.content, new, writer)

    def delete(
        self,
        resource: str,
        name: str,
        *,
        namespace: str = "",
        uid: str | None = None,
        version: str | None = None,
        writer: Writer | None = None,
    ) -> tuple[Object, bool]:
        """Begin or finish a deletion. Returns the object, and whether it is gone for good."""
        kind, writer = resource_named(resource), writer or Writer()
        stored = self.collection(kind).get((namespace, name))
        if stored is None:
            raise not_found(kind.plural, name, group=kind.group)
        content = stored.content
        _check_preconditions(kind, content, uid, version)
        metadata = content["metadata"]
        if not metadata.get("finalizers"):
            if not writer.dry_run:
                self.remove(kind, content)
            return shown_object(kind, content), True
        if "deletionTimestamp" not in metadata:
            meta.mark_deleted(metadata)
            if not writer.dry_run:
                return self.commit(kind, content), False
        return shown_object(kind, content), False

    def _mutate(self, kind: Resource, operation: str, new: Object, writer: Writer) -> None:
        if kind.plural == "persistentvolumes" and not writer.subresource:
            for mutation in self.mutations:
                mutation(operation, new)

    def _write(
        self, kind: Resource, stored: Stored, old: Object, new: Object, writer: Writer
    ) -> Object:
        """The common end of PUT and PATCH."""
        name, rules = stored.key[1], self.rule(kind)
        given = new["metadata"].pop("resourceVersion", None) or str(stored.version)
        if not given.isdigit():
            raise internal(f'strconv.ParseUint: parsing "{given}": invalid syntax')
        if int(given) != stored.version:
            raise conflict(kind.plural, name, MODIFIED, group=kind.group)
        meta.carry(new["metadata"], old["metadata"])
        (rules.carry_status if writer.subresource else rules.carry)(new, old)
        self._mutate(kind, "UPDATE", new, writer)
        found = meta.mistakes(new["metadata"]) + meta.changes(new["metadata"], old["metadata"])
        if not writer.subresource:
            found = rules.mistakes(new) + found + rules.changes(new, old)
        if found:
            raise _invalid(kind, name, found)
        new["metadata"] = meta.tidied(new["metadata"])
        new["metadata"]["resourceVersion"] = str(stored.version)
        if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers"):
            if not writer.dry_run:
                self.remove(kind, new)
            return shown_object(kind, new)
        if new == old:
            return shown_object(kind, old)
        meta.entry_writer(new, old, kind, writer)
        return shown_object(kind, new) if writer.dry_run else self.commit(kind, new)


Mutation = Callable[[str, Object], None]
"""Called with the operation, CREATE or UPDATE, and the object, which it may change."""


def _invalid(kind: Resource, name: str, found: list[Any]) -> Refusal:
    # Events say that they are of the core group, whichever way they came.
    group = "" if kind is EVENTS else kind.group
    return invalid(kind.kind, name, found, group=group)


def _check_name(new: Object, name: str) -> None:
    reported = new["metadata"].get("name")
    if reported != name:
        raise bad_request(
            f"the name of the object ({reported}) does not match the name on the URL ({name})"
        )


def _other_uid(kind: Resource, key: Key, uid: str, had: str) -> Refusal:
    path = "/".join(part for part in ("/registry", kind.plural, *key) if part)
    return conflict(
        kind.plural,
        key[1],
        f"StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, "
        f"AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, "
        f"UID in object meta: {had}",
        group=kind.group,
    )


def _check_preconditions(
    kind: Resource, content: Object, uid: str | None, version: str | None
) -> None:
    metadata = content["metadata"]
    if uid is not None and uid != metadata["uid"]:
        why = (
            f"the UID in the precondition ({uid}) does not match the UID in record "
            f"({metadata['uid']}). The object might have been deleted and then recreated"
        )
        raise conflict(kind.kind, metadata["name"], why, group=kind.group)
    if version is not None and version != metadata["resourceVersion"]:
        why = (
            f"the ResourceVersion in the precondition ({version}) does not match the "
            f"ResourceVersion in record ({metadata['resourceVersion']}). The object might have "
            "been modified"
        )
        raise conflict(kind.kind, metadata["name"], why, group=kind.group)


MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)
