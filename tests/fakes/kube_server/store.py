"""What is stored: shelves, versions and the rules of each kind. The verbs are in cluster.py."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from tests.fakes.kube_server import metadata as meta
from tests.fakes.kube_server.collection import Collection, Stored, Subscription
from tests.fakes.kube_server.event_rules import EventRules, NewEventRules, as_core, from_core
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.kube_server.refusals import bad_request, not_found
from tests.fakes.kube_server.resources import (
    CLAIMS,
    CONFIG_MAPS,
    CORE_EVENTS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODES,
    RESOURCES,
    STORAGE_CLASSES,
    VOLUMES,
    Resource,
    resource_named,
)
from tests.fakes.kube_server.rules import (
    ConfigMapRules,
    LeaseRules,
    NamespaceRules,
    NodeRules,
    Object,
    Rules,
    StorageClassRules,
)
from tests.fakes.kube_server.schema import known_part
from tests.fakes.kube_server.volume_rules import ClaimRules, VolumeRules


class Store:
    """Objects come and go as copies: what a caller changes changes nothing here."""

    def __init__(self, *, mutable_affinity: bool = False, history_limit: int = 20_000) -> None:
        self.version = 100
        """That of the last write; some are taken, so that a client's guess of 1 is too old."""
        self._collections = {
            name: Collection(history_limit) for name in {r.collection for r in RESOURCES}
        }
        self._volume_rules = VolumeRules()
        self._volume_rules.mutable_affinity = mutable_affinity
        self._rules: dict[str, Rules] = {
            VOLUMES.qualified: self._volume_rules,
            CLAIMS.qualified: ClaimRules(self._storage_class),
            CONFIG_MAPS.qualified: ConfigMapRules(),
            NAMESPACES.qualified: NamespaceRules(),
            NODES.qualified: NodeRules(),
            CORE_EVENTS.qualified: EventRules(),
            EVENTS.qualified: NewEventRules(),
            STORAGE_CLASSES.qualified: StorageClassRules(),
            LEASES.qualified: LeaseRules(),
        }

    @property
    def mutable_affinity(self) -> bool:
        """Whether a volume's affinity may change in place; may be set at any time."""
        return self._volume_rules.mutable_affinity

    @mutable_affinity.setter
    def mutable_affinity(self, allowed: bool) -> None:
        self._volume_rules.mutable_affinity = allowed

    def get(self, resource: str, name: str, namespace: str = "") -> Object | None:
        """The object as it is now, None if there is none."""
        kind = resource_named(resource)
        stored = self._collections[kind.collection].get((namespace, name))
        return None if stored is None else shown(kind, stored)

    def objects(self, resource: str, namespace: str = "") -> list[Object]:
        """All of them, by namespace and name."""
        kind = resource_named(resource)
        return [
            shown(kind, stored) for stored in self._collections[kind.collection].sorted(namespace)
        ]

    def subscribe(self, resource: str, since: int | None = None) -> Subscription:
        """Changes from now on, or those after a version that is still remembered."""
        return self.collection(resource_named(resource)).subscribe(since)

    def collection(self, resource: Resource) -> Collection:
        return self._collections[resource.collection]

    def compact(self) -> None:
        """Forget all history, so that every version before this one is too old to watch."""
        for collection in self._collections.values():
            collection.compact(self.version)

    def load(self, resource: str, objects: Iterable[Mapping[str, Any]]) -> None:
        """Put objects in as they are, with status and without any check; for large clusters."""
        kind = resource_named(resource)
        for given in objects:
            content: Object = orjson.loads(orjson.dumps(given))
            status = content.get("status")
            meta.begin(content["metadata"], finalizer=None)
            if "uid" in given["metadata"]:
                content["metadata"]["uid"] = given["metadata"]["uid"]
            known = known_part(kind, _stripped(content), lambda _: None)
            self.rule(kind).fill(known)
            if status is not None:
                known["status"] = status
            self.commit(kind, known)

    def read(self, kind: Resource, manifest: Mapping[str, Any], writer: Writer) -> Object:
        """What the server understands of a manifest, in the shape in which it is stored."""
        kind_given, version_given = manifest.get("kind"), manifest.get("apiVersion")
        if kind_given not in (None, kind.kind) or version_given not in (
            None,
            kind.api_version,
        ):
            raise bad_request(
                f'{kind_given} in version "{version_given}" cannot be handled as a {kind.kind}: '
                f"the request is about {kind.kind} in version {kind.api_version}"
            )
        unknown: list[str] = []
        known: Object = known_part(kind, _stripped(manifest), unknown.append)
        reported = [f'unknown field "{field}"' for field in unknown]
        if reported and writer.strict:
            raise bad_request(
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
                f"strict decoding error: {', '.join(reported)}"
            )
        writer.warnings += reported
        known["metadata"] = meta.tidied(known.get("metadata", {}))
        self.rule(kind).fill(known)
        return as_core(known) if kind is EVENTS else known

    def prepare_namespace(self, kind: Resource, new: Object, namespace: str) -> None:
        metadata = new["metadata"]
        if not kind.namespaced:
            metadata.pop("namespace", None)
            return
        namespace = namespace or metadata.get("namespace", "")
        if metadata.setdefault("namespace", namespace) != namespace:
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on the "
                "request"
            )
        if self.collection(NAMESPACES).get(("", namespace)) is None:
            raise not_found("namespaces", namespace)

    def commit(self, kind: Resource, content: Object) -> Object:
        self.version += 1
        metadata = meta.tidied(content["metadata"])
        metadata["resourceVersion"] = str(self.version)
        content["metadata"] = {key: metadata[key] for key in meta.ORDER if key in metadata}
        self.collection(kind).put(self._stored(content))
        return shown_object(kind, content)

    def remove(self, kind: Resource, content: Object) -> None:
        self.version += 1
        metadata = {**content["metadata"], "resourceVersion": str(self.version)}
        self.collection(kind).remove(self._stored({**content, "metadata": metadata}))

    def _stored(self, content: Object) -> Stored:
        metadata = content["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        ordered = {"metadata": metadata, **content}
        return Stored(key, self.version, orjson.dumps(ordered), metadata.get("labels", {}))

    def rule(self, kind: Resource) -> Rules:
        return self._rules.get(kind.qualified, PLAIN)

    def _storage_class(self, name: str) -> Object | None:
        return self.get("storageclasses", name)


def shown(kind: Resource, stored: Stored) -> Object:
    """A stored object as this resource shows it."""
    return shown_object(kind, stored.content)


def shown_object(kind: Resource, content: Object) -> Object:
    face = from_core(content) if kind is EVENTS else content
    return {"kind": kind.kind, "apiVersion": kind.api_version, **face}


def _stripped(manifest: Mapping[str, Any]) -> Object:
    return {key: value for key, value in manifest.items() if key not in {"kind", "apiVersion"}}


PLAIN = Rules()
