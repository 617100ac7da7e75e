"""A session with the API server, with credentials and TLS as loaded by kubernetes-asyncio."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from yarl import URL

from linstor_affinity_events.adapters.kubernetes.library import (
    ConfigException,
    Configuration,
    RESTClientObject,
    load_incluster_config,
    load_kube_config,
)
from linstor_affinity_events.adapters.kubernetes.proxy import Proxy, proxy_for, without_login
from linstor_affinity_events.adapters.transport.plain_response import PlainResponse
from linstor_affinity_events.errors import BadSettings, Unreachable
from linstor_affinity_events.model.keys import OURSELVES

READ_BUFFER = 2 * 1024 * 1024
"""aiohttp buffers up to twice this size of each response."""

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the token, the certificates and the namespace of the ServiceAccount."""

LoadConfiguration = Callable[[], Awaitable[Configuration]]


def configuration_from(
    *, kubeconfig: str, context: str, server: str, account: Path = ACCOUNT
) -> LoadConfiguration:
    """Return a loader of the configuration: from the given files, else the pod's ServiceAccount,
    else ~/.kube. The loader raises BadSettings that says what is missing.
    """

    async def load() -> Configuration:
        configuration = Configuration()
        try:
            if not kubeconfig and not context:
                try:
                    load_incluster_config(
                        client_configuration=configuration,
                        token_filename=str(account / "token"),
                        cert_filename=str(account / "ca.crt"),
                    )
                except ConfigException:
                    await load_kube_config(client_configuration=configuration, persist_config=False)
            else:
                await load_kube_config(
                    config_file=kubeconfig or None,
                    context=context or None,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (
            *(ConfigException, OSError, yaml.YAMLError),
            *(TypeError, ValueError, LookupError, AttributeError),
            # What an identity provider sends in place of a token, or does not send.
            *(aiohttp.ClientError, RecursionError),
        ) as error:
            why = " ".join(str(error).split())
            raise BadSettings(
                f"no Kubernetes configuration: {why}; set --kubeconfig "
                "(KUBECONFIG), or run in a pod with a service account"
            ) from error
        if server:
            configuration.host = server.rstrip("/")
        return configuration

    return load


def own_namespace() -> str:
    """Return the namespace of this pod; empty outside of a pod."""
    try:
        return (ACCOUNT / "namespace").read_text().strip()
    except OSError:
        return ""


class KubeSession:
    """The HTTP session of one loaded configuration; each reload creates a new session."""

    def __init__(
        self, configuration: Configuration, rest: RESTClientObject, proxy: Proxy | None
    ) -> None:
        self._configuration, self._rest = configuration, rest
        self.host = str(configuration.host)
        self.where = without_login(self.host) + (f" through {proxy.url}" if proxy else "")
        """The API server and the proxy to it, for messages."""
        login = proxy.headers if proxy else {}
        is_tunnelled = self.host.startswith("https:")
        # The library's own session reads environment and .netrc for each request, in threads,
        # which took longer than many requests.
        self.http = aiohttp.ClientSession(
            connector=rest.pool_manager.connector,
            connector_owner=False,
            # Without TLS the proxy gets the requests themselves.
            headers={} if is_tunnelled else login,
            read_bufsize=READ_BUFFER,
            # A cookie of one response would be in all later requests.
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=PlainResponse,
            trace_configs=[_counting()],
        )
        self.route: Mapping[str, Any] = {
            key: value
            for key, value in (
                ("proxy", proxy and proxy.url),
                ("proxy_headers", login if is_tunnelled else {}),
                ("server_hostname", configuration.tls_server_name),
            )
            if value
        }
        """The proxy, and the server name for TLS if the kubeconfig file sets one."""

    @classmethod
    async def begin(cls, load: LoadConfiguration) -> Self:
        """Load credentials and create a session with them. Raises BadSettings."""
        configuration = await load()
        # Python 3.13 and later require extensions that the certificates of many clusters lack, EKS
        # among them; Go, and so kubectl, does not.
        configuration.disable_strict_ssl_verification = True
        host, named = str(configuration.host), configuration.proxy
        _check_url(host)
        try:
            proxy = Proxy.read(str(named), "the kubeconfig file") if named else proxy_for(host)
            return cls(configuration, RESTClientObject(configuration), proxy)
        except (OSError, ValueError) as error:
            raise BadSettings(
                f"cannot connect to Kubernetes at {without_login(host)}: {error}"
            ) from error

    async def close(self) -> None:
        await self.http.close()
        await self._rest.close()

    @property
    def certified(self) -> bool:
        """Whether a client certificate is used."""
        return bool(self._configuration.cert_file)

    @property
    def has_credentials(self) -> bool:
        """Whether a token, a password or a client certificate was loaded. Without any, the API
        server takes requests for those of system:anonymous, and forbids them.
        """
        scheme_and_value = str(self._configuration.api_key.get("BearerToken") or "").split()
        return self.certified or len(scheme_and_value) > 1

    async def authorization(self) -> dict[str, str]:
        """Return the headers with the credentials. Raises Unreachable."""
        try:
            settings = await self._configuration.auth_settings()
        except (aiohttp.ClientError, ConfigException, OSError, ValueError) as error:
            raise Unreachable(f"Kubernetes credentials: {error}") from error
        headers = {"User-Agent": OURSELVES}
        if (token := settings.get("BearerToken")) and token["value"]:
            # A token file ends with a newline, which would end the header.
            headers["Authorization"] = token["value"].strip()
        if not headers.get("Authorization", "x").isprintable():
            raise Unreachable("Kubernetes credentials: the token is not valid")
        return headers


def _check_url(host: str) -> None:
    """Raises BadSettings, which does not say what is wrong: that may be a part of a password."""
    try:
        url = URL(host)
        # The resolver encodes it in this way, too.
        (url.host or "").encode("idna")
        valid = url.scheme in {"http", "https"} and url.host
    except ValueError:
        valid = False
    if not valid:
        raise BadSettings(
            f"the address of the API server, {without_login(host)}, is not a valid URL such as "
            "https://host:6443"
        ) from None


def _counting() -> aiohttp.TraceConfig:
    """Record each time that a request is sent: aiohttp by itself repeats PUT and DELETE once when a
    reused connection turns out to be closed.
    """

    async def entry(_: object, context: Any, params: aiohttp.TraceRequestHeadersSentParams) -> None:
        if isinstance(context.trace_request_ctx, list):
            context.trace_request_ctx.append(params.method)

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(entry)
    config.freeze()
    return config
