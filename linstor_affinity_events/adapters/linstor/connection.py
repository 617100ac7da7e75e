"""The connection settings of LINSTOR: controllers, login, and certificates that may rotate."""

import base64
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ServerDisconnectedError
from yarl import URL

from linstor_affinity_events.errors import LoginRefused, Unreachable
from linstor_affinity_events.model.keys import OURSELVES

LOGIN_CODES = frozenset({-4611686018427377903, -4611686018427377904})
"""LINSTOR's `ret_code` for a missing login and for a wrong one (HTTP 400)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Basic or bearer authentication; the token file is read again when it changes."""

    username: str = ""
    password: str = ""
    token_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM texts or PEM files; files take precedence and are read again when they change."""

    certificate: str = ""
    certificate_file: str = ""
    key: str = ""
    key_file: str = ""
    root_ca: str = ""
    root_ca_file: str = ""
    server_name: str = ""
    """The name expected in LINSTOR's certificate instead of the host in the URL."""


class LinstorConnection:
    """One LINSTOR cluster with one or more controllers, of which one is active at a time."""

    def __init__(self, urls: tuple[str, ...], login: Login, tls: Tls) -> None:
        self._urls, self._login, self._tls = urls, login, tls
        self._active = 0
        self._listening: dict[object, tuple[str, Callable[[], None]]] = {}
        self._context: ssl.SSLContext | None = None
        self._context_of: tuple[object, ...] = ()
        self._token: tuple[object, str] = (None, "")

    @property
    def url(self) -> str:
        """The controller that responded last."""
        return self._urls[self._active]

    def candidates(self) -> list[str]:
        """Return all controllers, starting with the one that responded last."""
        return [*self._urls[self._active :], *self._urls[: self._active]]

    def responded(self, url: str) -> None:
        """Record the active controller, and close event streams from other controllers: one that
        hangs keeps its connections open but sends nothing.
        """
        self._active = self._urls.index(url)
        for other, hang_up in tuple(self._listening.values()):
            if other != url:
                hang_up()

    @contextmanager
    def listening(self, url: str, hang_up: Callable[[], None]) -> Iterator[None]:
        """Call `hang_up` if another controller responds while the block lasts."""
        key = object()
        self._listening[key] = (url, hang_up)
        try:
            yield
        finally:
            del self._listening[key]

    def failed(self, url: str) -> None:
        """Move on to the next controller, unless another request has found an active one."""
        if url == self.url:
            self._active = (self._active + 1) % len(self._urls)

    def likely_cause(self, error: Exception, url: str) -> str:
        """Return the likely cause of an error: with TLS 1.3, a rejected client certificate looks
        like a connection that ends before the first response.
        """
        certified = self._tls.certificate or self._tls.certificate_file
        if certified and url.startswith("https") and isinstance(error, ServerDisconnectedError):
            return " (the server may have rejected the client certificate; see LS_USER_CERTIFICATE)"
        return ""

    def server_name(self, url: str) -> str | None:
        """Return the name expected in the certificate; None means the host in the URL."""
        return (self._tls.server_name or None) if url.startswith("https") else None

    def at(self, url: str, path: str) -> URL:
        return URL(url + path, encoded=True)

    def headers(self) -> dict[str, str]:
        """Return headers with the login. Raises LoginRefused if the token file is unreadable."""
        headers = {"User-Agent": OURSELVES}
        if self._login.token_file:
            headers["Authorization"] = f"Bearer {self._read_token()}"
        elif self._login.username:
            pair = f"{self._login.username}:{self._login.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return headers

    def _read_token(self) -> str:
        path = Path(self._login.token_file)
        try:
            state = _state(self._login.token_file)
            if state != self._token[0]:
                self._token = (state, path.read_text().strip())
        except (OSError, UnicodeDecodeError) as error:
            raise LoginRefused(f"LS_BEARER_TOKEN_FILE: {error}") from error
        if not self._token[1].isprintable():
            raise LoginRefused(f"LS_BEARER_TOKEN_FILE: {path} is empty or is not a valid token")
        return self._token[1]

    def tls_for(self, url: str) -> ssl.SSLContext | bool:
        """Return the TLS context, built again when a file has changed. Raises Unreachable."""
        if not url.startswith("https"):
            return True
        tls = self._tls
        try:
            files = (tls.certificate_file, tls.key_file, tls.root_ca_file)
            state = tuple(_state(name) for name in files)
            if self._context is None or state != self._context_of:
                self._context = self._new_context()
                self._context_of = state
        except FileNotFoundError as error:
            if error.filename != tls.root_ca_file:
                raise Unreachable(_unusable(error)) from error
            raise Unreachable(
                f"LS_ROOT_CA_FILE: {error.filename} does not exist. Put LINSTOR's "
                "certificate authority there (a client Secret may come without "
                "ca.crt), or unset it to trust the system's certificate "
                "authorities"
            ) from error
        except (OSError, ssl.SSLError, ValueError) as error:
            raise Unreachable(_unusable(error)) from error
        return self._context

    def _new_context(self) -> ssl.SSLContext:
        tls = self._tls
        if tls.root_ca_file:
            context = ssl.create_default_context(cafile=tls.root_ca_file)
        else:
            context = ssl.create_default_context(cadata=tls.root_ca or None)
        # The peer chooses the group, and one of 10,000 bits takes a second for each handshake.
        suites = context.get_ciphers()
        context.set_ciphers(":".join(each["name"] for each in suites if each["kea"] != "kx-dhe"))
        # Python 3.13 and later require extensions that LINSTOR's own CAs lack; Go does not.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if tls.certificate_file or tls.certificate:
            with (
                _file(tls.certificate_file, tls.certificate) as certificate,
                _file(tls.key_file, tls.key) as key,
            ):
                context.load_cert_chain(certificate, key or None)
        return context


def _unusable(error: Exception) -> str:
    return (
        f"the certificates for LINSTOR are not valid: {error} (see LS_ROOT_CA, "
        "LS_USER_CERTIFICATE, LS_USER_KEY and their _FILE forms)"
    )


def _state(name: str) -> tuple[int, int, int] | None:
    """Return what changes when a file is written or, as Kubernetes does, replaced."""
    if not name:
        return None
    stat = os.stat(name)  # noqa: PTH116, called for every request
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


@contextmanager
def _file(name: str, text: str) -> Iterator[str]:
    """Yield the file's name, or that of a temporary file with the text."""
    if name or not text:
        yield name
        return
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as made:
        made.write(text)
        made.flush()
        yield made.name
