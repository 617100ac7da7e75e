"""Headers of responses are read without a parser, in every session of the service."""

import ast
from pathlib import Path

import aiohttp
import pytest

from linstor_affinity_events.adapters.transport.plain_response import PlainResponse
from tests.adapters.peers import serving

SOURCES = Path(__file__).parents[2] / "linstor_affinity_events"


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("text/event-stream", "text/event-stream"),
        ("Text/Event-Stream ; charset=utf-8", "text/event-stream"),
        ("application/json;" + ";" * 7000, "application/json"),
        ("text/plain; charset*", "text/plain"),
        ("", ""),
    ],
)
async def test_a_header_gives_the_media_type_alone(header: str, kind: str) -> None:
    async with (
        serving(body=b'"\xc3\xbc"', headers={"Content-Type": header}) as (url, _),
        aiohttp.ClientSession(response_class=PlainResponse) as session,
        session.get(url) as response,
    ):
        assert response.content_type == kind
        assert response.charset is None
        assert await response.text() == '"ü"'


def test_every_session_reads_headers_without_a_parser() -> None:
    sessions = [
        {keyword.arg for keyword in call.keywords}
        for path in SOURCES.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("ClientSession")
    ]

    assert len(sessions) == 3
    assert all(options >= {"response_class", "cookie_jar"} for options in sessions)
