"""Late writes: changes of a volume just when it was removed, as a patch for the new one."""

from collections.abc import Iterable, Mapping
from typing import Any

from linstor_affinity_events.model.changes import taken_over
from linstor_affinity_events.model.claim_ref import rebound, with_claim_of
from linstor_affinity_events.model.manifest import Manifest, Patch, guarded
from linstor_affinity_events.model.names import ClaimName

_MAPS = frozenset({("metadata", "labels"), ("metadata", "annotations")})
_GUARDS = frozenset({("metadata", "uid"), ("metadata", "resourceVersion")})


def late_patch(
    wanted: Manifest, last: Manifest, now: Manifest, *, rebound_from: ClaimName | None
) -> Patch | None:
    """What `now`, created as `wanted`, lacks of the `last` version of the original, as a guarded
    merge patch; None if nothing. Fields of `now` that differ from `wanted` stay: another client
    changed them meanwhile, or it was recreated with policy Retain. A claimRef that another client
    wrote in place of `rebound_from` is copied as a whole.
    """
    target = taken_over(wanted, last)
    if rebound(last, rebound_from):
        target = with_claim_of(target, last)
    found = _difference(wanted, target, now)
    return guarded(now, found) if found else None


def apart(patch: Patch) -> list[Patch]:
    """The same changes, unguarded: one patch for each field, label and annotation."""
    found: list[Patch] = []
    for section, fields in patch.items():
        for field, value in fields.items():
            if value and (section, field) in _MAPS:
                found += [{section: {field: {key: each}}} for key, each in value.items()]
            elif (section, field) not in _GUARDS:
                found.append({section: {field: value}})
    return found


def joined(parts: Iterable[Patch]) -> Patch:
    """One patch with these changes, of which `apart` made one for each."""
    found: dict[str, Any] = {}
    for part in parts:
        for section, fields in part.items():
            there = found.setdefault(section, {})
            for field, value in fields.items():
                if value and (section, field) in _MAPS:
                    there.setdefault(field, {}).update(value)
                else:
                    there[field] = value
    return found


def _difference(
    before: Mapping[str, Any], after: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in before.keys() | after.keys():
        old, new, there = before.get(key), after.get(key), now.get(key)
        if old == new:
            continue
        if new is None and there == old:
            found[key] = None
        elif _is_tree(old) and _is_tree(new) and _is_tree(there):
            if inner := _difference(old or {}, new or {}, there or {}):
                found[key] = inner
        elif there == old:
            found[key] = new
    return found


def _is_tree(value: object) -> bool:
    """True also if the field is absent."""
    return value is None or isinstance(value, Mapping)
