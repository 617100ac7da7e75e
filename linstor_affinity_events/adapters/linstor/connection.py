"""How LINSTOR is reached: its controllers, the login, and certificates that may rotate."""

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
"""LINSTOR's `ret_code` for a login that is missing, and for one that is wrong (HTTP 400)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Basic or bearer; the token file is read again when it changes."""

    username: str = ""
    password: str = ""
    token_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM texts, or files with them; files win and are read again when they change."""

    certificate: str = ""
    certificate_file: str = ""
    key: str = ""
    key_file: str = ""
    root_ca: str = ""
    root_ca_file: str = ""
    server_name: str = ""
    """The name to expect in LINSTOR's certificate in place of the host that is connected to."""


class LinstorConnection:
    """One LINSTOR behind one or more controllers, of which one is active at a time."""

    def __init__(self, urls: tuple[str, ...], login: Login, tls: Tls) -> None:
        self._urls, self._login, self._tls = urls, login, tls
        self._active = 0
        self._listening: dict[object, tuple[str, Callable[[], None]]] = {}
        self._context: ssl.SSLContext | None = None
        self._context_of: tuple[object, ...] = ()
        self._token: tuple[object, str] = (None, "")

    @property
    def url(self) -> str:
        """The controller that answered last."""
        return self._urls[self._active]

    def candidates(self) -> list[str]:
        """All controllers, the one that answered last first."""
        return [*self._urls[self._active :], *self._urls[: self._active]]

    def answered(self, url: str) -> None:
        """Remember who is active, and let nobody go on listening to another one: a controller that
        hangs keeps its connections, and would be listened to in vain.
        """
        self._active = self._urls.index(url)
        for other, hang_up in tuple(self._listening.values()):
            if other != url:
                hang_up()

    @contextmanager
    def listening(self, url: str, hang_up: Callable[[], None]) -> Iterator[None]:
        """Have `hang_up` called should another controller answer while the block lasts."""
        key = object()
        self._listening[key] = (url, hang_up)
        try:
            yield
        finally:
            del self._listening[key]

    def failed(self, url: str) -> None:
        """Begin with the next controller, unless somebody found an active one already."""
        if url == self.url:
            self._active = (self._active + 1) % len(self._urls)

    def doubt(self, error: Exception, url: str) -> str:
        """What an error may mean that says nothing of it: with TLS 1.3 a certificate that is turned
        away looks like a connection that ends before the first answer.
        """
        certified = self._tls.certificate or self._tls.certificate_file
        if certified and url.startswith("https") and isinstance(error, ServerDisconnectedError):
            return " (perhaps it does not take our certificate; see LS_USER_CERTIFICATE)"
        return ""

    def server_name(self, url: str) -> str | None:
        """The name to expect in the certificate; None for that of the host."""
        return (self._tls.server_name or None) if url.startswith("https") else None

    def at(self, url: str, path: str) -> URL:
        return URL(url + path, encoded=True)

    def headers(self) -> dict[str, str]:
        """The login. Raises LoginRefused when the token file can't be read."""
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
            raise LoginRefused(f"LS_BEARER_TOKEN_FILE: {path} holds no token")
        return self._token[1]

    def tls_for(self, url: str) -> ssl.SSLContext | bool:
        """What to verify and to show; made anew when a file changed. Raises Unreachable."""
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
                f"LS_ROOT_CA_FILE names {error.filename}, which is not there: put the certificate "
                "authority of LINSTOR there (a client Secret may come without ca.crt), or unset it "
                "to trust the authorities of the system"
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
        # Python 3.13 began to ask for extensions that LINSTOR's own CAs do not have; Go doesn't.
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
        f"certificates for LINSTOR can't be used: {error} (see LS_ROOT_CA, LS_USER_CERTIFICATE, "
        "LS_USER_KEY and their _FILE forms)"
    )


def _state(name: str) -> tuple[int, int, int] | None:
    """What changes when a file is written or, as Kubernetes does, replaced."""
    if not name:
        return None
    stat = os.stat(name)  # noqa: PTH116, on the path of every request
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


@contextmanager
def _file(name: str, text: str) -> Iterator[str]:
    """The file itself, or one that holds the text for as long as it takes to load it."""
    if name or not text:
        yield name
        return
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as made:
        made.write(text)
        made.flush()
        yield made.name
