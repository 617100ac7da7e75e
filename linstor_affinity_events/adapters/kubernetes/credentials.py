"""The session in use with the API server, and the reload of its credentials, which rotate."""

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from linstor_affinity_events.adapters.kubernetes.session import KubeSession, LoadConfiguration
from linstor_affinity_events.errors import BadSettings, Unreachable
from linstor_affinity_events.logs import facts

log = logging.getLogger(__name__)


class Credentials:
    """Tokens and certificates, loaded again when the API server no longer accepts them: clocks do
    not reliably show when.
    """

    def __init__(self, load: LoadConfiguration) -> None:
        self._load = load
        self._session: KubeSession | None = None
        self._opening = asyncio.Lock()
        self._uses: Counter[KubeSession] = Counter()
        """Requests and watches that each session has: a session from before the last reload is
        closed after the last of them. A watch would not end if its session were closed before it.
        """

    @property
    def where(self) -> str:
        """The API server and the proxy to it, for messages."""
        return "" if self._session is None else self._session.where

    async def session(self) -> KubeSession:
        """Return the present session; the first call loads it. Raises BadSettings."""
        if self._session is None:
            async with self._opening:
                if self._session is None:
                    self._session = await KubeSession.begin(self._load)
                return self._session
        return self._session

    @asynccontextmanager
    async def signed_in(self) -> AsyncIterator[tuple[KubeSession, dict[str, str]]]:
        """Yield the present session and its authorization headers, for one request or watch."""
        session = await self.session()
        self._uses[session] += 1
        try:
            yield session, await session.authorization()
        finally:
            self._uses[session] -= 1
            if not self._uses[session]:
                del self._uses[session]
                if session is not self._session:
                    await session.close()

    async def reload_if_rejected(self, status: int, session: KubeSession) -> bool:
        """Reload if a response of this status says that the credentials were not accepted; returns
        whether the request can be sent again. Raises Unreachable if none can be loaded.

        Requests without credentials are not answered with 401: they are those of
        system:anonymous, which is Forbidden nearly everything.
        """
        if status == 401 or (status == 403 and not session.has_credentials):
            await self.reload(session)
            return session is not self._session
        return False

    async def reload(self, old: KubeSession) -> None:
        """Load the credentials again, unless another request has done so since `old` was used.
        Raises Unreachable if that fails: the present ones stay.
        """
        async with self._opening:
            if self._session is not old:
                return
            try:
                session = await KubeSession.begin(self._load)
            except BadSettings as error:
                raise Unreachable(str(error)) from error
            if not session.has_credentials:
                # A token file is empty for a moment while it is written, and a plugin may fail.
                # Without credentials no request would be answered with 401 again.
                await session.close()
                if old.has_credentials:
                    raise Unreachable(
                        "Kubernetes credentials: the configuration now yields neither a token nor "
                        "a client certificate. Its token file may be empty, or its plugin may have "
                        "failed; it is loaded again at the next request"
                    )
                return
            log.info(
                "the API server may have rejected the Kubernetes credentials (a 401 or a "
                "TLS error): loaded them from their files again; requests are retried "
                "with them",
                extra=facts(server=self.where),
            )
            self._session = session
            if not self._uses[old]:
                await old.close()

    async def reload_after(self, error: Exception, session: KubeSession) -> str:
        """Reload if the credentials may be the cause; returns advice for the error message.

        With TLS 1.3, a rejected client certificate looks like a connection that ends before the
        first response.
        """
        if _is_about_tls(error):
            await self.reload(session)
        elif isinstance(error, aiohttp.ServerDisconnectedError) and session.certified:
            await self.reload(session)
            return " (the server may have rejected the client certificate)"
        return ""

    async def close(self) -> None:
        async with self._opening:
            sessions = {*self._uses, self._session}
            self._session = None
            for session in sessions:
                if session is not None:
                    await session.close()


def _is_about_tls(error: BaseException | None) -> bool:
    """Return whether a certificate of either side was rejected: both are files that rotate.

    The peer may reject the client's certificate after the connection is made, so that the error is
    one of the connection.
    """
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = getattr(error, "os_error", None) or error.__cause__
    return False
