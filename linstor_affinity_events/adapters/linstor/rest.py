"""LINSTOR's REST API: reads nodes, definitions and placements, and removes saved PVs."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from linstor_affinity_events.adapters.bodies import MIB, parse_json, read_bounded
from linstor_affinity_events.adapters.json_stream import objects_in
from linstor_affinity_events.adapters.linstor.connection import LOGIN_CODES, LinstorConnection
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import LoginRefused, Missing, Refused, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import (
    MAX_VOLUME_NUMBER,
    PLAIN_NAMESPACE,
    SAVED_PV_PROPERTY,
    SKIP_PROPERTY,
)
from linstor_affinity_events.model.names import (
    NodeName,
    ResourceName,
    node_name,
    resource_name,
)
from linstor_affinity_events.model.nodes import Labels, Nodes
from linstor_affinity_events.model.placement import Definition, Placement, Replica
from linstor_affinity_events.model.poll import NodeState, PollResult

log = logging.getLogger(__name__)

OBJECT_LIMIT = MIB
"""The size limit of a response that is not a list: a version, a number, an error."""

ONE_LIMIT = 16 * MIB
"""The size limit of a response about one resource or nodes: 3,000 nodes with all properties."""

BULK_LIMIT = 640 * MIB
"""The size limit of a bulk read. It is parsed incrementally, so this limits time and not memory:
about 200,000 resources.
"""

MOST_ROWS = 200_000
"""The most rows of a bulk read; they take about 80 MB of memory."""

MOST_OF_ONE = 1000
"""The most rows of a response about one resource."""

MOST_NODES = 10_000
MOST_LABELS = 100_000
"""The most labels of all nodes. Kubernetes has up to 5,000 nodes, with some 20 labels each."""

MOST_REPLICAS = 64
"""The most replicas of one resource: DRBD connects 32 nodes. Each is compared with each other."""

LONGEST_NAME = 255
MOST_FLAGS = 64
LONGEST_SAVED = 8192
"""The most characters kept of a saved PV. LINSTOR stores 4096 characters of a property."""

MOST_SAVED = 64 * MIB

YIELD_EVERY = 500
"""Placements between cooperative yields: 50,000 without one took 30 ms."""

CONNECT_TIMEOUT = 5.0
BULK_TIMEOUT = 30.0

_CODE_MASK = 0xFFFF
_NOT_FOUND_DEFINITION = 301
"""The lower bits of LINSTOR's `ret_code` for an unknown resource definition."""

MOST_REPLIES = 10
"""The most replies of an error response that are put into a message."""

Take = Callable[[Mapping[str, Any]], None]

_NO_SAVED: Mapping[int, str] = MappingProxyType({})


class LinstorRest:
    """Implements engine.ports.Linstor and LinstorPoll. Use as an async context manager."""

    def __init__(
        self, connection: LinstorConnection, *, namespace: str = "", timeout: float = 10.0
    ) -> None:
        self._connection, self._namespace, self._timeout = connection, namespace, timeout
        self._open: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # LINSTOR closes connections that are idle for 30 s; a shorter time avoids that race.
        connector = aiohttp.TCPConnector(limit=32, keepalive_timeout=20)
        self._open = aiohttp.ClientSession(connector=connector, auto_decompress=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._open is not None:
            await self._open.close()

    @property
    def url(self) -> str:
        """The controller that answered last."""
        return self._connection.url

    async def version(self) -> str:
        """Return LINSTOR's version, which needs no login."""
        tree = await self._get("/v1/controller/version")
        return str(_object(tree, "version").get("version", "unknown"))

    async def nodes(self) -> Nodes:
        labels: dict[NodeName, Labels] = {}
        count = _Count("labels of nodes", MOST_LABELS)
        namespace = Nodes.read({}, namespace=self._namespace).namespace

        def take(node: Mapping[str, Any]) -> None:
            properties = {_text(node, "name"): _texts(node.get("props"), "node properties")}
            read = Nodes.read(properties, namespace=self._namespace).labels
            count.add(sum(map(len, read.values())))
            labels.update(read)

        await self._list("/v1/nodes", take, most=MOST_NODES)
        return Nodes(namespace=namespace, labels=labels)

    async def poll(self) -> PollResult:
        """Read what the controller has in memory. The count is None if it lacks that endpoint."""
        nodes: dict[NodeName, NodeState] = {}
        count = _Count("labels of nodes", MOST_LABELS)

        def take(row: Mapping[str, Any]) -> None:
            state = self._state(row)
            count.add(len(state.labels))
            nodes[node_name(_text(row, "name"))] = state

        await self._list("/v1/nodes", take, most=MOST_NODES)
        try:
            counted = _object(await self._get("/v1/stats/resources"), "count").get("count")
        except Unreachable as error:
            log.debug(
                "LINSTOR did not return the number of its resources", extra=facts(error=error)
            )
            return PollResult(nodes=nodes, resources=None)
        return PollResult(nodes=nodes, resources=counted if type(counted) is int else None)

    def _state(self, node: Mapping[str, Any]) -> NodeState:
        given = self._namespace.strip("/")
        ours = (PLAIN_NAMESPACE, given) if given else (PLAIN_NAMESPACE,)
        properties = _texts(node.get("props"), "node properties")
        return NodeState(
            flags=_flags(node),
            connection=str(node.get("connection_status", "")),
            labels=frozenset(
                (key, value)
                for key, value in properties.items()
                if key.startswith(tuple(f"{prefix}/" for prefix in ours))
            ),
        )

    async def definition(self, resource: ResourceName) -> Definition | None:
        found: list[Definition] = []

        def take(raw: Mapping[str, Any]) -> None:
            definition = _definition(raw)
            if definition.resource == resource and not found:
                found.append(definition)

        await self._list(
            "/v1/resource-definitions?with_volume_definitions=true&resource_definitions="
            + _escaped(resource),
            take,
        )
        return found[0] if found else None

    async def definitions(self) -> Mapping[ResourceName, Definition]:
        found: dict[ResourceName, Definition] = {}
        count = _Count("characters of saved PersistentVolumes", MOST_SAVED)

        def take(raw: Mapping[str, Any]) -> None:
            definition = _definition(raw)
            count.add(sum(map(len, definition.saved.values())))
            found[definition.resource] = definition

        await self._stream("/v1/resource-definitions?with_volume_definitions=true", take)
        return found

    async def placement(self, resource: ResourceName) -> Placement | None:
        rows = Replicas()
        try:
            await self._list(f"/v1/resource-definitions/{_escaped(resource)}/resources", rows.take)
        except Missing:
            return None
        if resource in rows.too_many:
            raise Unreachable(f"LINSTOR returned more than {MOST_REPLICAS} replicas of {resource}")
        found = (placement for placement in rows.placements() if placement.resource == resource)
        return next(found, Placement(resource))

    async def placements(self) -> Mapping[ResourceName, Placement]:
        rows = Replicas()
        await self._stream("/v1/view/resources", rows.take)
        found = yielding(rows.placements(), every=YIELD_EVERY)
        return {placement.resource: placement async for placement in found}

    async def forget_saved(self, resource: ResourceName, number: int) -> None:
        body = {"override_props": {}, "delete_props": [SAVED_PV_PROPERTY]}
        with suppress(Missing):
            await self._set(resource, number, body, wanted=None)

    async def move_saved(self, resource: ResourceName, text: str) -> None:
        """Move a saved PV from the definition to volume 0, where version 1.5 of the reference
        controller has it. Raises Missing if there is no volume 0.
        """
        body = {"override_props": {SAVED_PV_PROPERTY: text}, "delete_props": []}
        await self._set(resource, 0, body, wanted=text)
        await self.forget_saved(resource, -1)

    async def _set(
        self, resource: ResourceName, number: int, body: object, *, wanted: str | None
    ) -> None:
        """Set the properties of a definition (-1) or of one of its volumes."""
        path = f"/v1/resource-definitions/{_escaped(resource)}"
        if number >= 0:
            path += f"/volume-definitions/{number}"
        try:
            await self._ask("PUT", path, body=body, within=BULK_TIMEOUT)
        except Unreachable:
            # With a hung satellite, LINSTOR stores the change but returns 500.
            definition = await self.definition(resource)
            if definition is not None and definition.saved.get(number) != wanted:
                raise

    async def _get(self, path: str) -> Any:
        return await self._ask("GET", path, body=None, within=self._timeout)

    async def _list(self, path: str, take: Take, *, most: int = MOST_OF_ONE) -> None:
        """Read a list and pass each of its objects to `take`."""
        reading = _Reading(take, ONE_LIMIT, most)
        await self._ask("GET", path, body=None, within=self._timeout, reading=reading)

    async def _stream(self, path: str, take: Take) -> None:
        """Read a long list and pass each of its objects to `take`."""
        within, reading = max(BULK_TIMEOUT, self._timeout), _Reading(take, BULK_LIMIT, MOST_ROWS)
        await self._ask("GET", path, body=None, within=within, reading=reading)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: object,
        within: float,
        reading: "_Reading | None" = None,
    ) -> Any:
        """Ask the controllers in turn until one responds, and use that response.

        For a read, a 5xx counts only if no other controller has a better response: a load balancer
        without its controller returns one. A write that may have taken effect is not sent to
        another controller.
        """
        failures: list[str] = []
        error_response: _ErrorResponse | None = None
        reads = method == "GET"
        for url in self._connection.candidates():
            what = f"LINSTOR {url}: {method} {path}"
            try:
                status, raw = await self._exchange(method, url, path, body, within, reading)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._connection.failed(url)
                if not (_was_never_sent(error) or (reads and _was_cut(error)) or error_response):
                    raise Unreachable(f"{what}: {str(error) or 'timed out'}") from error
                failures.append(
                    f"{url}: {_message(error)}{self._connection.likely_cause(error, url)}"
                )
            else:
                if reads and status >= 500:
                    answer = _ErrorResponse(url, status, raw)
                    error_response = (
                        answer
                        if error_response is None
                        or (answer.from_linstor and not error_response.from_linstor)
                        else error_response
                    )
                    continue
                self._connection.answered(url)
                if status < 300 and (not reads or reading is not None):
                    return []
                return _checked_body(status, raw, what)
        if error_response is None:
            raise Unreachable(f"cannot reach LINSTOR: {'; '.join(failures)}")
        if error_response.from_linstor:
            self._connection.answered(error_response.url)
        return _checked_body(
            error_response.status,
            error_response.raw,
            f"LINSTOR {error_response.url}: {method} {path}",
            failures,
        )

    async def _exchange(
        self,
        method: str,
        url: str,
        path: str,
        body: object,
        within: float,
        reading: "_Reading | None",
    ) -> tuple[int, bytes]:
        """Return the status, and the body unless its objects were passed on."""
        if self._open is None:
            raise AssertionError("entered as a context manager first")
        raw = None if body is None else orjson.dumps(body)
        headers = self._connection.headers()
        if raw is not None:
            headers["Content-Type"] = "application/json"
        async with self._open.request(
            method,
            self._connection.at(url, path),
            data=raw,
            headers=headers,
            ssl=self._connection.tls_for(url),
            server_hostname=self._connection.server_name(url),
            timeout=aiohttp.ClientTimeout(total=within, sock_connect=CONNECT_TIMEOUT),
            allow_redirects=False,
        ) as response:
            if 300 <= response.status < 400:
                raise Unreachable(f"LINSTOR {url}: {method} {path}: {_redirected(response)}")
            if reading is None or response.status >= 300:
                return response.status, await read_bounded(response, OBJECT_LIMIT)
            what = f"LINSTOR {url}: {method} {path}"
            objects = objects_in(response, what, limit=reading.limit, most=reading.most)
            async with aclosing(objects) as found:
                async for each in found:
                    reading.take(each)
            return response.status, b""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What to do with the objects of a list, and its limits in bytes and objects."""

    take: Take
    limit: int
    most: int


class _Count:
    """Counts what is kept of one response; raises Unreachable beyond the limit."""

    def __init__(self, what: str, most: int) -> None:
        self._what, self._most, self._found = what, most, 0

    def add(self, number: int) -> None:
        self._found += number
        if self._found > self._most:
            raise Unreachable(f"LINSTOR returned more than {self._most} {self._what}")


@dataclass(frozen=True, slots=True)
class _ErrorResponse:
    """A 5xx response to a read."""

    url: str
    status: int
    raw: bytes

    @property
    def from_linstor(self) -> bool:
        """Whether LINSTOR itself sent it, so that the active controller is there."""
        return bool(_codes(_replies(self.raw)))


def _was_never_sent(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError)


def _was_cut(error: Exception) -> bool:
    """Return whether the connection ended before the response began."""
    return isinstance(error, aiohttp.ServerDisconnectedError)


def _message(error: Exception) -> str:
    """Return the operating system's message if there is one: aiohttp's mentions TLS without TLS."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror
    return str(error) or type(error).__name__


def _redirected(response: aiohttp.ClientResponse) -> str:
    """Return what to do about a redirect. It is not followed, as it could send the login anywhere.

    With TLS enabled for its API, LINSTOR redirects all plain HTTP requests.
    """
    try:
        target = response.url.join(URL(response.headers.get("Location", "")))
        origin = f"{target.scheme}://{target.host_subcomponent}:{target.port}"[:300]
    except ValueError:
        return "the server redirected the request elsewhere; redirects are not followed"
    if response.url.scheme == "https" or target.scheme != "https":
        return f"the server redirected the request to {origin}; redirects are not followed"
    return (
        f"LINSTOR's API requires TLS (it redirects to {origin}): set "
        f"LS_CONTROLLERS={origin}, set LS_ROOT_CA_FILE to the certificate "
        "authority and, if client certificates are required, "
        "LS_USER_CERTIFICATE_FILE and LS_USER_KEY_FILE; if the certificate is "
        "for another host name, set LS_TLS_SERVER_NAME"
    )


def _escaped(name: str) -> str:
    return quote(name, safe="")


def _checked_body(status: int, raw: bytes, what: str, others: Iterable[str] = ()) -> Any:
    """Return the body of a successful response. Otherwise raise the error that says what to do
    next, with the failures of the other controllers.
    """
    if status < 300:
        return parse_json(raw, what)
    replies = _replies(raw)
    codes = _codes(replies)
    text = "; ".join(_messages(replies)) or "no message"
    if codes & LOGIN_CODES or status in {401, 403}:
        raise LoginRefused(
            f"{what}: {text} (see LS_USERNAME and LS_PASSWORD, or LS_BEARER_TOKEN_FILE)"
        )
    if status == 404 and any(code & _CODE_MASK == _NOT_FOUND_DEFINITION for code in codes):
        raise Missing(f"{what}: {text}")
    if status == 400:
        raise Refused(f"{what}: HTTP 400: {text}")
    raise Unreachable("; ".join((f"{what}: HTTP {status}: {text}", *others)))


def _replies(raw: bytes) -> list[Mapping[str, Any]]:
    """Return LINSTOR's replies in an error response; none if another program sent it."""
    try:
        tree = parse_json(raw, "")
    except Unreachable:
        return []
    return [reply for reply in tree if isinstance(reply, dict)] if isinstance(tree, list) else []


def _codes(replies: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    found = (reply.get("ret_code") for reply in replies)
    return frozenset(code for code in found if isinstance(code, int))


def _messages(replies: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for reply in islice(replies, MOST_REPLIES):
        words = [reply[key] for key in ("message", "cause") if isinstance(reply.get(key), str)]
        yield from (word[:300] for word in words)


def _definition(raw: Mapping[str, Any]) -> Definition:
    properties = _texts(raw.get("props"), "definition properties")
    saved: dict[int, str] = {}
    if text := properties.get(SAVED_PV_PROPERTY):
        saved[-1] = text[:LONGEST_SAVED]
    for volume in _objects(raw.get("volume_definitions") or [], "volume definitions"):
        number = volume.get("volume_number", 0)
        text = _texts(volume.get("props"), "volume properties").get(SAVED_PV_PROPERTY, "")
        if text and type(number) is int and 0 <= number <= MAX_VOLUME_NUMBER:
            saved[number] = text[:LONGEST_SAVED]
    return Definition(
        resource=resource_name(_text(raw, "name")),
        skip=bool(properties.get(SKIP_PROPERTY)),
        saved=saved or _NO_SAVED,
    )


class Replicas:
    """Groups replicas by resource. There are tens of thousands, but few differ in node or flags, so
    equal ones share one object.
    """

    def __init__(self) -> None:
        self._found: dict[ResourceName, list[Replica]] = {}
        self._shared: dict[Replica, Replica] = {}
        self.too_many: set[ResourceName] = set()
        """Resources with more replicas than possible; they get no placement."""

    def take(self, row: Mapping[str, Any]) -> None:
        """Add one row of LINSTOR's list of resources. Raises Unreachable if it is not valid."""
        replica = Replica(node_name(_text(row, "node_name")), _flags(row))
        replica = self._shared.setdefault(replica, replica)
        name = resource_name(_text(row, "name"))
        if name in self.too_many:
            return
        replicas = self._found.setdefault(name, [])
        replicas.append(replica)
        if len(replicas) > MOST_REPLICAS:
            self.too_many.add(name)
            del self._found[name]

    def placements(self) -> Iterator[Placement]:
        return (Placement(name, tuple(replicas)) for name, replicas in self._found.items())


def _objects(tree: object, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(tree, list) or not all(isinstance(item, dict) for item in tree):
        raise Unreachable(f"LINSTOR did not return a list of {what}")
    return tree


def _object(tree: object, what: str) -> Mapping[str, Any]:
    if not isinstance(tree, dict):
        raise Unreachable(f"LINSTOR did not return {what}")
    return tree


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value or len(value) > LONGEST_NAME:
        raise Unreachable(f"LINSTOR returned no {key}, or one that is too long")
    return value


def _flags(row: Mapping[str, Any]) -> frozenset[str]:
    flags = row.get("flags") or ()
    if not isinstance(flags, list | tuple) or not all(isinstance(f, str) for f in flags):
        raise Unreachable("LINSTOR returned flags that are not strings")
    if len(flags) > MOST_FLAGS or any(len(flag) > LONGEST_NAME for flag in flags):
        raise Unreachable("LINSTOR returned too many or too long flags")
    return frozenset(flags)


def _texts(value: object, what: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise Unreachable(f"LINSTOR returned {what} that are not strings")
    return value
