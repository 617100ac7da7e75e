"""Which fields each kind has. A kube-apiserver drops what it does not know, with a warning."""

import re
from collections.abc import Callable
from typing import Any, Final

from tests.fakes.kube_server.refusals import bad_request
from tests.fakes.kube_server.resources import Resource


class _Whatever:
    """Kept as it is."""


class _Strings:
    """An object whose values are strings."""


class _MicroTime:
    """A time with exactly six digits behind the point."""


WHATEVER: Final = _Whatever()
STRINGS: Final = _Strings()
MICRO_TIME: Final = _MicroTime()

Schema = dict[str, "Schema | _Whatever | _Strings | _MicroTime"]
"""Fields in the order in which the server writes them; lists are meant element by element."""

MICRO_TIME_PATTERN = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)"

METADATA: Schema = {
    "name": WHATEVER,
    "generateName": WHATEVER,
    "namespace": WHATEVER,
    "uid": WHATEVER,
    "resourceVersion": WHATEVER,
    "generation": WHATEVER,
    "creationTimestamp": WHATEVER,
    "deletionTimestamp": WHATEVER,
    "deletionGracePeriodSeconds": WHATEVER,
    "labels": STRINGS,
    "annotations": STRINGS,
    "ownerReferences": {
        "apiVersion": WHATEVER,
        "kind": WHATEVER,
        "name": WHATEVER,
        "uid": WHATEVER,
        "controller": WHATEVER,
        "blockOwnerDeletion": WHATEVER,
    },
    "finalizers": WHATEVER,
    "managedFields": WHATEVER,
}

_REFERENCE: Schema = {
    "kind": WHATEVER,
    "namespace": WHATEVER,
    "name": WHATEVER,
    "uid": WHATEVER,
    "apiVersion": WHATEVER,
    "resourceVersion": WHATEVER,
    "fieldPath": WHATEVER,
}
_EXPRESSION: Schema = {"key": WHATEVER, "operator": WHATEVER, "values": WHATEVER}
_TERM: Schema = {"matchExpressions": _EXPRESSION, "matchFields": _EXPRESSION}
_SECRET: Schema = {"name": WHATEVER, "namespace": WHATEVER}

OTHER_SOURCES = (
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "hostPath",
    "glusterfs",
    "nfs",
    "rbd",
    "iscsi",
    "cinder",
    "cephfs",
    "fc",
    "flocker",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "local",
    "storageos",
)

_VOLUME: Schema = {
    "spec": {
        "capacity": WHATEVER,
        **dict.fromkeys(OTHER_SOURCES, WHATEVER),
        "csi": {
            "driver": WHATEVER,
            "volumeHandle": WHATEVER,
            "readOnly": WHATEVER,
            "fsType": WHATEVER,
            "volumeAttributes": STRINGS,
            "controllerPublishSecretRef": _SECRET,
            "nodeStageSecretRef": _SECRET,
            "nodePublishSecretRef": _SECRET,
            "controllerExpandSecretRef": _SECRET,
            "nodeExpandSecretRef": _SECRET,
        },
        "accessModes": WHATEVER,
        "claimRef": _REFERENCE,
        "persistentVolumeReclaimPolicy": WHATEVER,
        "storageClassName": WHATEVER,
        "mountOptions": WHATEVER,
        "volumeMode": WHATEVER,
        "nodeAffinity": {"required": {"nodeSelectorTerms": _TERM}},
        "volumeAttributesClassName": WHATEVER,
    },
    "status": {
        "phase": WHATEVER,
        "message": WHATEVER,
        "reason": WHATEVER,
        "lastPhaseTransitionTime": WHATEVER,
    },
}
_CLAIM: Schema = {
    "spec": {
        "accessModes": WHATEVER,
        "selector": WHATEVER,
        "resources": {"limits": WHATEVER, "requests": WHATEVER},
        "volumeName": WHATEVER,
        "storageClassName": WHATEVER,
        "volumeMode": WHATEVER,
        "dataSource": WHATEVER,
        "dataSourceRef": WHATEVER,
        "volumeAttributesClassName": WHATEVER,
    },
    "status": {
        "phase": WHATEVER,
        "accessModes": WHATEVER,
        "capacity": WHATEVER,
        "conditions": WHATEVER,
        "allocatedResources": WHATEVER,
        "allocatedResourceStatuses": WHATEVER,
        "currentVolumeAttributesClassName": WHATEVER,
        "modifyVolumeStatus": WHATEVER,
    },
}
_CONFIG_MAP: Schema = {"immutable": WHATEVER, "data": STRINGS, "binaryData": STRINGS}
_STORAGE_CLASS: Schema = {
    "provisioner": WHATEVER,
    "parameters": STRINGS,
    "reclaimPolicy": WHATEVER,
    "mountOptions": WHATEVER,
    "allowVolumeExpansion": WHATEVER,
    "volumeBindingMode": WHATEVER,
    "allowedTopologies": WHATEVER,
}
_LEASE: Schema = {
    "spec": {
        "holderIdentity": WHATEVER,
        "leaseDurationSeconds": WHATEVER,
        "acquireTime": MICRO_TIME,
        "renewTime": MICRO_TIME,
        "leaseTransitions": WHATEVER,
        "strategy": WHATEVER,
        "preferredHolder": WHATEVER,
    }
}
_SERIES: Schema = {"count": WHATEVER, "lastObservedTime": MICRO_TIME}
_EVENT: Schema = {
    "eventTime": MICRO_TIME,
    "series": _SERIES,
    "reportingController": WHATEVER,
    "reportingInstance": WHATEVER,
    "action": WHATEVER,
    "reason": WHATEVER,
    "regarding": _REFERENCE,
    "related": _REFERENCE,
    "note": WHATEVER,
    "type": WHATEVER,
    "deprecatedSource": WHATEVER,
    "deprecatedFirstTimestamp": WHATEVER,
    "deprecatedLastTimestamp": WHATEVER,
    "deprecatedCount": WHATEVER,
}
_CORE_EVENT: Schema = {
    "involvedObject": _REFERENCE,
    "reason": WHATEVER,
    "message": WHATEVER,
    "source": WHATEVER,
    "firstTimestamp": WHATEVER,
    "lastTimestamp": WHATEVER,
    "count": WHATEVER,
    "type": WHATEVER,
    "eventTime": MICRO_TIME,
    "series": _SERIES,
    "action": WHATEVER,
    "related": _REFERENCE,
    "reportingComponent": WHATEVER,
    "reportingInstance": WHATEVER,
}
_ANYTHING: Schema = {"spec": WHATEVER, "status": WHATEVER}

_CONTENT: dict[str, Schema] = {
    "persistentvolumes": _VOLUME,
    "persistentvolumeclaims": _CLAIM,
    "configmaps": _CONFIG_MAP,
    "storageclasses.storage.k8s.io": _STORAGE_CLASS,
    "leases.coordination.k8s.io": _LEASE,
    "events": _CORE_EVENT,
    "events.events.k8s.io": _EVENT,
}


def known_part(resource: Resource, content: dict[str, Any], warn: Callable[[str], None]) -> Any:
    """The fields that the server knows, in its order and without nulls.

    `warn` gets the path of each that was dropped. Raises Refusal when a value has the wrong
    type; only the mistakes that a client of ours could make are looked for.
    """
    fields = {"metadata": METADATA, **_CONTENT.get(resource.qualified, _ANYTHING)}
    return _Reader(resource, warn).object(content, fields, "")


class _Reader:
    def __init__(self, resource: Resource, warn: Callable[[str], None]) -> None:
        self._resource, self._warn = resource, warn

    def object(self, given: Any, schema: Schema, path: str) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise self._mistyped(given, path)
        for key in given:
            if key not in schema:
                self._warn(f"{path}{key}")
        return {
            key: self._value(given[key], below, f"{path}{key}")
            for key, below in schema.items()
            if given.get(key) is not None
        }

    def _value(
        self, given: Any, schema: Schema | _Whatever | _Strings | _MicroTime, path: str
    ) -> Any:
        if isinstance(schema, _Whatever):
            if path == "spec.capacity" and not isinstance(given, dict):
                raise self._mistyped(given, path)
            return given
        if isinstance(schema, _Strings):
            return self._strings(given, path)
        if isinstance(schema, _MicroTime):
            return self._micro_time(given, path)
        if isinstance(given, list):
            return [
                self.object(each, schema, f"{path}[{number}].") for number, each in enumerate(given)
            ]
        return self.object(given, schema, f"{path}.")

    def _strings(self, given: Any, path: str) -> dict[str, str]:
        if not isinstance(given, dict):
            raise self._mistyped(given, path)
        for value in given.values():
            if not isinstance(value, str):
                raise self._mistyped(value, path)
        return given

    def _micro_time(self, given: Any, path: str) -> Any:
        if not isinstance(given, str):
            raise self._mistyped(given, path)
        if re.fullmatch(MICRO_TIME_PATTERN, given) is None:
            kind = self._resource.kind
            rest = re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "", given)
            layout = "2006" if rest == given else ".000000"
            raise bad_request(
                f'{kind} in version "{self._resource.version}" cannot be handled as a {kind}: '
                f'parsing time "{given}" as "2006-01-02T15:04:05.000000Z07:00": '
                f'cannot parse "{rest}" as "{layout}"'
            )
        return given

    def _mistyped(self, given: Any, path: str) -> Exception:
        kind = self._resource.kind
        field = path.rstrip(".")
        return bad_request(
            f'{kind} in version "{self._resource.version}" cannot be handled as a {kind}: json: '
            f"cannot unmarshal {_go_name(given)} into Go struct field {kind}.{field}"
        )


def _go_name(value: Any) -> str:
    names = ((bool, "bool"), (str, "string"), (dict, "object"), (list, "array"))
    return next((name for kind, name in names if isinstance(value, kind)), "number")
