"""What comes may be made to take time or memory: each parser has a budget of both.

Time is that of the processor, and only compared with itself: eight times as much input takes some
eight times as long. How long a response holds up the others is bounded by what is done between two
iterations of theirs, which is counted.
"""

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from multidict import CIMultiDict, CIMultiDictProxy

from linstor_affinity_events.adapters.kubernetes.policy_yaml import _cached, parse_policy
from linstor_affinity_events.adapters.linstor.event_streams import (
    MOST_IDLE_LINES,
    MOST_LINES,
    PER_YIELD,
    READ_BUFFER,
    _BoundedResponse,
    _OneConnection,
    trigger_of,
)
from linstor_affinity_events.adapters.linstor.json_stream import (
    LONGEST,
    YIELD_EVERY,
    Objects,
    Overlong,
    objects_in,
)
from linstor_affinity_events.adapters.linstor.replies import checked_body
from linstor_affinity_events.adapters.linstor.rows import (
    LONGEST_CONNECTION,
    LONGEST_FLAG,
    MOST_FLAGS,
    MOST_REPLICAS,
    MOST_SAVED,
    NodeRows,
    Replicas,
    definition_of,
    node_state,
)
from linstor_affinity_events.adapters.transport.bodies import (
    MOST_VALUES,
    parse_json,
    parse_text,
    without_costly_managed_fields,
)
from linstor_affinity_events.adapters.transport.plain_response import PlainResponse
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import AffinityEventsError, TooLong, Unreachable
from linstor_affinity_events.model.affinity import NodeAffinity, read_affinity
from linstor_affinity_events.model.changes import taken_over
from linstor_affinity_events.model.decision import Case, Deferred, Reason, Refusal, decide
from linstor_affinity_events.model.demands import demands_of
from linstor_affinity_events.model.journal_entry import read_entry
from linstor_affinity_events.model.keys import (
    HOSTNAME_LABEL,
    SAVED_PV_PROPERTY,
    VolumeKey,
    parse_handle,
)
from linstor_affinity_events.model.names import (
    LONGEST_IN_LINSTOR,
    PvName,
    ResourceName,
    Uid,
    node_name,
)
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.placement import Definition, Placement, Replica
from linstor_affinity_events.model.policy import (
    LOCAL_ONLY,
    MAX_LABELS,
    MAX_RULES,
    MAX_TEXT,
    Policy,
    StorageClass,
)
from linstor_affinity_events.model.quantity import quantity
from linstor_affinity_events.model.recreation import without_finalizers
from linstor_affinity_events.model.volume import Volume
from tests.model.manifests import begun, volume

MIB = 1024 * 1024
TIMES = 8
TOLERANCE = 4
BYTES_FOR_EACH = 40
"""An empty list takes three bytes, and 64 of memory."""

Json = dict[str, Any]
Parser = Callable[[Any], object]


def in_pieces(body: bytes, size: int = 1000) -> object:
    reader, found = Objects("LINSTOR"), 0
    for start in range(0, len(body), size):
        for _ in reader.feed(body[start : start + size]):
            found += 1
    return found


def emptied(body: bytes) -> object:
    return asyncio.run(without_costly_managed_fields(body))


def replicas(rows: list[Any]) -> object:
    found = Replicas()
    for row in rows:
        found.take(row)
    return list(found.placements())


def media_type(header: str) -> str:
    response = PlainResponse.__new__(PlainResponse)
    response._cache = {}
    response._headers = CIMultiDictProxy(CIMultiDict({"Content-Type": header}))
    return response.content_type


def stream_lines(pieces: list[bytes]) -> object:
    """Read a stream that arrives in these pieces, with aiohttp's own buffer."""

    async def read() -> list[bytes]:
        loop = asyncio.get_running_loop()
        content = aiohttp.StreamReader(BaseProtocol(loop), READ_BUFFER, loop=loop)
        for piece in pieces:
            content.feed_data(piece)
        content.feed_eof()
        response = SimpleNamespace(content=content, close=lambda: None)
        return [line async for line in _BoundedResponse(response)]  # type: ignore[arg-type]

    return asyncio.run(read())


def event(lines: list[str]) -> object:
    source = _OneConnection("http://localhost", session=object())
    for line in lines:
        source._process_field("data", line)
    return source._dispatch_event()


def entry(tree: Any) -> object:
    return read_entry({**begun(volume()).written(), "wanted": tree})


def entry_with(**spec: Any) -> Any:
    pv = begun(volume()).written()["wanted"]
    return {**pv, "spec": {**pv["spec"], **spec}}


def term(*pairs: tuple[str, str]) -> Json:
    return {"matchExpressions": [{"key": k, "operator": "In", "values": [v]} for k, v in pairs]}


def terms(*given: Json) -> Json:
    return {"required": {"nodeSelectorTerms": list(given)}}


def different_terms(number: int) -> Json:
    """None of them covers another, though half of them have fewer labels."""
    return terms(*(term(("a", str(n)), *([("b", "x")] if n % 2 else [])) for n in range(number)))


CASES: dict[str, tuple[Parser, Callable[[int], Any], int]] = {
    "one-element": (in_pieces, lambda n: b'[{"a":"' + b"x" * n, 40_000),
    "long-element": (in_pieces, lambda n: b'[{"a":[' + b"0," * n, 20_000),
    "elements": (in_pieces, lambda n: b"[" + b"{}," * n, 20_000),
    "blanks": (in_pieces, lambda n: b"[" + b" " * n, 50_000),
    "digits": (in_pieces, lambda n: b'[{"a":' + b"1" * n, 50_000),
    "deep": (in_pieces, lambda n: b'[{"a":' + b"[" * n, 50_000),
    "json": (lambda body: parse_json(body, ""), lambda n: b"[" + b"[]," * n + b"1]", 20_000),
    "json-digits": (lambda body: parse_json(body, ""), lambda n: b"1" * n, 100_000),
    "json-fraction": (lambda body: parse_json(body, ""), lambda n: b"0." + b"1" * n, 100_000),
    "saved": (parse_text, lambda n: '{"a":"' + "\\n" * n + '"}', 50_000),
    "error": (
        lambda body: checked_body(500, body, ""),
        lambda n: json.dumps([{"message": "x" * 500}] * n).encode(),
        500,
    ),
    "replicas-of-one": (
        replicas,
        lambda n: [{"name": "a", "node_name": f"n{i}"} for i in range(n)],
        5_000,
    ),
    "replicas-of-many": (
        replicas,
        lambda n: [{"name": f"r{i}", "node_name": "n"} for i in range(n)],
        5_000,
    ),
    "definition": (
        definition_of,
        lambda n: {"name": "a", "volume_definitions": [{"volume_number": i} for i in range(n)]},
        5_000,
    ),
    "event": (event, lambda n: ["x"] * n, 5_000),
    "event-payload": (
        trigger_of,
        lambda n: json.dumps({"resource_name": "x" * n}),
        100_000,
    ),
    "content-type": (media_type, lambda n: "text/event-stream" + ";" * n, 1_000),
    "line-in-pieces": (stream_lines, lambda n: [b"x"] * n, 20_000),
    "handle": (parse_handle, lambda n: "a" * n + "/" + "1" * n, 50_000),
    "quantity": (quantity, lambda n: "1" * n, 50_000),
    "quantity-fraction": (quantity, lambda n: "1." + "1" * n + "e999", 50_000),
    "note-terms": (entry, lambda n: entry_with(nodeAffinity=terms(*[term(("a", "b"))] * n)), 2_000),
    "affinity": (
        read_affinity,
        lambda n: {"nodeAffinity": different_terms(n)},
        250,
    ),
    "finalizers-removed": (
        lambda names: without_finalizers({"metadata": {"finalizers": names}}, names),
        lambda n: [f"a/{i}" for i in range(n)],
        1_000,
    ),
    "finalizers-added": (
        lambda pv: taken_over(pv, pv),
        lambda n: {"metadata": {"finalizers": [f"a/{i}" for i in range(n)]}, "spec": {}},
        1_000,
    ),
    "managed-fields": (
        emptied,
        lambda n: b'{"managedFields":[' + b'{"f:x":' * n + b"1" + b"}" * n + b"]}",
        20_000,
    ),
    "managed-fields-many": (
        emptied,
        lambda n: b'[{"managedFields":[{}]},' * n + b'{"managedFields":[\xff]}',
        5_000,
    ),
    "managed-fields-within": (
        emptied,
        lambda n: b'{"managedFields":[{"managedFields":[' * n + b"]}]}" * n,
        5_000,
    ),
    "managed-fields-cut-off": (
        emptied,
        lambda n: b'{"managedFields":[{"' + b"x" * n,
        100_000,
    ),
    "entry-owners": (
        demands_of,
        lambda n: {"metadata": {"ownerReferences": [{}] * n}, "spec": {}},
        5_000,
    ),
    "note-fields": (entry, lambda n: entry_with(**{f"x{i}": [i] for i in range(n)}), 5_000),
}


def took(parser: Parser, given: Any, *, tries: int = 3) -> float:
    """The least of a few, in seconds of this thread, without those for the garbage of all tests."""
    times = []
    gc.disable()
    try:
        for _ in range(tries):
            begin = time.thread_time()
            with suppress(AffinityEventsError, ValueError):
                parser(given)
            times.append(time.thread_time() - begin)
    finally:
        gc.enable()
    return min(times)


@pytest.mark.parametrize("name", CASES)
def test_time_is_linear_in_the_input(name: str) -> None:
    parser, make, size = CASES[name]
    small, large = make(size), make(size * TIMES)

    # A tenth of a millisecond is what any of them may take.
    assert took(parser, large) < TOLERANCE * TIMES * max(took(parser, small), 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_memory_is_linear_in_the_input(name: str) -> None:
    parser, make, size = CASES[name]
    given = make(size)
    length = len(given if isinstance(given, bytes | str) else json.dumps(given, default=str))
    tracemalloc.start()
    try:
        with suppress(AffinityEventsError, ValueError):
            parser(given)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < BYTES_FOR_EACH * length + MIB


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * MAX_TEXT, id="open"),
        pytest.param("{" * MAX_TEXT, id="braces"),
        pytest.param("[" * 60 + "]" * 60 + "[" * 1000, id="deep"),
        pytest.param("? ? ? ?\n" * 512, id="keys"),
        pytest.param("- &r {fromSame: [a]}\n" + "- *r\n" * 800, id="aliases"),
        pytest.param("- " * (MAX_TEXT // 2), id="dashes"),
        pytest.param("-  " * (MAX_TEXT // 3), id="dashes apart"),
        pytest.param("\r- a:" * (MAX_TEXT // 5), id="carriage returns"),
        pytest.param("\x85- a:" * (MAX_TEXT // 5), id="next lines"),
        pytest.param("\u2028- a:" * (MAX_TEXT // 5), id="line separators"),
        pytest.param("- fromSame: [" + "a," * 2000 + "a]", id="labels"),
        pytest.param("&a [" * 60, id="anchors"),
        pytest.param("a: " * 1300, id="colons"),
    ],
)
def test_a_hostile_policy_takes_no_longer_than_a_few_valid_ones(text: str) -> None:
    honest = "\n".join(f"- fromSame: [topology.kubernetes.io/zone-{n}]" for n in range(16))

    def parse(given: str) -> None:
        _cached.cache_clear()
        parse_policy(given)

    assert took(parse, text) < 20 * took(parse, honest)


HOSTILE = [b"0,", b"[],", b"{},", b'"",', b'{"":', b"[["]


@pytest.mark.parametrize("shape", HOSTILE, ids=repr)
def test_a_document_with_too_many_values_is_not_parsed(shape: bytes) -> None:
    class Watched(bytes):
        observed = 0

        def count(self, *args: Any) -> int:
            Watched.observed = max(Watched.observed, args[2])
            return super().count(*args)

    body = Watched(b"[" + shape * (16 * MIB // len(shape)) + b"0]")

    with pytest.raises(Unreachable, match=f"more than {MOST_VALUES} values"):
        parse_json(body, "LINSTOR")
    # Nor scanned any further.
    assert Watched.observed < 16 * MOST_VALUES + 64 * 1024


class Response:
    """A response that was buffered whole, so that to read it waits for nothing."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.content = self
        self.fed = 0
        self.status = 200

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), size):
            self.fed += 1
            yield self._body[start : start + size]

    def close(self) -> None:
        pass


class Yields:
    """Another task, and how much was done between two iterations of it."""

    def __init__(self, done: Callable[[], int]) -> None:
        self._done, self._last = done, 0
        self.most = 0

    async def __aenter__(self) -> "Yields":
        self._task = asyncio.create_task(self._run(), name="another")
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._observe()
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self._observe()
            await asyncio.sleep(0)

    def _observe(self) -> None:
        done = self._done()
        self.most, self._last = max(self.most, done - self._last), done


@pytest.mark.parametrize(
    "element",
    [b"{}", b'{"name":"a"}', b'{"a":[' + b"[]," * 20_000 + b"0]}"],
    ids=["no", "1", "big"],
)
async def test_other_tasks_run_while_a_list_is_read(element: bytes) -> None:
    body = b"[" + (element + b",") * (2 * MIB // (len(element) + 1)) + b"{}]"
    response, taken = Response(body), 0

    async with Yields(lambda: taken) as elements, Yields(lambda: response.fed) as pieces:
        async for _ in objects_in(response, "LINSTOR", limit=17 * MIB, most=10**9):  # type: ignore[arg-type]
            taken += 1

    assert taken == body.count(element + b",") + 1
    assert elements.most <= YIELD_EVERY
    assert pieces.most <= 1


async def test_other_tasks_run_while_a_stream_is_read() -> None:
    read = 0

    async with Yields(lambda: read) as lines:
        async for _ in _BoundedResponse(Response(b"\n" * MOST_IDLE_LINES)):  # type: ignore[arg-type]
            read += 1

    assert read == MOST_IDLE_LINES
    assert lines.most <= PER_YIELD.lines


async def test_other_tasks_run_while_large_events_are_read() -> None:
    read = 0

    async with Yields(lambda: read) as size:
        async for line in _BoundedResponse(Response((b"x" * 9999 + b"\n") * 1000)):  # type: ignore[arg-type]
            read += len(line)

    assert size.most < PER_YIELD.size + 10_000


@pytest.mark.parametrize("line", [b"\n", b":\n", b"x: y\n", b"event: x\n"], ids=repr)
async def test_a_stream_of_lines_that_are_not_events_is_closed(line: bytes) -> None:
    event = b'data: {"resource_name": "a"}\n\n'
    quiet = line * (MOST_IDLE_LINES - 100)
    source = _OneConnection("http://localhost", session=object())
    source._response = _BoundedResponse(Response((quiet + b"\n" + event) * 2 + quiet * 2))  # type: ignore[arg-type]

    for _ in range(2):
        assert json.loads((await anext(source)).data) == {"resource_name": "a"}
    with pytest.raises(Unreachable, match="without an event"):
        await anext(source)


async def test_a_list_of_more_objects_than_requested_is_cut_off() -> None:
    response = Response(b"[" + b"{}," * 1000 + b"{}]")
    found = objects_in(response, "LINSTOR", limit=MIB, most=500)  # type: ignore[arg-type]
    for _ in range(500):
        await anext(found)

    with pytest.raises(TooLong, match="more than 500 objects"):
        await anext(found)


def test_an_element_is_scanned_a_few_times_however_it_is_split() -> None:
    class Counted(Objects):
        scanned = 0

        def _whole(self) -> Any:
            Counted.scanned += len(self._rest)
            return super()._whole()

    reader, body = Counted("LINSTOR"), b'[{"a":"' + b"x" * (LONGEST - 100)
    for start in range(0, len(body), 100):
        assert not list(reader.feed(body[start : start + 100]))

    assert Counted.scanned < 3 * len(body)

    for _ in range(10):
        assert not list(reader.feed(b"x" * 100_000))
    assert Counted.scanned < 5 * len(body) + 1_000_000


LONG_ELEMENTS = {
    "text": (b'"', b"x", b'"'),
    "escaped quotes": (b'"', b'\\"', b'"'),
    "backslashes": (b'"', b"\\\\", b'"'),
    "brackets in strings": (b"[", b'"]}",', b"0]"),
    "lists": (b"[", b"[],", b"0]"),
    "objects": (b"[", b'{"a":"}"},', b"0]"),
}


@pytest.mark.parametrize("shape", LONG_ELEMENTS)
def test_an_element_of_any_length_is_skipped_in_linear_time_and_constant_memory(shape: str) -> None:
    start, unit, end = LONG_ELEMENTS[shape]

    def made(size: int) -> bytes:
        middle = unit * (size // len(unit))
        return b'[{"name":"a","b":' + start + middle + end + b'},{"name":"b"}]'

    def parts(body: bytes) -> list[bytes]:
        return [body[at : at + 64 * 1024] for at in range(0, len(body), 64 * 1024)]

    def read(pieces: list[bytes]) -> list[Any]:
        reader = Objects("LINSTOR")
        found = [each for piece in pieces for each in reader.feed(piece)]
        return [*found, *reader.feed(b"", last=True)]

    def peak(pieces: list[bytes]) -> int:
        tracemalloc.start()
        try:
            assert read(pieces) == [Overlong("a"), {"name": "b"}]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = parts(made(MIB // 2)), parts(made(TIMES * MIB // 2))
    assert took(read, large, tries=1) < TOLERANCE * TIMES * took(read, small)
    assert peak(parts(made(3 * MIB // 2))) < 1.5 * peak(parts(made(MIB // 2)))


def test_an_event_of_very_many_lines_is_rejected() -> None:
    event(["x"] * MOST_LINES)

    with pytest.raises(Unreachable, match="lines"):
        event(["x"] * (MOST_LINES + 1))


def test_a_resource_with_very_many_replicas_is_unknown_and_affects_no_other() -> None:
    rows = [{"name": "many", "node_name": f"n{number}"} for number in range(MOST_REPLICAS + 1)]
    found = Replicas()
    for row in [*rows[:-1], {"name": "few", "node_name": "n1"}]:
        found.take(row)
    assert {placement.resource for placement in found.placements()} == {"many", "few"}

    found.take(rows[-1])
    found.take(rows[-1])

    few, many = found.placements()
    assert (few.resource, few.unreadable) == ("few", False)
    assert many == Placement(ResourceName("many"), unreadable=True)


@pytest.mark.parametrize(
    "row",
    [
        {"name": "x" * (LONGEST_IN_LINSTOR + 1), "node_name": "n"},
        {"name": "x", "node_name": "n" * (LONGEST_IN_LINSTOR + 1)},
        {"name": "\N{GRINNING FACE}".ljust(LONGEST_IN_LINSTOR // 4 + 1, "x"), "node_name": "n"},
        {"name": "x", "node_name": "n", "flags": ["A"] * (MOST_FLAGS + 1)},
        {"name": "x", "node_name": "n", "flags": ["A" * (LONGEST_FLAG + 1)]},
    ],
    ids=["name", "node", "characters", "flags", "flag"],
)
def test_a_row_with_more_values_than_linstor_has_is_rejected(row: Any) -> None:
    with pytest.raises(Unreachable):
        Replicas().take(row)


def test_flags_that_decide_nothing_are_not_kept() -> None:
    found = Replicas()

    tracemalloc.start()
    try:
        for row in range(1000):
            flags = [f"{row}-{n}-ING".rjust(LONGEST_FLAG, "x") for n in range(MOST_FLAGS)]
            found.take({"name": str(row), "node_name": "n", "flags": flags})
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size < MIB


@pytest.mark.parametrize("character", ["x", "\N{GRINNING FACE}"])
def test_the_labels_of_all_nodes_take_limited_memory(character: str) -> None:
    """A text takes four bytes for each character if one of them is an emoji."""
    props = {f"Aux/{number:04}{character * 300}": character * MIB for number in range(500)}
    rows, namespace = NodeRows[Any](MIB), ""

    tracemalloc.start()
    try:
        for number in range(100):
            state = node_state({"props": dict(props)}, namespace)
            rows.keep(node_name(f"n{number}"), dict(state.labels), state)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size < 2 * MIB
    assert len(rows.unreadable) > 90


def test_the_connection_status_of_a_node_is_kept_up_to_a_limit() -> None:
    assert len(node_state({"connection_status": "x" * MIB}, "").connection) == LONGEST_CONNECTION


@pytest.mark.parametrize("number", [-1, -(10**30), 65536, 10**4000, True, 1.0, "0", None])
def test_a_saved_pv_without_volume_number_is_skipped(number: object) -> None:
    props = {SAVED_PV_PROPERTY: "{}"}
    raw = {"name": "a", "volume_definitions": [{"volume_number": number, "props": props}]}

    assert dict(definition_of(raw).saved) == {}


def test_so_many_saved_volumes_of_one_definition_are_read() -> None:
    props = {SAVED_PV_PROPERTY: "{}"}
    rows = [{"volume_number": number, "props": props} for number in range(2 * MOST_SAVED)]

    saved = definition_of({"name": "a", "volume_definitions": rows}).saved

    assert [*saved] == [*range(MOST_SAVED)]


LABELS = tuple(
    frozenset(f"label-{rule}-{n}" for n in range(MAX_LABELS)) for rule in range(MAX_RULES)
)
LONG = "\N{GRINNING FACE}".ljust(LONGEST_IN_LINSTOR, "n")


def case(
    policy: Policy, replicas: int, nodes: int, *, has: Callable[[str], Json], listed: bool = True
) -> Case:
    names = [f"{LONG[:-5]}{n:05}" for n in range(nodes)]
    read = Nodes.read({name: has(name) for name in names if listed})
    return Case(
        volume=Volume(
            name=PvName("pvc-1"),
            uid=Uid("1"),
            handle="pvc-1",
            key=VolumeKey(ResourceName("pvc-1")),
            affinity=NodeAffinity.of([frozenset({(HOSTNAME_LABEL, "x")})]),
            created_at=0.0,
            storage_class="c",
        ),
        definition=Definition(resource=ResourceName("pvc-1")),
        placement=Placement(
            ResourceName("pvc-1"), tuple(Replica(node_name(name)) for name in names[:replicas])
        ),
        nodes=read,
        storage_class=StorageClass(name="c", policy=policy),
        now=1e9,
    )


def no_labels(_: str) -> Json:
    return {}


def one_label(_: str) -> Json:
    """Of each rule, so that the others count only if another node has them."""
    return {f"Aux/label-{rule}-0": "x" for rule in range(MAX_RULES)}


def all_labels(name: str) -> Json:
    host = {"Aux/topology/kubernetes.io/hostname": name}
    return host | {f"Aux/topology/{label}": name[-60:] for rule in LABELS for label in rule}


def unused_beside(others: int) -> Case:
    given = case(LOCAL_ONLY, 1, 1, has=no_labels)
    names = tuple(PvName(f"pvc-{n}-".ljust(250, "x")) for n in range(others))
    return replace(given, volume=replace(given.volume, phase="Available"), duplicates=names)


DECISIONS = {
    "labels are missing": lambda: case(Policy(LABELS), MOST_REPLICAS, 100, has=no_labels),
    "nodes are unknown": lambda: case(LOCAL_ONLY, MOST_REPLICAS, 100, has=no_labels, listed=False),
    "too many terms": lambda: case(Policy(LABELS), MOST_REPLICAS, MOST_REPLICAS, has=all_labels),
    "other volumes are in use": lambda: unused_beside(1_000),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_the_text_of_a_decision_is_short(name: str) -> None:
    """It is kept for each volume."""
    decided = decide(DECISIONS[name]())

    assert isinstance(decided, Deferred | Refusal)
    assert len(decided.why) < 3_000


def test_a_policy_that_takes_too_many_terms_is_not_followed() -> None:
    decided = decide(DECISIONS["too many terms"]())

    assert isinstance(decided, Refusal)
    assert decided.reason is Reason.BAD_POLICY
    assert f"takes {MAX_RULES * MOST_REPLICAS} terms for {MOST_REPLICAS} nodes" in decided.why


def test_a_decision_takes_no_longer_among_more_nodes() -> None:
    few, many = (case(Policy(LABELS), 3, number, has=one_label) for number in (100, 5_000))

    assert took(decide, many) < TOLERANCE * max(took(decide, few), 1e-4)


def test_a_decision_takes_linear_time_in_labels_and_replicas() -> None:
    few = case(Policy(LABELS[:4]), 8, MOST_REPLICAS, has=all_labels)
    many = case(Policy(LABELS), MOST_REPLICAS, MOST_REPLICAS, has=all_labels)

    assert took(decide, many) < TOLERANCE * 4 * 8 * max(took(decide, few), 1e-4)


async def test_other_tasks_run_while_slow_decisions_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = 0
    # Each takes 6 ms, by this clock.
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 0.006 * made)

    async with Yields(lambda: made) as decisions:
        async for _ in yielding(range(100), every=1_000):
            made += 1

    assert decisions.most == 2
