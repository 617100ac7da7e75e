"""Builds the clients for Kubernetes and LINSTOR, and the engine's tuning, from the settings."""

from collections.abc import Callable
from datetime import datetime

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.election import (
    AlwaysLeading,
    Election,
    ElectionTimes,
    LeaseElection,
)
from linstor_affinity_events.adapters.kubernetes.lease import LeaseName
from linstor_affinity_events.adapters.kubernetes.policy_yaml import parse_policy
from linstor_affinity_events.adapters.kubernetes.session import configuration_from, own_namespace
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection, Login, Tls
from linstor_affinity_events.adapters.linstor.event_streams import (
    NODES_PATH,
    PROMOTION_PATH,
    LinstorStream,
)
from linstor_affinity_events.engine.tuning import Tuning
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.model.affinity import DRIVER_NODES, NO_AFFINITY, NodeAffinity
from linstor_affinity_events.model.policy import Policy
from linstor_affinity_events.settings import Settings


def default_policy(text: str) -> Policy | None:
    """Read --default-remote-access-policy; empty means None. Raises BadSettings."""
    if not text:
        return None
    policy = parse_policy(text)
    if not isinstance(policy, Policy):
        raise BadSettings(f"--default-remote-access-policy={text!r}: {policy.why}")
    return policy


def everywhere(scope: str) -> NodeAffinity:
    """Return the node affinity that --everywhere selects for volumes that any node may use."""
    return DRIVER_NODES if scope == "driver" else NO_AFFINITY


def linstor_connection(settings: Settings) -> LinstorConnection:
    return LinstorConnection(
        settings.linstor_urls,
        Login(
            username=settings.linstor_username,
            password=settings.linstor_password,
            token_file=settings.linstor_token_file,
        ),
        Tls(
            certificate=settings.linstor_certificate,
            certificate_file=settings.linstor_certificate_file,
            key=settings.linstor_key,
            key_file=settings.linstor_key_file,
            root_ca=settings.linstor_root_ca,
            root_ca_file=settings.linstor_root_ca_file,
            server_name=settings.linstor_tls_server_name,
        ),
    )


def event_streams(connection: LinstorConnection) -> list[LinstorStream]:
    return [
        LinstorStream(connection, name="promotion", path=PROMOTION_PATH),
        LinstorStream(connection, name="nodes", path=NODES_PATH),
    ]


def kubernetes(settings: Settings) -> KubeApi:
    return KubeApi(
        configuration_from(
            kubeconfig=settings.kubeconfig, context=settings.context, server=settings.server
        )
    )


def lease_namespace(settings: Settings) -> str:
    return settings.lease_lock_namespace or own_namespace() or "default"


def lease_name(settings: Settings) -> LeaseName:
    return LeaseName(lease_namespace(settings), settings.lease_lock_name)


def election(
    settings: Settings,
    api: KubeApi,
    identity: str,
    *,
    on_change: Callable[[bool], None],
    now: Callable[[], datetime],
    healthy: Callable[[], bool],
) -> Election:
    if not settings.leader_election:
        return AlwaysLeading()
    times = ElectionTimes(
        lease_duration=settings.leader_election_lease_duration,
        renew_deadline=settings.leader_election_renew_deadline,
        retry_period=settings.leader_election_retry_period,
    )
    return LeaseElection(
        api, lease_name(settings), identity, times, on_change=on_change, now=now, healthy=healthy
    )


def journal_namespace(settings: Settings) -> str:
    """Return the namespace of the journal; the default is that of the Lease."""
    return settings.journal_namespace or lease_namespace(settings)


def tuning_of(settings: Settings) -> Tuning:
    """Return the settings that the engine needs."""
    return Tuning(
        changes_at_once=settings.workers,
        readers=settings.workers,
        grace=settings.new_volume_grace,
        default_policy=default_policy(settings.default_remote_access_policy),
        everywhere=everywhere(settings.everywhere),
        guard_timeout=settings.claim_guard_timeout,
        allowed_finalizers=tuple(settings.allow_finalizer),
        take_over_saved_volumes=settings.take_over_saved_volumes == "auto",
        full_reconcile_every=settings.reconcile_rate,
        full_reconcile_timeout=settings.timeout,
        poll_every=settings.poll_rate,
    )
