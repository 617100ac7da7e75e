"""Lists, whole or in pages that all show the moment of the first one."""

import base64
import binascii
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import orjson

from tests.fakes.kube_server.collection import Key, Stored
from tests.fakes.kube_server.refusals import (
    Refusal,
    bad_request,
    expired,
    forbidden_field,
    invalid,
    too_large_version,
)
from tests.fakes.kube_server.resources import EVENTS, Resource
from tests.fakes.kube_server.selectors import Selector
from tests.fakes.kube_server.store import Store, shown

SNAPSHOTS = 64
"""Unfinished lists that are remembered; the oldest expires first."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, as stored objects."""

    version: int
    items: list[Stored]
    left: int
    """How many more there are behind this page."""
    token: str
    narrowed: bool

    @property
    def metadata(self) -> dict[str, Any]:
        reported: dict[str, Any] = {"resourceVersion": str(self.version)}
        if self.token:
            reported["continue"] = self.token
            # Behind a selector the real one does not know how many will match.
            if not self.narrowed:
                reported["remainingItemCount"] = self.left
        return reported


class Lists:
    """Returns list requests from a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._snapshots: OrderedDict[tuple[str, int], list[Stored]] = OrderedDict()

    def forget(self) -> None:
        """Make all tokens for further pages too old."""
        self._snapshots.clear()

    def page(
        self, resource: Resource, namespace: str, selector: Selector, query: Mapping[str, str]
    ) -> Page:
        """Raises Refusal for options that make no sense and tokens that are too old."""
        limit, token = _limit(query), query.get("continue", "")
        self._check_version(query)
        version, after = self._store.version, None
        if token:
            version, after = _decoded(token)
            if query.get("resourceVersion"):
                raise bad_request("specifying resource version is not allowed when using continue")
        objects = self._objects(resource, version, after)
        narrows = selector.narrows or bool(namespace)
        if narrows:
            objects = [
                stored
                for stored in objects
                if (not namespace or stored.key[0] == namespace) and selector.matches(stored)
            ]
        # From the cache, which version 0 asks for, the real one always gives everything.
        if not limit or query.get("resourceVersion") == "0" or len(objects) <= limit:
            return Page(version, objects, 0, "", selector.narrows)
        self._remember(resource, version)
        items = objects[:limit]
        more = _encoded(version, items[-1].key)
        return Page(version, items, len(objects) - limit, more, selector.narrows)

    def _objects(self, resource: Resource, version: int, after: Key | None) -> list[Stored]:
        collection = self._store.collection(resource)
        if after is None:
            return list(collection.sorted())
        # A token that has expired once comes back with version -1: continue what is there now.
        if version < 0:
            return list(collection.sorted(after=after))
        snapshot = self._snapshots.get((resource.collection, version))
        if snapshot is None:
            raise expired(EXPIRED, metadata={"continue": _encoded(-1, after)})
        return snapshot[bisect_right(snapshot, after, key=attrgetter("key")) :]

    def _remember(self, resource: Resource, version: int) -> None:
        key = (resource.collection, version)
        if version >= 0 and key not in self._snapshots:
            self._snapshots[key] = list(self._store.collection(resource).sorted())
            if len(self._snapshots) > SNAPSHOTS:
                self._snapshots.popitem(last=False)

    def _check_version(self, query: Mapping[str, str]) -> None:
        given, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
        if "sendInitialEvents" in query:
            raise _bad_option("sendInitialEvents", "sendInitialEvents is forbidden for list")
        if match and not given:
            why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            raise _bad_option("resourceVersionMatch", why)
        if not given:
            return
        if not given.isdigit():
            raise bad_request(
                f'invalid resource version: resourceVersion: Invalid value: "{given}": '
                f'strconv.ParseUint: parsing "{given}": invalid syntax'
            )
        if int(given) > self._store.version:
            raise too_large_version(int(given), self._store.version)
        if match == "Exact" and int(given) != self._store.version:
            raise expired("The resourceVersion for the provided list is too old.")


def encoded_list(resource: Resource, page: Page) -> bytes:
    """The body of the response, glued together from objects that were encoded long ago."""
    head = orjson.dumps(
        {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": page.metadata,
        }
    )
    items = b",".join(encoded_item(resource, stored) for stored in page.items)
    return b"".join((head[:-1], b',"items":[', items, b"]}\n"))


def encoded_item(resource: Resource, stored: Stored) -> bytes:
    """An object without its kind, which is known from the list that it is in."""
    if resource is not EVENTS:
        return stored.body
    object_ = shown(resource, stored)
    return orjson.dumps({k: v for k, v in object_.items() if k not in {"kind", "apiVersion"}})


def encoded_object(resource: Resource, stored: Stored) -> bytes:
    return resource.prefix + encoded_item(resource, stored)[1:]


def _limit(query: Mapping[str, str]) -> int:
    given = query.get("limit", "") or "0"
    try:
        return max(0, int(given))
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{given}": invalid syntax') from None


def _bad_option(field: str, why: str) -> Refusal:
    return invalid("ListOptions", "", [forbidden_field(field, why)], group="meta.k8s.io")


def _encoded(version: int, after: Key) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([version, *after])).decode().rstrip("=")


def _decoded(token: str) -> tuple[int, Key]:
    try:
        version, namespace, name = orjson.loads(base64.urlsafe_b64decode(token + "=" * 3))
    except (binascii.Error, orjson.JSONDecodeError, ValueError) as error:
        message = f"invalid continue token: continue key is not valid: {error}"
        raise bad_request(message) from error
    return version, (namespace, name)


EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can "
    "start a new list without the continue parameter, or use the continue token in this response "
    "to retrieve the remainder of the results. Continuing with the provided token results in an "
    "inconsistent list - objects that were created, modified, or deleted between the time the "
    "first chunk was returned and now may show up in the list."
)
