"""The proxy to the API server: which one, and its login, which no error may contain."""

import logging
import os
from dataclasses import dataclass
from typing import Self

import aiohttp
from yarl import URL

from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.proxies import is_spared, proxy_named, variable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proxy:
    """The client library puts the URL of a proxy into its errors: the login is not part of it."""

    url: URL
    authorization: str
    """The value of the header with the login; empty without a login."""

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy is sent and the API server is not."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}

    @classmethod
    def read(cls, text: str, named_by: str) -> Self:
        """Read a URL such as http://user:password@host:port, named by a variable or a file.

        Raises ValueError, which does not say what is in the text: it may be a password.
        """
        try:
            url = URL(text)
            more = url.path.strip("/") or url.query_string or url.fragment
            valid = url.scheme in {"http", "https"} and url.host and url.port and not more
            login = "" if url.user is None else _authorization(url)
        except ValueError:
            valid = False
        if not valid:
            # From None: also what the parser says is about the text.
            raise ValueError(
                f"the proxy that {named_by} names is not of the form http://host:port or "
                "http://user:password@host:port; in user and password, / must be written as %2F, "
                "and likewise : @ # ? and %"
            ) from None
        return cls(url.with_user(None), login)


def _authorization(url: URL) -> str:
    return aiohttp.encode_basic_auth(url.user or "", url.password or "", "utf-8")


def proxy_for(server: str) -> Proxy | None:
    """Return the proxy from HTTPS_PROXY or HTTP_PROXY, unless NO_PROXY exempts the server.

    An https:// proxy is not used: the session trusts only the cluster's certificate authority.
    Raises ValueError for a proxy that is not valid.
    """
    url = URL(server)
    proxy = proxy_named(os.environ, url.scheme)
    if not proxy or not url.host or url.port is None:
        return None
    if is_spared(variable(os.environ, "no_proxy"), url.host, url.port):
        return None
    if not proxy.lower().startswith("http:"):
        log.warning(
            "proxies other than http:// are not supported: connecting to the API server "
            "without the proxy. If it is reachable only through a proxy, set HTTPS_PROXY "
            "to an http:// one",
            extra=facts(server=without_login(server), proxy=without_login(proxy)),
        )
        return None
    return Proxy.read(proxy, f"{url.scheme.upper()}_PROXY")


def without_login(url: str) -> str:
    """Return a URL for messages, without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
