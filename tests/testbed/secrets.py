"""What must never be read in a log, and a check whether it is."""

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote

_AROUND = 60
_SHORTEST = 8


def forms_of(secret: str) -> set[str]:
    """The ways in which a secret may come to be in a text."""
    return {secret, base64.b64encode(secret.encode()).decode(), quote(secret, safe="")}


def leaked(text: str, secrets: Iterable[str]) -> list[str]:
    """Where secrets are in a text, each with the words around it and without itself."""
    found = []
    for secret in secrets:
        if len(secret) < _SHORTEST:
            raise ValueError(f"{secret!r} is too short to be told from other words")
        for form in forms_of(secret):
            for hit in re.finditer(re.escape(form), text):
                around = text[max(hit.start() - _AROUND, 0) : hit.end() + _AROUND]
                found.append(around.replace(form, "[HERE]"))
    return found
