"""Events: one kind with two faces, and the real one's list of what a new event must say."""

from typing import Any

import orjson

from tests.fakes.kube_server.refusals import Mistake, required, wrong
from tests.fakes.kube_server.rules import Object, Rules

_NEW_TO_CORE = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_CORE_TO_NEW = {core: new for new, core in _NEW_TO_CORE.items()}

_LIMITS = (("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024))


def as_core(event: Object) -> Object:
    """An event of events.k8s.io in the shape of the core group, in which it is stored."""
    return {_NEW_TO_CORE.get(key, key): value for key, value in event.items() if value != {}}


def from_core(event: Object) -> Object:
    """The other way round, with the empty fields that the real one shows."""
    shown: dict[str, Any] = {_CORE_TO_NEW.get(key, key): value for key, value in event.items()}
    for old_field in ("deprecatedSource", "regarding"):
        shown.setdefault(old_field, {})
    for time in ("eventTime", "deprecatedFirstTimestamp", "deprecatedLastTimestamp"):
        shown.setdefault(time, None)
    return shown


class EventRules(Rules):
    """Those of the core group, which leaves nearly everything open."""

    put_creates = True
    controller_field = "reportingComponent"

    def carry(self, new: Object, old: Object) -> None:
        pass

    def mistakes(self, obj: Object) -> list[Mistake]:
        namespace = obj["metadata"].get("namespace", "")
        about = (obj.get("involvedObject") or {}).get("namespace", "")
        if obj.get("eventTime"):
            found = self._modern(obj)
            matches = bool(about) or namespace in {"default", "kube-system"}
        else:
            found = []
            matches = about == namespace if about else namespace in {"", "default"}
        if not matches:
            field = "involvedObject.namespace"
            found.insert(0, wrong(field, f'"{about}"', "does not match event.namespace"))
        return found

    def _modern(self, obj: Object) -> list[Mistake]:
        found = []
        if not obj.get("reportingComponent"):
            found.append(required(self.controller_field))
            found += [wrong(self.controller_field, '""', why) for why in _EMPTY_NAME]
        found += [
            required(field)
            for field in ("reportingInstance", "action", "reason")
            if not obj.get(field)
        ]
        found += [
            wrong(field, '""', f"can have at most {limit} characters")
            for field, limit in _LIMITS
            if len(obj.get(field) or "") > limit
        ]
        return found


class NewEventRules(EventRules):
    """Those of events.k8s.io/v1, which wants to be reported more."""

    controller_field = "reportingController"

    def mistakes(self, obj: Object) -> list[Mistake]:
        found = super().mistakes(obj)
        series = obj.get("series")
        if series is not None and (series.get("count") or 0) < 2:
            why = "should be at least 2"
            found.append(wrong("series.count", '""', why))
        if not obj.get("eventTime"):
            found.append(required("eventTime"))
        kind = obj.get("type") or ""
        if kind not in {"Normal", "Warning"}:
            found.append(wrong("type", '""', f"has invalid value: {kind}"))
        for field in ("firstTimestamp", "lastTimestamp", "count", "source"):
            if obj.get(field):
                found.append(wrong(field, '""', "needs to be unset"))
        return found

    def changes(self, new: Object, old: Object) -> list[Mistake]:
        fixed = ("involvedObject", "reason", "message", "type", "eventTime", "action", "related")
        return [
            wrong(field, orjson.dumps(new.get(field)).decode(), "field is immutable")
            for field in (*fixed, "reportingComponent", "reportingInstance")
            if new.get(field) != old.get(field)
        ]


_EMPTY_NAME = (
    "name part must be non-empty",
    (
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and "
        "end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex "
        "used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    ),
)
