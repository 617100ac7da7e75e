"""The status page: its text, escaped."""

from typing import Any

import pytest

from linstor_affinity_events.adapters.http.status_page import render

Json = dict[str, Any]

NOON = 1767268800.0
ELEVEN = "2026-01-01T11:00:00.000+00:00"
HOSTILE = """<script>alert("it's")</script>&amp;"""
ROW = {
    "volume": "pvc-1",
    "claim": "shop/data",
    "affinity": "linbit.com/hostname=n1",
    "state": "refused",
    "reason": "bad-policy",
    "message": "no policy",
    "since": ELEVEN,
}
STATUS: Json = {
    "version": "1",
    "instance": "one",
    "started": ELEVEN,
    "ready": True,
    "notReady": {},
    "leading": True,
    "leader": "one",
    "queue": {"waiting": 3, "processing": 2},
    "streams": [],
    "fullReconcile": {"failure": None, "ended": ELEVEN},
    "counts": {"volumes": 5, "outOfSync": 1, "unfinished": 0},
    "unfinished": [],
    "search": None,
    "volumes": [],
    "more": 0,
    "changes": [],
}


def page(**changed: object) -> str:
    return render({**STATUS, **changed}, now=NOON)


@pytest.mark.parametrize(
    "changed",
    [pytest.param({"volumes": [{**ROW, key: HOSTILE}]}, id=key) for key in ROW if key != "since"]
    + [
        pytest.param({"search": HOSTILE}, id="search"),
        pytest.param({"instance": HOSTILE}, id="instance"),
        pytest.param({"leading": False, "leader": HOSTILE}, id="leader"),
        pytest.param({"notReady": {HOSTILE: HOSTILE}}, id="not ready"),
        pytest.param(
            {"unfinished": [{"volume": "x", "resource": HOSTILE, "error": HOSTILE}]},
            id="unfinished",
        ),
    ],
)
def test_text_from_outside_is_escaped(changed: Json) -> None:
    shown = page(**changed)

    assert "<script" not in shown
    assert "&lt;script&gt;alert(&#34;it&#39;s&#34;)&lt;/script&gt;&amp;amp;" in shown


def test_rows_keep_their_markup() -> None:
    shown = page(volumes=[ROW])

    assert '<th scope="row">pvc-1</th>' in shown
    assert '<span class="bad">refused</span>: bad-policy' in shown
    assert f'<time datetime="{ELEVEN}" title="{ELEVEN}">1 h ago</time>' in shown


@pytest.mark.parametrize(
    ("search", "link"),
    [(None, "/"), ("pvc-1", "/?q=pvc-1"), ("a b&c", "/?q=a%20b%26c"), ("\ud800", "/?q=%3F")],
)
def test_refresh_keeps_the_search(search: str | None, link: str) -> None:
    assert f'<a href="{link}">Refresh</a>' in page(search=search)


def test_a_missing_field_is_an_error_and_not_an_empty_cell() -> None:
    with pytest.raises(Exception, match="volume"):
        page(volumes=[{key: value for key, value in ROW.items() if key != "volume"}])
