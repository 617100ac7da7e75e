"""All settings: flags override environment variables, which override defaults. Read at start."""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.model.keys import OURSELVES
from linstor_affinity_events.model.policy import FALSE, TRUE

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_HOST = re.compile(r"(?=.*[a-z:])[a-z0-9_.:%-]+|\d+\.\d+\.\d+\.\d+")
_PORTS = {"http": 3370, "https": 3371}
_SCHEMES = {"http": "http", "https": "https", "linstor": "http", "linstor+ssl": "https"}

Address = tuple[str, int]


def duration(text: str) -> float:
    """Read a Go duration (`1m30s`, `250ms`, `1.5h`, `0`) as seconds. Raises ValueError."""
    if text == "0":
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("is not a valid duration such as 90s, 1m30s or 250ms")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def boolean(text: str) -> bool:
    """Read a Go boolean. Raises ValueError."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError("is not true or false")


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("is not a valid integer") from None


def address(text: str) -> Address | None:
    """Read `host:port`, `[v6]:port` or `:port` (all addresses); empty means off."""
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("is not a valid address such as [::]:8000 or 127.0.0.1:8000")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("needs brackets around the IPv6 address, as in [::1]:8000")
    return host or "::", int(port)


def text(value: str) -> str:
    return value


def words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def config_files(value: str) -> str:
    """Read one file name, or several separated by colons, of which at least one must exist."""
    names = [name for name in value.split(os.pathsep) if name]
    if names and not any(Path(name).expanduser().is_file() for name in names):
        raise ValueError("is not an existing file")
    return value


def server(value: str) -> str:
    """Read a URL such as https://host:6443; empty means the one in the configuration."""
    if value and (not value.startswith(("http://", "https://")) or not urlsplit(value).hostname):
        raise ValueError("is not a valid URL such as https://host:6443")
    return value


def switch(value: str) -> str:
    if value not in {"auto", "on", "off"}:
        raise ValueError("is not auto, on or off")
    return value


def node_scope(value: str) -> str:
    if value not in {"any", "driver"}:
        raise ValueError("is not any or driver")
    return value


def auto_or_off(value: str) -> str:
    if value not in {"auto", "off"}:
        raise ValueError("is not auto or off")
    return value


def page_access(value: str) -> str:
    """Read local, all or off; a boolean true means local, false means off."""
    if value in TRUE:
        return "local"
    if value in FALSE:
        return "off"
    if value not in {"local", "all", "off"}:
        raise ValueError("is not local, all or off")
    return value


def log_format(value: str) -> str:
    if value not in {"text", "json"}:
        raise ValueError("is not text or json")
    return value


ENV_PREFIX = "LINSTOR_AFFINITY_"
"""Other programs set variables such as TIMEOUT, SERVER or CONTEXT. Only those that the reference
controller or kubectl read as well have no prefix.
"""


class Group(StrEnum):
    """The headings of `--help`."""

    RECONCILING = "Reconciling"
    REPLACING = "Replacing volumes"
    LINSTOR = "LINSTOR"
    KUBERNETES = "Kubernetes"
    ELECTION = "Leader election and journal"
    ENDPOINTS = "Endpoints and logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One flag and its environment variable."""

    flag: str
    group: Group
    default: str
    parse: Callable[[str], Any]
    metavar: str
    help: str
    env: str = ""
    least: float = -math.inf
    is_switch: bool = False

    @property
    def field(self) -> str:
        return self.flag.replace("-", "_")

    @property
    def variable(self) -> str:
        return self.env or f"{ENV_PREFIX}{self.field.upper()}"


_DURATION_METAVAR, _ADDRESS_METAVAR = "DURATION", "HOST:PORT"

OPTIONS = (
    Option(
        flag="reconcile-rate",
        group=Group.RECONCILING,
        default="60s",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=1.0,
        help="Interval between full reconciles. A full reconcile compares all volumes with "
        "LINSTOR, and so finds changes for which no event was received.",
    ),
    Option(
        flag="timeout",
        group=Group.RECONCILING,
        default="1m",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=1.0,
        help="Maximum duration of one full reconcile. One that takes longer is stopped and "
        "retried. While LINSTOR cannot return all resources at once, for example because a "
        "satellite hangs, each is read by a request of its own, and the retry continues "
        "where the last attempt stopped.",
    ),
    Option(
        flag="workers",
        group=Group.RECONCILING,
        default="10",
        parse=whole_number,
        metavar="INT",
        least=1,
        help="Maximum number of volumes that are changed at the same time, and one more while a "
        "single urgent volume comes on top of many. Fewer are while the PersistentVolume "
        "controller (kube-controller-manager) is the bottleneck. Also the number of "
        "concurrent requests to LINSTOR (at least 4) while it cannot return all resources at "
        "once and each is read by a request of its own.",
    ),
    Option(
        flag="new-volume-grace",
        group=Group.RECONCILING,
        default="10s",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=0.0,
        help="How long a new volume is not changed after its creation, because linstor-csi may "
        "still work with outdated caches. It is checked when this time is over. Volumes "
        "that this service has recreated do not wait.",
    ),
    Option(
        flag="default-remote-access-policy",
        group=Group.RECONCILING,
        default="",
        parse=text,
        metavar="POLICY",
        help="Policy for volumes whose StorageClass does not set allowRemoteVolumeAccess, and "
        "for volumes without a StorageClass: true (any node may use them), false (only "
        "nodes with a replica) or a list of fromSame rules. Set the value that linstor-csi "
        "has. If empty: true if the layers of the StorageClass include drbd or nvme, else "
        "false; volumes without a StorageClass are not changed.",
    ),
    Option(
        flag="everywhere",
        group=Group.RECONCILING,
        default="any",
        parse=node_scope,
        metavar="any|driver",
        help="Which node affinity to set on volumes that any node may use: any (none, so every "
        "node) or driver (the nodes with label linbit.com/hostname, on which LINSTOR's CSI "
        "driver runs).",
    ),
    Option(
        flag="claim-guard-timeout",
        group=Group.REPLACING,
        default="2s",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=0.0,
        help="How long a replacement waits for the PersistentVolume controller "
        "(kube-controller-manager) to set the deleted, not yet removed volume to phase "
        "Released. Then it continues without that, and the claim may be Lost for a moment. "
        "The time counts from the last phase that the controller has set on any volume, up "
        "to 60s in all. A longer timeout only delays replacements while the controller "
        "does not respond.",
    ),
    Option(
        flag="allow-finalizer",
        group=Group.REPLACING,
        default="",
        parse=words,
        metavar="LIST",
        help="Comma-separated finalizers, or patterns such as example.com/*, that do not "
        "prevent the replacement of a volume. Those of Kubernetes and CSI never do. A "
        "volume with any other finalizer is not replaced, and this is reported.",
    ),
    Option(
        flag="take-over-saved-volumes",
        group=Group.REPLACING,
        default="auto",
        parse=auto_or_off,
        metavar="auto|off",
        help="What to do with replacements that linstor-affinity-controller left unfinished and "
        "saved in LINSTOR: auto (complete those that the PersistentVolume or the claim in "
        "this cluster confirms, and ignore others) or off (ignore all). Each one that is "
        "ignored is logged as a warning.",
    ),
    Option(
        flag="shutdown-grace",
        group=Group.REPLACING,
        default="25s",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=0.0,
        help="How long to wait after SIGTERM until reconciles and replacements in progress are "
        "completed. Those that take longer are interrupted; the next leader completes "
        "them. Set it below the pod's terminationGracePeriodSeconds.",
    ),
    Option(
        flag="property-namespace",
        group=Group.LINSTOR,
        default="",
        parse=text,
        metavar="NAME",
        help="Prefix of the LINSTOR node properties that hold the node labels, such as "
        "Aux/topology. If empty, for each node: Aux/topology if the node has "
        "Aux/topology/kubernetes.io/hostname, else Aux.",
    ),
    Option(
        flag="watch-linstor-database",
        group=Group.LINSTOR,
        default="auto",
        parse=switch,
        metavar="auto|on|off",
        help="Whether to watch the replicas in LINSTOR's database, if it is stored in this "
        "Kubernetes cluster, as with Piraeus. This finds changes for which LINSTOR sends "
        "no event. auto: if the database exists and the service account may watch it; "
        "otherwise polls and full reconciles find these changes. on: the same, but the "
        "instance logs a warning and is not ready until it can watch it. off: never.",
    ),
    Option(
        flag="poll-rate",
        group=Group.LINSTOR,
        default="10s",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=0.0,
        help="How often the leader reads the list of LINSTOR's nodes and the number of its "
        "resources. If one of them has changed, a full reconcile starts, and finds changes "
        "for which LINSTOR sends no event, such as a lost node. 0 disables it. Not done "
        "while LINSTOR's database is watched.",
    ),
    Option(
        flag="kubeconfig",
        group=Group.KUBERNETES,
        default="",
        env="KUBECONFIG",
        parse=config_files,
        metavar="PATH",
        help="Path of the kubeconfig file, or several separated by colons, as for kubectl. If "
        "empty: the service account in a pod, ~/.kube/config elsewhere. With --context, "
        "~/.kube/config also in a pod.",
    ),
    Option(
        flag="context",
        group=Group.KUBERNETES,
        default="",
        parse=text,
        metavar="NAME",
        help="Context to use from the kubeconfig file. If empty: its current context, or the "
        "service account in a pod.",
    ),
    Option(
        flag="server",
        group=Group.KUBERNETES,
        default="",
        parse=server,
        metavar="URL",
        help="URL of the API server, instead of the one in the kubeconfig file or, in a pod, "
        "that of the service account. Credentials and certificate authority are still "
        "taken from there. If empty: the URL from there.",
    ),
    Option(
        flag="resync-rate",
        group=Group.KUBERNETES,
        default="5m",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=10.0,
        help="How long each watch on the API server stays open. Then it is reopened where it "
        "ended; nothing is missed or listed again.",
    ),
    Option(
        flag="leader-election",
        group=Group.ELECTION,
        default="true",
        parse=boolean,
        metavar="true|false",
        is_switch=True,
        help="true: one of several instances is elected as the leader, with a Lease, and only "
        "the leader changes volumes. false: this instance always works as the leader; run "
        "only one instance then.",
    ),
    Option(
        flag="leader-election-id",
        group=Group.ELECTION,
        default="",
        env="LEASE_HOLDER_IDENTITY",
        parse=text,
        metavar="NAME",
        help="Name of this instance in the Lease; every instance needs its own. With a fixed "
        "name, an instance that restarts after a crash leads again at once; with a new name, "
        "it waits until the old Lease expires. If empty: the host name and a random suffix, new "
        "at each start.",
    ),
    Option(
        flag="lease-lock-name",
        group=Group.ELECTION,
        default=OURSELVES,
        env="LEASE_LOCK_NAME",
        parse=text,
        metavar="NAME",
        help="Name of the Lease for the leader election. All instances must have the same.",
    ),
    Option(
        flag="lease-lock-namespace",
        group=Group.ELECTION,
        default="",
        parse=text,
        metavar="NAMESPACE",
        help="Namespace of the Lease. If empty: $POD_NAMESPACE, else the namespace of the pod, "
        "else default. All instances must have the same.",
    ),
    Option(
        flag="journal-namespace",
        group=Group.ELECTION,
        default="",
        parse=text,
        metavar="NAMESPACE",
        help="Namespace of the journal: one ConfigMap for each unfinished replacement, from "
        "which an interrupted one is completed. If empty: the namespace of the Lease. "
        "Change it only while `check --leftovers` reports no unfinished replacements; in "
        "the new namespace they would not be found.",
    ),
    Option(
        flag="leader-election-lease-duration",
        group=Group.ELECTION,
        default="30s",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=1.0,
        help="How long after the last renewal the Lease expires, so that another instance can "
        "lead. Must be longer than --leader-election-renew-deadline.",
    ),
    Option(
        flag="leader-election-renew-deadline",
        group=Group.ELECTION,
        default="25s",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=0.5,
        help="How long after its last renewal of the Lease the leader stops leading by itself: "
        "it starts no more changes. Must be longer than --leader-election-retry-period and "
        "shorter than --leader-election-lease-duration.",
    ),
    Option(
        flag="leader-election-retry-period",
        group=Group.ELECTION,
        default="10s",
        parse=duration,
        metavar=_DURATION_METAVAR,
        least=0.1,
        help="Interval at which the leader renews the Lease, and other instances try to acquire "
        "it.",
    ),
    Option(
        flag="bind-address",
        group=Group.ENDPOINTS,
        default="[::]:8000",
        parse=address,
        metavar=_ADDRESS_METAVAR,
        help="Address on which /healthz, /readyz and the status page are served. Empty: they "
        "are not served.",
    ),
    Option(
        flag="metrics-address",
        group=Group.ENDPOINTS,
        default="",
        parse=address,
        metavar=_ADDRESS_METAVAR,
        help="Address on which /metrics is served; may be the same as --bind-address. Empty: it "
        "is not served.",
    ),
    Option(
        flag="status-page",
        group=Group.ENDPOINTS,
        default="local",
        parse=page_access,
        metavar="local|all|off",
        is_switch=True,
        help="Who may read the status page at / and its data at /status: local (connections "
        "from the same host or pod, such as kubectl port-forward), all (everyone who can "
        "connect to --bind-address; there is no login) or off (nobody). It shows names of "
        "volumes, claims and nodes, as the log does.",
    ),
    Option(
        flag="log-format",
        group=Group.ENDPOINTS,
        default="text",
        parse=log_format,
        metavar="text|json",
        help="Format of log lines: text (a message, then key=value) or json (one object per line).",
    ),
    Option(
        flag="v",
        group=Group.ENDPOINTS,
        default="0",
        env=f"{ENV_PREFIX}VERBOSITY",
        parse=whole_number,
        metavar="INT",
        help="Log verbosity. 0: changes and problems (INFO and above). 1: also every decision "
        "(DEBUG). 5: also messages of the libraries in use.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of all settings; times are in seconds."""

    reconcile_rate: float
    resync_rate: float
    timeout: float
    bind_address: Address | None
    metrics_address: Address | None
    status_page: str
    property_namespace: str
    watch_linstor_database: str
    poll_rate: float
    workers: int
    new_volume_grace: float
    claim_guard_timeout: float
    allow_finalizer: tuple[str, ...]
    default_remote_access_policy: str
    everywhere: str
    take_over_saved_volumes: str
    leader_election: bool
    leader_election_id: str
    lease_lock_name: str
    lease_lock_namespace: str
    journal_namespace: str
    leader_election_lease_duration: float
    leader_election_renew_deadline: float
    leader_election_retry_period: float
    shutdown_grace: float
    kubeconfig: str
    context: str
    server: str
    log_format: str
    v: int
    linstor_urls: tuple[str, ...]
    linstor_username: str
    linstor_password: str
    linstor_token_file: str
    linstor_certificate: str
    linstor_certificate_file: str
    linstor_key: str
    linstor_key_file: str
    linstor_root_ca: str
    linstor_root_ca_file: str
    linstor_tls_server_name: str

    @classmethod
    def read(
        cls,
        flags: Mapping[str, str],
        env: Mapping[str, str],
        *,
        check_policy: Callable[[str], object] = text,
    ) -> Self:
        """Read flags (by field name, as strings), then the environment, then the defaults.

        `check_policy` raises BadSettings for a policy text that is not valid. Raises BadSettings
        that lists every mistake, one per line, not only the first.
        """
        mistakes: list[str] = []
        values = {option.field: _value(option, flags, env, mistakes) for option in OPTIONS}
        values |= _linstor(env, mistakes)
        values["lease_lock_namespace"] = (
            values["lease_lock_namespace"] or env.get("POD_NAMESPACE", "").strip()
        )
        _check_lease(values, mistakes)
        try:
            check_policy(values["default_remote_access_policy"])
        except BadSettings as error:
            mistakes.append(str(error))
        if mistakes:
            raise BadSettings("\n".join(mistakes))
        return cls(**values)

    def __repr__(self) -> str:
        """Return a text without the settings that may hold secrets."""
        return f"Settings({', '.join(f'{o.field}={getattr(self, o.field)!r}' for o in OPTIONS)})"


def _shown(given: str) -> str:
    """Return a value for an error message, shortened to 200 characters."""
    return repr(given if len(given) <= 200 else f"{given[:200]}...")


def _value(
    option: Option, flags: Mapping[str, str], env: Mapping[str, str], mistakes: list[str]
) -> Any:
    if option.field in flags:
        given, where = flags[option.field], f"--{option.flag}"
    elif env.get(option.variable):
        given, where = env[option.variable], option.variable
    else:
        given, where = option.default, f"--{option.flag}"
    try:
        value = option.parse(given.strip())
    except ValueError as error:
        mistakes.append(f"{where}={_shown(given)} {error}")
        return option.parse(option.default)
    if isinstance(value, int | float) and value < option.least:
        mistakes.append(f"{where}={_shown(given)} is below the minimum of {option.least:g}")
    return value


def _check_lease(values: Mapping[str, Any], mistakes: list[str]) -> None:
    lease, renew, retry = (
        values[f"leader_election_{part}"]
        for part in ("lease_duration", "renew_deadline", "retry_period")
    )
    if not lease > renew:
        mistakes.append(
            f"--leader-election-lease-duration ({lease:g}s) must be longer than "
            f"--leader-election-renew-deadline ({renew:g}s)"
        )
    if not renew > retry:
        mistakes.append(
            f"--leader-election-renew-deadline ({renew:g}s) must be longer than "
            f"--leader-election-retry-period ({retry:g}s)"
        )


def _linstor(env: Mapping[str, str], mistakes: list[str]) -> dict[str, Any]:
    """Read the LS_* variables as LINBIT's own clients do."""
    names = {
        "linstor_username": "LS_USERNAME",
        "linstor_password": "LS_PASSWORD",
        "linstor_token_file": "LS_BEARER_TOKEN_FILE",
        "linstor_certificate": "LS_USER_CERTIFICATE",
        "linstor_certificate_file": "LS_USER_CERTIFICATE_FILE",
        "linstor_key": "LS_USER_KEY",
        "linstor_key_file": "LS_USER_KEY_FILE",
        "linstor_root_ca": "LS_ROOT_CA",
        "linstor_root_ca_file": "LS_ROOT_CA_FILE",
        "linstor_tls_server_name": "LS_TLS_SERVER_NAME",
    }
    values: dict[str, Any] = {field: env.get(name, "") for field, name in names.items()}
    if bool(values["linstor_username"]) != bool(values["linstor_password"]):
        mistakes.append("LS_USERNAME and LS_PASSWORD must be set together")
    if values["linstor_username"] and values["linstor_token_file"]:
        mistakes.append("LS_USERNAME and LS_BEARER_TOKEN_FILE cannot be set together")
    certificate = values["linstor_certificate"] or values["linstor_certificate_file"]
    key = values["linstor_key"] or values["linstor_key_file"]
    if bool(certificate) != bool(key):
        mistakes.append("LS_USER_CERTIFICATE and LS_USER_KEY must be set together")
    name = values["linstor_tls_server_name"]
    if name and _HOST.fullmatch(name.lower()) is None:
        mistakes.append(f"LS_TLS_SERVER_NAME={_shown(name)} is not a host name")
    secured = bool(certificate or values["linstor_root_ca"] or values["linstor_root_ca_file"])
    values["linstor_urls"] = _controllers(env.get("LS_CONTROLLERS", ""), secured, mistakes)
    plain = [url for url in values["linstor_urls"] if url.startswith("http:")]
    login = values["linstor_username"] or values["linstor_token_file"]
    if login and plain and len(plain) < len(values["linstor_urls"]):
        mistakes.append(
            f"LS_CONTROLLERS mixes https with {', '.join(plain)}, to which the "
            "login would be sent unencrypted: use https for all controllers, or "
            "remove these"
        )
    return values


def _controllers(given: str, secured: bool, mistakes: list[str]) -> tuple[str, ...]:  # noqa: FBT001, states a fact, selects no mode
    """Return `scheme://host:port` for each; the default scheme is https if certificates are set."""
    if "@" in given:
        # Nothing of it is repeated: even what looks like another controller may be of a password.
        mistakes.append(
            "LS_CONTROLLERS must not contain a login, but only scheme://host:port for each "
            "controller: set LS_USERNAME and LS_PASSWORD"
        )
        return ()
    urls = []
    for given_one in words(given) or ("localhost",):
        whole = (
            given_one if "://" in given_one else f"{'https' if secured else 'http'}://{given_one}"
        )
        one = given_one[:200]
        try:
            parts = urlsplit(whole)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            mistakes.append(f"LS_CONTROLLERS: {one!r}: {error}")
            continue
        scheme = _SCHEMES.get(parts.scheme)
        if scheme is None:
            mistakes.append(
                f"LS_CONTROLLERS: {one!r}: scheme {parts.scheme!r} is not one of "
                f"{', '.join(_SCHEMES)}"
            )
        elif (
            not host
            or _HOST.fullmatch(host) is None
            or port == 0
            or f"{parts.path.strip('/')}{parts.query}{parts.fragment}"
        ):
            mistakes.append(f"LS_CONTROLLERS: {one!r} is not of the form scheme://host:port")
        else:
            shown = f"[{host}]" if ":" in host else host
            urls.append(f"{scheme}://{shown}:{port or _PORTS[scheme]}")
    return tuple(dict.fromkeys(urls))
