"""Which objects a list or a watch asked for."""

import re
from collections.abc import Callable, Mapping

from tests.fakes.kube_server.collection import Stored
from tests.fakes.kube_server.refusals import bad_request

Labels = Mapping[str, str]

_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<verb>in|notin)\s+\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<verb>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")
_THERE = re.compile(r"^(?P<no>!?)\s*(?P<key>[^\s!=,()]+)$")


class Selector:
    """Made from the two selectors of a query; matches everything if both are empty."""

    def __init__(self, labels: str, fields: str) -> None:
        self._labels = [_label_test(part) for part in _parts(labels)]
        self._fields = [_field_test(part) for part in _parts(fields)]

    @property
    def narrows(self) -> bool:
        return bool(self._labels or self._fields)

    def matches(self, stored: Stored) -> bool:
        return all(test(stored.labels) for test in self._labels) and all(
            test(stored) for test in self._fields
        )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _label_test(part: str) -> Callable[[Labels], bool]:
    if found := _SET.match(part):
        values = {value.strip() for value in found["values"].split(",")}
        key, wanted = found["key"], found["verb"] == "in"
        # A label that is not there is in no set, and so it is "not in" every one.
        return lambda labels: (labels.get(key) in values) is wanted
    if found := _EQUAL.match(part):
        key, value, wanted = found["key"], found["value"], found["verb"] != "!="
        return lambda labels: (labels.get(key) == value) is wanted
    if found := _THERE.match(part):
        key, wanted = found["key"], not found["no"]
        return lambda labels: (key in labels) is wanted
    raise bad_request(f"unable to parse requirement: {part}")


def _field_test(part: str) -> Callable[[Stored], bool]:
    found = _EQUAL.match(part)
    if found is None:
        raise bad_request(f"invalid selector: {part!r}; can't understand {part!r}")
    positions = {"metadata.namespace": 0, "metadata.name": 1}
    if found["key"] not in positions:
        raise bad_request(
            f'"{found["key"]}" is not a known field selector: only "metadata.name", '
            '"metadata.namespace"'
        )
    place, value, wanted = positions[found["key"]], found["value"], found["verb"] != "!="
    return lambda stored: (stored.key[place] == value) is wanted
