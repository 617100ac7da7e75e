"""Checks of LINSTOR: connection, login, both event streams, its database, node labels."""

from collections.abc import AsyncIterator, Collection

from linstor_affinity_events.adapters.kubernetes.database import KubeDatabase
from linstor_affinity_events.adapters.linstor.event_streams import LinstorStream
from linstor_affinity_events.adapters.linstor.rest import LinstorRest
from linstor_affinity_events.app.check_result import CheckResult, fail, ok, warn
from linstor_affinity_events.errors import AffinityEventsError
from linstor_affinity_events.model.keys import (
    HOSTNAME_LABEL,
    KUBERNETES_HOSTNAME,
    PLAIN_NAMESPACE,
    TOPOLOGY_NAMESPACE,
)
from linstor_affinity_events.model.names import few
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.policy import Policy, PolicyReading

WHERE = "set LS_CONTROLLERS to the address of the LINSTOR controller"
LOGIN = (
    "set LS_USERNAME and LS_PASSWORD, or LS_BEARER_TOKEN_FILE; for client "
    "certificates set LS_ROOT_CA, LS_USER_CERTIFICATE and LS_USER_KEY"
)


async def linstor_reachable(
    linstor: LinstorRest, urls: tuple[str, ...]
) -> AsyncIterator[CheckResult]:
    """Check that LINSTOR is reachable, and its version, which needs no login."""
    try:
        version = await linstor.version()
    except AffinityEventsError as error:
        yield fail("linstor", str(error), f"{WHERE} (now: {', '.join(urls)})")
    else:
        yield ok("linstor", f"version {version} at {linstor.url}")


async def linstor_login(linstor: LinstorRest) -> tuple[CheckResult, Nodes | None]:
    """Check the login. Returns LINSTOR's nodes if it is accepted."""
    try:
        nodes = await linstor.nodes()
        await linstor.definitions()
    except AffinityEventsError as error:
        return fail("linstor-login", str(error), LOGIN), None
    return ok("linstor-login", f"returned {len(nodes.labels)} nodes"), nodes


async def linstor_streams(streams: list[LinstorStream]) -> AsyncIterator[CheckResult]:
    """Check that each event stream opens."""
    for stream in streams:
        check = f"linstor-stream-{stream.name}"
        try:
            async with stream.connect():
                yield ok(check, "connected")
        except AffinityEventsError as error:
            yield fail(
                check,
                str(error),
                "without this stream, changes are only found by full reconciles. "
                "Check the proxies and load balancers in between: they must pass "
                "event streams on without buffering",
            )


async def database_triggers(database: KubeDatabase, setting: str) -> CheckResult:
    """Check whether LINSTOR's own database can be watched for changes without an event."""
    check = "watch-linstor-database"
    if setting == "off":
        return ok(check, "disabled by --watch-linstor-database")
    try:
        served = await database.served()
    except AffinityEventsError as error:
        return warn(
            check, f"cannot find out whether there is a database: {error}", "run the check again"
        )
    if served.version:
        return ok(check, f"enabled: watching version {served.version} of LINSTOR's database")
    if setting == "on":
        remedy = (
            "with --watch-linstor-database=auto the service continues without it. To "
            "use it, allow the account to list and watch that resource"
        )
        return fail(check, served.why_not, remedy)
    if "is not allowed to" in served.why_not:
        remedy = "grant it (chart value linstorDatabase), or set --watch-linstor-database=off"
        return warn(check, f"disabled: {served.why_not}", remedy)
    return ok(check, f"disabled: {served.why_not}")


def property_namespace(nodes: Nodes, given: str) -> CheckResult:
    """Report where node labels are read from, and how that was determined."""
    if given:
        return ok("property-namespace", f"{nodes.namespace}, set by --property-namespace")
    how = f"{TOPOLOGY_NAMESPACE} on nodes that have {TOPOLOGY_NAMESPACE}/{KUBERNETES_HOSTNAME}"
    return ok("property-namespace", f"{how}, {PLAIN_NAMESPACE} on all others")


def node_labels(nodes: Nodes, policies: Collection[PolicyReading]) -> CheckResult:
    """Check that every node has the labels that policies refer to."""
    needed = {
        key
        for policy in policies
        if isinstance(policy, Policy)
        for rule in policy.rules
        for key in rule
        if key != HOSTNAME_LABEL
    }
    if nodes.unreadable:
        return warn(
            "node-labels",
            f"{few(sorted(nodes.unreadable))} has more properties than are read, so its labels are "
            "not known: volumes with data there are left as they are",
            "delete properties that nobody needs: linstor node list-properties NODE",
        )
    remedy = f"set the property LABEL under {nodes.namespace} on the LINSTOR node"
    if nowhere := sorted(needed - nodes.all_labels):
        return fail(
            "node-labels",
            f"no LINSTOR node has {few(nowhere)}, which a policy uses: "
            "linstor-csi ignores such a label, which allows more nodes than the "
            "policy intends",
            f"{remedy}, or correct the policy",
        )
    lacking = sorted(
        f"{node} lacks {', '.join(missing)}"
        for node, labels in nodes.labels.items()
        if (missing := sorted(needed - labels.keys()))
    )
    if lacking:
        return warn(
            "node-labels",
            few(lacking),
            f"{remedy}. Until then, the affinity of volumes with data on that node is not changed",
        )
    if not needed:
        return ok("node-labels", "no policy uses a label")
    return ok("node-labels", f"every LINSTOR node has {', '.join(sorted(needed))}")
