"""All settings: flags override environment variables, which override defaults. Read at start."""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        raise ValueError("is no duration such as 90s, 1m30s or 250ms")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def boolean(text: str) -> bool:
    """Read a Go boolean. Raises ValueError."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError("is neither true nor false")


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("is no whole number") from None


def address(text: str) -> Address | None:
    """Read `host:port`, `[v6]:port` or `:port` (all addresses); empty means off."""
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("is no address such as [::]:8000 or 127.0.0.1:8000")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("needs brackets around its IPv6 address, as in [::1]:8000")
    return host or "::", int(port)


def text(value: str) -> str:
    return value


def words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def config_files(value: str) -> str:
    """Read one file name, or several separated by colons, of which at least one must exist."""
    names = [name for name in value.split(os.pathsep) if name]
    if names and not any(Path(name).expanduser().is_file() for name in names):
        raise ValueError("is no file")
    return value


def server(value: str) -> str:
    """Read a URL such as https://host:6443; empty means the one in the configuration."""
    if value and (not value.startswith(("http://", "https://")) or not urlsplit(value).hostname):
        raise ValueError("is no address such as https://host:6443")
    return value


def switch(value: str) -> str:
    if value not in {"auto", "on", "off"}:
        raise ValueError("is neither auto nor on nor off")
    return value


def node_scope(value: str) -> str:
    if value not in {"any", "driver"}:
        raise ValueError("is neither any nor driver")
    return value


def auto_or_off(value: str) -> str:
    if value not in {"auto", "off"}:
        raise ValueError("is neither auto nor off")
    return value


def page_access(value: str) -> str:
    """Read local, all or off; a boolean true means local, false means off."""
    if value in TRUE:
        return "local"
    if value in FALSE:
        return "off"
    if value not in {"local", "all", "off"}:
        raise ValueError("is neither local nor all nor off")
    return value


def log_format(value: str) -> str:
    if value not in {"text", "json"}:
        raise ValueError("is neither text nor json")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One flag and its environment variable."""

    flag: str
    default: str
    parse: Callable[[str], Any]
    help: str
    env: str = ""
    least: float = -math.inf
    is_switch: bool = False

    @property
    def field(self) -> str:
        return self.flag.replace("-", "_")

    @property
    def variable(self) -> str:
        return self.env or self.field.upper()


OPTIONS = (
    Option(
        flag="reconcile-rate",
        default="60s",
        parse=duration,
        least=1.0,
        help="Pause between full passes, the net under events that never came.",
    ),
    Option(
        flag="resync-rate",
        default="5m",
        parse=duration,
        least=10.0,
        help="How long one watch on the API server lasts before it is opened anew.",
    ),
    Option(
        flag="timeout",
        default="1m",
        parse=duration,
        least=1.0,
        help="How long a full pass may take before it is cut off and begun again. One that reads "
        "resources one by one, as it must while a satellite hangs, goes on where it was cut off.",
    ),
    Option(
        flag="bind-address",
        default="[::]:8000",
        parse=address,
        help="Where /healthz and /readyz are served; empty switches them off.",
    ),
    Option(
        flag="metrics-address",
        default="",
        parse=address,
        help="Where /metrics is served, which may be the same address; empty switches it off.",
    ),
    Option(
        flag="status-page",
        default="local",
        parse=page_access,
        is_switch=True,
        help="Whom to serve a read-only page at / and its data at /status on the bind address: "
        "local (connections from this host, such as kubectl port-forward), all or off. They show "
        "what the log shows: names of volumes, claims and nodes, and reasons.",
    ),
    Option(
        flag="property-namespace",
        default="",
        parse=text,
        help="LINSTOR property namespace that holds node labels; empty finds it: Aux/topology, "
        "or Aux where that has no host names.",
    ),
    Option(
        flag="database-hints",
        default="auto",
        parse=switch,
        help="Watch LINSTOR's own database where it is kept in Kubernetes, as Piraeus does: it "
        "tells of changes for which LINSTOR sends no events. auto (where that is possible and "
        "allowed), on or off.",
    ),
    Option(
        flag="pulse-rate",
        default="10s",
        parse=duration,
        least=0.0,
        help="How often to read LINSTOR's nodes and the number of its resources, two requests that "
        "it answers from memory, to find changes without an event, such as a lost node; 0 turns it "
        "off. Paused while LINSTOR's database is watched.",
    ),
    Option(
        flag="workers",
        default="10",
        parse=whole_number,
        least=1,
        help="At most so many volumes are changed at the same time; fewer where more would mostly "
        "wait for each other. As many resources, and at least 4, are read at the same time where "
        "a full pass reads them one by one.",
    ),
    Option(
        flag="new-volume-grace",
        default="10s",
        parse=duration,
        least=0.0,
        help="Leave volumes younger than this alone: linstor-csi's caches may have given them "
        "an old affinity.",
    ),
    Option(
        flag="claim-guard-timeout",
        default="2s",
        parse=duration,
        least=0.0,
        help="How long a silent volume binder is waited for while a volume is replaced. A "
        "shorter time risks claims that are Lost for a moment.",
    ),
    Option(
        flag="allow-finalizer",
        default="",
        parse=words,
        help="Finalizers, as comma-separated patterns such as example.com/*, that may be on a "
        "volume that is replaced, beside those of Kubernetes and CSI.",
    ),
    Option(
        flag="default-remote-access-policy",
        default="",
        parse=text,
        help="Policy of StorageClasses that name none; give it what linstor-csi is given. Empty: "
        "everywhere with layer drbd or nvme, local only otherwise.",
    ),
    Option(
        flag="everywhere",
        default="any",
        parse=node_scope,
        help="What is written on volumes that any node may use: any (no node affinity at all) or "
        "driver (nodes that run LINSTOR's CSI driver, which have the label linbit.com/hostname).",
    ),
    Option(
        flag="take-over-saved-volumes",
        default="auto",
        parse=auto_or_off,
        help="Finish replacements that linstor-affinity-controller left unfinished and noted on "
        "LINSTOR: auto (where the objects of this cluster confirm the note) or off.",
    ),
    Option(
        flag="leader-election",
        default="true",
        parse=boolean,
        is_switch=True,
        help="Let one of several instances do the work, agreed on by a Lease.",
    ),
    Option(
        flag="leader-election-id",
        default="",
        env="LEASE_HOLDER_IDENTITY",
        parse=text,
        help="Name of this instance in the Lease, one of its own for each; a restarted instance "
        "that kept its name leads again at once. Empty takes the host name and a random suffix.",
    ),
    Option(flag="lease-lock-name", default=OURSELVES, parse=text, help="Name of the Lease."),
    Option(
        flag="lease-lock-namespace",
        default="",
        parse=text,
        help="Namespace of the Lease; empty takes POD_NAMESPACE, else the namespace of the pod, "
        "else default.",
    ),
    Option(
        flag="journal-namespace",
        default="",
        parse=text,
        help="Namespace of the journal, one ConfigMap for each replacement under way; empty takes "
        "that of the Lease. Change it only while `check --leftovers` finds none.",
    ),
    Option(
        flag="leader-election-lease-duration",
        default="30s",
        parse=duration,
        least=1.0,
        help="How long others wait after the last sign of a leader.",
    ),
    Option(
        flag="leader-election-renew-deadline",
        default="25s",
        parse=duration,
        least=0.5,
        help="How long a leader that can't renew goes on.",
    ),
    Option(
        flag="leader-election-retry-period",
        default="10s",
        parse=duration,
        least=0.1,
        help="Pause between attempts to get or renew the Lease.",
    ),
    Option(
        flag="shutdown-grace",
        default="25s",
        parse=duration,
        least=0.0,
        help="On SIGTERM, how long replacements that were begun may take to end; stay below the "
        "pod's terminationGracePeriodSeconds.",
    ),
    Option(
        flag="kubeconfig",
        default="",
        parse=config_files,
        help="File that says how to reach Kubernetes; empty takes the pod's service account, "
        "else ~/.kube/config.",
    ),
    Option(flag="context", default="", parse=text, help="Context in the kubeconfig file."),
    Option(flag="server", default="", parse=server, help="Address of the API server instead."),
    Option(flag="log-format", default="text", parse=log_format, help="text (key=value) or json."),
    Option(
        flag="v",
        default="0",
        env="VERBOSITY",
        parse=whole_number,
        help="Log level: 1 tells why nothing was done, 5 what the libraries say as well.",
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
    database_hints: str
    pulse_rate: float
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
        mistakes.append(f"{where}={_shown(given)} is below {option.least:g}")
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
        mistakes.append("LS_USERNAME and LS_PASSWORD are only good together")
    if values["linstor_username"] and values["linstor_token_file"]:
        mistakes.append("LS_USERNAME and LS_BEARER_TOKEN_FILE exclude each other")
    certificate = values["linstor_certificate"] or values["linstor_certificate_file"]
    key = values["linstor_key"] or values["linstor_key_file"]
    if bool(certificate) != bool(key):
        mistakes.append("LS_USER_CERTIFICATE and LS_USER_KEY are only good together")
    name = values["linstor_tls_server_name"]
    if name and _HOST.fullmatch(name.lower()) is None:
        mistakes.append(f"LS_TLS_SERVER_NAME={_shown(name)} is not a host name")
    secured = bool(certificate or values["linstor_root_ca"] or values["linstor_root_ca_file"])
    values["linstor_urls"] = _controllers(env.get("LS_CONTROLLERS", ""), secured, mistakes)
    plain = [url for url in values["linstor_urls"] if url.startswith("http:")]
    login = values["linstor_username"] or values["linstor_token_file"]
    if login and plain and len(plain) < len(values["linstor_urls"]):
        mistakes.append(
            f"LS_CONTROLLERS has https beside {', '.join(plain)}, where the login would be sent "
            "unencrypted: use https for all of them, or leave these out"
        )
    return values


def _controllers(given: str, secured: bool, mistakes: list[str]) -> tuple[str, ...]:  # noqa: FBT001, states a fact, selects no mode
    """Return `scheme://host:port` for each; the default scheme is https if certificates are set."""
    urls = []
    for given_one in words(given) or ("localhost",):
        whole = (
            given_one if "://" in given_one else f"{'https' if secured else 'http'}://{given_one}"
        )
        one = given_one if "@" not in given_one else f"...@{given_one.rpartition('@')[2]}"
        one = one[:200]
        try:
            parts = urlsplit(whole)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            mistakes.append(f"LS_CONTROLLERS: {one!r}: {error}")
            continue
        scheme = _SCHEMES.get(parts.scheme)
        if scheme is None:
            mistakes.append(
                f"LS_CONTROLLERS: {one!r}: scheme {parts.scheme!r} is none of {', '.join(_SCHEMES)}"
            )
        elif (
            not host
            or _HOST.fullmatch(host) is None
            or port == 0
            or parts.username is not None
            or f"{parts.path.strip('/')}{parts.query}{parts.fragment}"
        ):
            mistakes.append(f"LS_CONTROLLERS: {one!r} is not of the form scheme://host:port")
        else:
            shown = f"[{host}]" if ":" in host else host
            urls.append(f"{scheme}://{shown}:{port or _PORTS[scheme]}")
    return tuple(dict.fromkeys(urls))
