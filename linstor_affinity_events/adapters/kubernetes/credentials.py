"""The session in use with the API server, and the reload of its credentials, which rotate."""

import asyncio
import logging
import ssl

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
        self._retired: list[KubeSession] = []
        """Sessions from before the last reload; requests may still use them."""

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

    async def signed_in(self) -> tuple[KubeSession, dict[str, str]]:
        """Return a session and its authorization headers. Getting these may take long enough for
        two reloads of credentials, after which the session would be closed: then start over.
        """
        while True:
            session = await self.session()
            headers = await session.authorization()
            if session is self._session:
                return session, headers

    async def reload(self, old: KubeSession) -> None:
        """Load the credentials again, unless another request has done so since `old` was used."""
        async with self._opening:
            if self._session is not old:
                return
            log.info(
                "the API server may have rejected the Kubernetes credentials (a 401 or a "
                "TLS error): loading them from their files again; requests are retried "
                "with them",
                extra=facts(server=self.where),
            )
            try:
                session = await KubeSession.begin(self._load)
            except BadSettings as error:
                raise Unreachable(str(error)) from error
            # Closing the session in use would fail requests that are about to be sent.
            for retired in self._retired:
                await retired.close()
            self._retired = [self._session]
            self._session = session

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
            for session in (*self._retired, self._session):
                if session is not None:
                    await session.close()
            self._session = None
            self._retired.clear()


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
