"""The journal entry of an unfinished replacement: everything that is needed to finish it.

An entry is untrusted input: otherwise whoever can write it could have us create any volume.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from typing import Any, Self

from linstor_affinity_events.errors import BadEntry, BadHandle
from linstor_affinity_events.model.affinity import MOST_TERMS, NodeAffinity
from linstor_affinity_events.model.keys import (
    DRIVER,
    FINALIZER,
    MARKER_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
    VolumeKey,
    parse_handle,
)
from linstor_affinity_events.model.manifest import (
    Manifest,
    annotations_of,
    claim_of,
    name_of,
    uid_of,
)
from linstor_affinity_events.model.names import LONGEST_NAME, ClaimName, PvName, Uid, is_pv_name
from linstor_affinity_events.model.recreation import SERVER_SET, copy_for_create, recreated

FORMAT = 1
_MAX_DEPTH = 32
MOST_VALUES = 20_000
"""The most values in a PersistentVolume that is read here. The largest node affinity that is ever
set takes half of them.
"""

MOST_ITEMS = 1000
"""The most finalizers, owner references or mount options."""

MOST_ANNOTATIONS, MOST_BYTES, MOST_NUMBER = 255 * 1024, 960 * 1024, 10_000
"""Bytes of all annotations of a volume, bytes of the volume as JSON, and number of its annotations,
up to which what this service may have to add is sure to fit. Kubernetes accepts 256 KiB of
annotations, and an entry of 1 MiB.
"""
_POLICIES = frozenset({"Delete", "Recycle", "Retain"})
_OTHER_SOURCES = frozenset(
    (
        *("awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "fc"),
        *("flexVolume", "flocker", "gcePersistentDisk", "glusterfs", "hostPath", "iscsi"),
        *("local", "nfs", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd"),
        *("scaleIO", "storageos", "vsphereVolume"),
    )
)
"""The other volume sources; a hostPath in an entry would give access to a node."""


class State(StrEnum):
    """How far a replacement may have progressed."""

    PREPARED = "prepared"
    """Nothing is deleted yet: an observed deletion is another client's."""

    DELETING = "deleting"
    """We may have deleted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One unfinished replacement. `wanted` has the original's policy, annotations, finalizers."""

    pv: PvName
    key: VolumeKey
    uid: Uid
    """The incarnation being replaced; empty if it was gone before the entry was written, which is
    only possible for one taken over from the reference controller.
    """

    claim: ClaimName | None
    state: State
    wanted: Manifest
    holder: str = ""
    """The instance that wrote it."""

    version: str = ""
    """The version of the stored entry that was read; guards the next write."""

    @classmethod
    def begin(cls, pv: Manifest, key: VolumeKey, affinity: NodeAffinity, *, holder: str) -> Self:
        return cls(
            pv=name_of(pv),
            key=key,
            uid=uid_of(pv),
            claim=claim_of(pv),
            state=State.PREPARED,
            wanted=recreated(pv, affinity),
            holder=holder,
        )

    def deleting(self) -> "JournalEntry":
        return replace(self, state=State.DELETING)

    def prepared(self) -> "JournalEntry":
        """Back to `prepared`: the deletion turned out to be another client's."""
        return replace(self, state=State.PREPARED)

    def wanting(self, wanted: Manifest) -> "JournalEntry":
        return replace(self, wanted=wanted, claim=claim_of(wanted))

    @property
    def user(self) -> ClaimName | None:
        """The claim that uses the volume; None if none does, even if it is reserved for one."""
        return self.claim if self.claim is not None and self.claim.uid else None

    @property
    def policy(self) -> str:
        return str(self.wanted["spec"].get("persistentVolumeReclaimPolicy", "Retain"))

    def written(self) -> dict[str, Any]:
        """As a JSON tree for `read_entry`."""
        return {
            "format": FORMAT,
            "pv": self.pv,
            "volume": str(self.key),
            "uid": self.uid,
            "claim": None
            if self.claim is None
            else {
                "namespace": self.claim.namespace,
                "name": self.claim.name,
                "uid": self.claim.uid,
            },
            "state": str(self.state),
            "holder": self.holder,
            "wanted": self.wanted,
        }


@dataclass(frozen=True, slots=True)
class Space:
    """What annotations take, or what is left for them. Negative if there are too many already."""

    annotations: int
    """Bytes of keys and values."""
    json: int
    """Bytes of the whole volume, or of its entry, as JSON."""
    number: int

    @classmethod
    def left_by(cls, wanted: Manifest) -> Self:
        """What a volume leaves for annotations that this service may have to add, such as the
        original policy. Who may annotate volumes must not be able to use that up.
        """
        annotations = annotations_of(wanted)
        texts = chain.from_iterable(annotations.items())
        return cls(
            annotations=MOST_ANNOTATIONS - sum(map(_bytes, texts)),
            json=MOST_BYTES - _bytes(json.dumps(wanted, ensure_ascii=False)),
            number=MOST_NUMBER - len(annotations),
        )

    @classmethod
    def of(cls, key: str, value: str) -> Self:
        """What an annotation takes; as JSON it may take less."""
        texts = (key, value)
        return cls(sum(map(_bytes, texts)), sum(map(_most_json_bytes, texts)), 1)

    def __sub__(self, other: "Space") -> "Space":
        return Space(
            self.annotations - other.annotations,
            self.json - other.json,
            self.number - other.number,
        )

    @property
    def suffices(self) -> bool:
        return min(self.annotations, self.json, self.number) >= 0


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _most_json_bytes(text: str) -> int:
    """With quotes, and what is between this text and the next one."""
    plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    return 4 + (len(text) if plain else 6 * len(text))


LONGEST_HOLDER = 1024
"""The name of an instance is a pod's, or what operators choose."""


def read_entry(tree: object, *, version: str = "") -> JournalEntry:
    """Read an entry that `JournalEntry.written` made, without trusting it. Raises BadEntry."""
    if not isinstance(tree, Mapping) or tree.get("format") != FORMAT:
        raise BadEntry(f"the journal entry does not have format {FORMAT}")
    wanted = checked_manifest(tree.get("wanted"))
    key = _handle(wanted)
    if tree.get("volume") != str(key):
        raise BadEntry(
            f"the journal entry is for volume {str(tree.get('volume'))[:80]!r}, not {key}"
        )
    if tree.get("pv") != name_of(wanted):
        raise BadEntry(f"the journal entry is for PersistentVolume {str(tree.get('pv'))[:80]!r}")
    state = tree.get("state")
    if not isinstance(state, str) or state not in set(State):
        raise BadEntry("the journal entry has no valid state")
    uid, holder = tree.get("uid"), tree.get("holder")
    if not isinstance(uid, str) or not isinstance(holder, str):
        raise BadEntry("the journal entry has no uid or no holder")
    if len(uid) > LONGEST_NAME or len(holder) > LONGEST_HOLDER:
        raise BadEntry("the journal entry has a uid or a holder that is longer than any")
    if not uid and state != State.DELETING:
        raise BadEntry("the journal entry has no uid, but its volume existed")
    claim = claim_of(wanted)
    if claim is not None and not claim.is_valid:
        raise BadEntry("its PersistentVolume has a claim whose name is not valid")
    recorded = tree.get("claim")
    if (recorded is None) != (claim is None) or (
        claim is not None
        and recorded != {"namespace": claim.namespace, "name": claim.name, "uid": claim.uid}
    ):
        raise BadEntry("the journal entry and its manifest have different claims")
    return JournalEntry(
        pv=name_of(wanted),
        key=key,
        uid=Uid(uid),
        claim=claim,
        state=State(state),
        wanted=wanted,
        holder=holder,
        version=version,
    )


def read_saved(tree: object, key: VolumeKey) -> Manifest:
    """Read a saved PV: what the reference controller stores on LINSTOR during a replacement. It
    is the volume to create, with the wanted affinity and the original policy, without uid.

    Only valid for the volume where it was found. `skip-reclaim` is dropped: that controller sets
    it itself during a replacement, and always removes it. Raises BadEntry.
    """
    saved = checked_manifest(tree, fresh=False)
    if _handle(saved) != key:
        raise BadEntry(
            f"it was found at volume {key}, but is for {saved['spec']['csi']['volumeHandle']!r}"
        )
    claim = claim_of(saved)
    if claim is None or not claim.uid:
        raise BadEntry("its PersistentVolume has no claim uid, so its owner is unknown")
    if not claim.is_valid:
        raise BadEntry("its PersistentVolume has a claim whose name is not valid")
    wanted = copy_for_create(saved)
    annotations = annotations_of(wanted)
    if annotations.pop(SKIP_RECLAIM_ANNOTATION, None) is not None:
        wanted["metadata"]["annotations"] = annotations
    wanted.setdefault("apiVersion", "v1")
    wanted.setdefault("kind", "PersistentVolume")
    return wanted


def checked_manifest(tree: object, *, fresh: bool = True) -> Manifest:
    """Return it if it has the form of a PersistentVolume of our driver. Raises BadEntry otherwise.

    A `fresh` one is ready to be created and has no uid.
    """
    if not isinstance(tree, Mapping) or tree.get("kind", "PersistentVolume") != "PersistentVolume":
        raise BadEntry("it does not contain a PersistentVolume")
    if tree.get("apiVersion", "v1") != "v1":
        raise BadEntry(f"apiVersion {str(tree['apiVersion'])[:40]!r} is not v1")
    metadata, spec = tree.get("metadata"), tree.get("spec")
    if not isinstance(metadata, Mapping) or not isinstance(spec, Mapping):
        raise BadEntry("its PersistentVolume has no metadata or no spec")
    _check_size(tree)
    _check_metadata(metadata, fresh=fresh)
    if fresh and ("status" in tree or metadata.keys() & SERVER_SET):
        raise BadEntry("its PersistentVolume has fields that only the API server sets")
    _check_spec(spec)
    return tree


def _check_metadata(metadata: Mapping[str, Any], *, fresh: bool) -> None:
    name = metadata.get("name")
    if not is_pv_name(name):
        raise BadEntry(f"{str(name)[:80]!r} is not a valid PersistentVolume name")
    texts = [metadata.get("labels"), metadata.get("annotations")]
    if not all(t is None or _is_texts(t) for t in texts):
        raise BadEntry("its labels or annotations are not strings")
    finalizers = metadata.get("finalizers") or []
    if not isinstance(finalizers, list) or not all(isinstance(f, str) for f in finalizers):
        raise BadEntry("its finalizers are not a list of strings")
    owners = metadata.get("ownerReferences") or []
    if not _are_objects(owners):
        raise BadEntry("its owner references are not a list of objects")
    if max(len(finalizers), len(owners)) > MOST_ITEMS:
        raise BadEntry(f"it has more than {MOST_ITEMS} finalizers or owner references")
    if not isinstance(metadata.get("uid", ""), str):
        raise BadEntry("its uid is not a string")
    annotations = metadata.get("annotations")
    marker = isinstance(annotations, Mapping) and MARKER_ANNOTATION in annotations
    if fresh and (marker or FINALIZER in finalizers):
        # Whoever wrote it could have us remove markers later that restore what they say.
        raise BadEntry("its PersistentVolume has replacement markers")


def _check_spec(spec: Mapping[str, Any]) -> None:
    csi = spec.get("csi")
    others = sorted(_OTHER_SOURCES & spec.keys())
    if others or not isinstance(csi, Mapping) or csi.get("driver") != DRIVER:
        raise BadEntry(f"its PersistentVolume is not of driver {DRIVER}")
    policy = spec.get("persistentVolumeReclaimPolicy", "Retain")
    if not isinstance(policy, str) or policy not in _POLICIES:
        raise BadEntry("its reclaim policy is not valid")
    for field in ("claimRef", "nodeAffinity", "capacity"):
        if not isinstance(spec.get(field, {}), Mapping | None):
            raise BadEntry(f"its {field} is not an object")
    class_name = spec.get("storageClassName", "")
    if not isinstance(class_name, str) or len(class_name) > LONGEST_NAME:
        raise BadEntry("its storageClassName is not a string, or longer than any")
    if not _is_texts(csi.get("volumeAttributes") or {}):
        raise BadEntry("its volume attributes are not strings")
    options = spec.get("mountOptions") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise BadEntry("its mount options are not a list of strings")
    if len(options) > MOST_ITEMS:
        raise BadEntry(f"it has more than {MOST_ITEMS} mount options")
    _check_affinity(spec.get("nodeAffinity") or {})
    ref = spec.get("claimRef") or {}
    if not all(isinstance(ref.get(part, ""), str) for part in ("namespace", "name", "uid")):
        raise BadEntry("its claimRef has values that are not strings")


def _check_affinity(raw: Mapping[str, Any]) -> None:
    required = raw.get("required") or {}
    terms = required.get("nodeSelectorTerms") or [] if isinstance(required, Mapping) else None
    if not _are_objects(terms) or not all(
        _are_objects(term.get("matchExpressions") or [])
        and all(isinstance(e.get("values") or [], list) for e in term.get("matchExpressions") or [])
        for term in terms or ()
    ):
        raise BadEntry("its nodeAffinity is not valid")
    if len(terms or ()) > MOST_TERMS:
        raise BadEntry(f"its nodeAffinity has more than {MOST_TERMS} terms")


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _check_size(tree: object) -> None:
    """Limit the depth for copying and writing, of which a PersistentVolume has fewer than ten
    levels, and the number of values, which are examined at each step.
    """
    level, number = [tree], 0
    for _ in range(_MAX_DEPTH):
        containers = [each for each in level if isinstance(each, Mapping | list)]
        if not containers:
            return
        number += sum(map(len, containers))
        if number > MOST_VALUES:
            raise BadEntry(f"its PersistentVolume has more than {MOST_VALUES} values")
        level = [
            inner
            for outer in containers
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
    raise BadEntry("it is nested too deeply")


def _is_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, str) for k, v in value.items()
    )


def _handle(manifest: Manifest) -> VolumeKey:
    handle = manifest["spec"]["csi"].get("volumeHandle")
    if not isinstance(handle, str):
        raise BadEntry("its PersistentVolume has no volume handle")
    try:
        return parse_handle(handle)
    except BadHandle as error:
        raise BadEntry(str(error)) from error
