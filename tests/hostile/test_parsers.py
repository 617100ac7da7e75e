"""Each parser gets input that it was not made for: it returns, or raises its documented errors."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linstor_affinity_events.adapters.kubernetes.database import replica_of
from linstor_affinity_events.adapters.kubernetes.journal import _entry
from linstor_affinity_events.adapters.kubernetes.policy_yaml import parse_policy
from linstor_affinity_events.adapters.linstor.event_streams import trigger_of
from linstor_affinity_events.adapters.linstor.json_stream import Objects
from linstor_affinity_events.adapters.linstor.replies import checked_body
from linstor_affinity_events.adapters.linstor.rows import (
    Replicas,
    definition_of,
    list_of,
)
from linstor_affinity_events.adapters.transport.bodies import parse_json
from linstor_affinity_events.engine.ports import EventsMissed, ResourceTouched
from linstor_affinity_events.errors import AffinityEventsError
from linstor_affinity_events.model.journal_entry import read_entry, read_saved
from linstor_affinity_events.model.keys import VolumeKey, parse_handle
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.policy import Policy, Unreadable
from linstor_affinity_events.model.quantity import quantity
from linstor_affinity_events.settings import Settings
from tests.figures import Figures

EXAMPLES = 160
KEY = VolumeKey(ResourceName("pvc-1"))

# Words that mean something to some parser, so that fuzzing gets past its first check.
WORDS = [
    *("name", "node_name", "flags", "props", "volume_definitions", "volume_number", "ret_code"),
    *("metadata", "spec", "csi", "driver", "volumeHandle", "claimRef", "uid", "resourceVersion"),
    *("linstor.csi.linbit.com", "pvc-1", "pvc-1/0", "Delete", "Retain", "v1", "PersistentVolume"),
    *("format", "pv", "volume", "state", "prepared", "deleting", "wanted", "claim", "holder"),
    *("nodeAffinity", "required", "nodeSelectorTerms", "matchExpressions", "key", "In", "values"),
    *("resource_name", "node", "old_node", "snapshot_name", "props_instance", "prop_key"),
    *("fromSame", "data", "entry.json", "message", "../../etc", "a/b?c#d", "\x00", "\ud800", "💥"),
]
words = st.sampled_from(WORDS) | st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=6)
)
texts = words | st.text(max_size=80) | trees.map(lambda tree: json.dumps(tree, default=str))
raw = st.binary(max_size=120) | texts.map(lambda text: text.encode(errors="surrogatepass"))


@contextmanager
def only_our_errors() -> Iterator[None]:
    reported = ""
    try:
        yield
    except AffinityEventsError as error:
        reported = str(error)
    # Messages must be printable text, and short.
    assert len(reported.encode(errors="replace")) < 20_000


def objects(body: bytes) -> object:
    reader = Objects("LINSTOR")
    return [*reader.feed(body), *reader.feed(b"", last=True)]


def replicas(tree: Any) -> object:
    rows = Replicas()
    for row in list_of(tree, "resources"):
        rows.take(row)
    return list(rows.placements())


def definitions(tree: Any) -> object:
    return [definition_of(raw) for raw in list_of(tree, "definitions")]


def policy(text: str) -> None:
    assert isinstance(parse_policy(text), Policy | Unreadable)


def handle(text: str) -> None:
    key = parse_handle(text)
    assert key == parse_handle(str(key))


def config_map(tree: Any) -> object:
    return _entry({"metadata": {"uid": "u", "resourceVersion": "1"}, "data": {"entry.json": tree}})


def trigger(text: str) -> None:
    assert isinstance(trigger_of(text), ResourceTouched | EventsMissed)


def rows(tree: Any) -> None:
    assert isinstance(replica_of(tree), ResourceTouched | None)


def nodes(tree: Any) -> None:
    if isinstance(tree, dict):
        props = {str(name): {"Aux/zone": "z"} for name in tree}
        assert len(Nodes.read(props).labels) <= len(tree)


def flags(text: str) -> object:
    names = ("reconcile_rate", "bind_address", "workers", "server", "allow_finalizer", "v")
    return Settings.read(dict.fromkeys(names, text), {"LS_CONTROLLERS": text})


def parse_body(body: bytes) -> None:
    for status in (200, 302, 400, 404, 500):
        with only_our_errors():
            checked_body(status, body, "LINSTOR")


PARSERS: list[tuple[Callable[[Any], object], st.SearchStrategy[Any]]] = [
    (handle, texts),
    (policy, texts),
    (quantity, texts),
    (flags, texts),
    (config_map, trees | texts),
    (lambda tree: read_entry(tree, version="1"), trees),
    (lambda tree: read_saved(tree, KEY), trees),
    (trigger, texts),
    (rows, trees),
    (nodes, trees),
    (replicas, trees),
    (definitions, trees),
    (objects, raw),
    (parse_body, raw),
    (lambda body: parse_json(body, "it"), raw),
]
NAMES = [
    *("handle", "policy", "quantity", "flags", "note-in-configmap", "note", "saved-pv"),
    *("hint", "database-row", "nodes", "replicas", "definitions", "list", "response", "json"),
]


@pytest.mark.parametrize(("parser", "inputs"), PARSERS, ids=NAMES)
def test_any_input_is_parsed_or_raises_our_errors(
    parser: Callable[[Any], object], inputs: st.SearchStrategy[Any], figures: Figures
) -> None:
    tried = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(hostile=inputs)
    def fuzz(hostile: Any) -> None:
        nonlocal tried
        tried += 1
        with only_our_errors():
            parser(hostile)

    fuzz()
    assert tried >= EXAMPLES // 2
    figures.count("hostile inputs survived by parsers", tried)


BOMBS = [
    pytest.param("&a [" * 500, id="open-lists"),
    pytest.param("[" * 4000, id="deep"),
    pytest.param("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]", id="aliases"),
    pytest.param("- fromSame: [" + "a," * 1900 + "a]", id="long"),
    pytest.param("!!python/object/apply:os.system ['touch hacked']", id="object"),
    pytest.param("- fromSame: !!python/name:os.system", id="name"),
    pytest.param("x" * 10_000_000, id="megabytes"),
    pytest.param("- fromSame: [\x00]", id="nul"),
    pytest.param("? ? ? ?\n" * 400, id="keys"),
]


@pytest.mark.parametrize("bomb", BOMBS)
async def test_policy_bombs_are_rejected_quickly(bomb: str) -> None:
    async with asyncio.timeout(10):
        found = await asyncio.to_thread(parse_policy, bomb)

    assert isinstance(found, Policy | Unreadable)
    if isinstance(found, Unreadable):
        assert len(found.text) <= 200
