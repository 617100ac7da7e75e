"""The claimRef of a volume during its replacement: detached, restored, or left to nobody."""

from dataclasses import replace
from typing import Any

from linstor_affinity_events.model.keys import ORIGINAL_CLAIM_ANNOTATION, PROVISIONER_FINALIZER
from linstor_affinity_events.model.manifest import (
    Manifest,
    Patch,
    annotations_of,
    claim_of,
    finalizers_of,
    guarded,
    tombstone_for,
    tombstone_name,
)
from linstor_affinity_events.model.markers import claim_name_of, with_deletion
from linstor_affinity_events.model.names import ClaimName, Uid
from linstor_affinity_events.model.recreation import with_retain


def disowned(body: Manifest, uid: Uid) -> dict[str, Any]:
    """The same volume, `with_retain`, with a claimRef whose uid no claim has. A claim that says
    that it is bound already is bound to the volume with its uid there, whatever the names are.
    `uid` is that of the original volume.
    """
    retained = with_retain(body)
    claim = {**body["spec"]["claimRef"], "uid": tombstone_for(uid)}
    return {**retained, "spec": {**retained["spec"], "claimRef": claim}}


def detached(body: Manifest, uid: Uid) -> dict[str, Any]:
    """The same volume, `with_retain`, with a claimRef that no claim can ever match, and the
    original claim in an annotation: no claim gets it before a user has checked. `uid` is that of
    the original volume.
    """
    retained = with_retain(body)
    ref = body["spec"].get("claimRef") or {}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": ref.get("namespace") or "default",
        "name": tombstone_for(uid),
        "uid": tombstone_for(uid),
    }
    annotations = annotations_of(retained)
    if ref:
        annotations[ORIGINAL_CLAIM_ANNOTATION] = f"{ref.get('namespace')}/{ref.get('name')}"
    return {
        **retained,
        "metadata": {**retained["metadata"], "annotations": annotations},
        "spec": {**retained["spec"], "claimRef": claim},
    }


def tombstone_patch(manifest: Manifest, *, deleted: bool = False) -> Patch:
    """Detach the claimRef: it names a claim that does not exist, uid and namespace unchanged. Then
    the binder does not change the real claim when the volume is removed.

    The volume becomes Released. If another client set policy Delete then, the provisioner would
    delete the data; so the same write removes its finalizer, as would happen a little later anyway.
    Where this run had the volume `deleted`, it adds that to the markers: others may rewrite the
    journal entry.
    """
    patch: Patch = {"spec": {"claimRef": {"name": tombstone_name(manifest)}}}
    finalizers = finalizers_of(manifest)
    others = [f for f in finalizers if f != PROVISIONER_FINALIZER]
    # Never the last one: that would remove the volume, with weaker guards than a PUT.
    metadata: Patch = {}
    if others and others != finalizers:
        metadata["finalizers"] = others
    if deleted and (annotations := with_deletion(manifest)):
        metadata["annotations"] = annotations
    if metadata:
        patch["metadata"] = metadata
    return guarded(manifest, patch)


def rebound(manifest: Manifest, claim: ClaimName | None) -> bool:
    """Whether another client wrote a claimRef that is neither that of `claim` nor our tombstone.
    One with a name that no claim can have does not count.
    """
    named = claim_of(manifest)
    if named == claim or (named is not None and not named.is_valid):
        return False
    if named is not None and named.name == tombstone_name(manifest):
        if claim is None:
            # Another client took the claim out of the journal entry: it was there when the
            # claimRef was detached.
            return claim_name_of(manifest) != ""
        return named != replace(claim, name=named.name)
    return True


def with_claim_of(wanted: Manifest, seen: Manifest) -> dict[str, Any]:
    """`wanted` with the claimRef that another client wrote on the original meanwhile. The name of
    our tombstone stays out: a volume with it loses its data, if its policy is Delete.
    """
    spec = {k: v for k, v in wanted["spec"].items() if k != "claimRef"}
    if ref := seen["spec"].get("claimRef"):
        name = ref.get("name")
        if name == tombstone_name(seen):
            name = (wanted["spec"].get("claimRef") or {}).get("name") or claim_name_of(seen)
        spec["claimRef"] = {**ref, "name": name}
    return {**wanted, "spec": spec}
