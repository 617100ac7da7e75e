"""A reverse proxy between the service and a peer that writes everything down, and can go wrong.

Put one before each peer, and let the service know the proxies only:

    record = Record()
    async with (
        Proxy(cluster.url, kubernetes_terms, record=record, tls=cluster.tls) as kubernetes,
        Proxy(test bed.linstor.url, linstor_terms, record=record) as linstor,
    ):
        kubeconfig = kubernetes.write_kubeconfig(path, token=cluster.token)

Each request is identified by its label: for Kubernetes the words of RBAC, as in "delete
persistentvolumes", "create events.events.k8s.io" or "patch persistentvolumes (dry run)", for
LINSTOR "linstor" and what is asked for, as in "linstor get resource-definitions/*/resources".
`record` has all requests in the order in which they came, with the status of the response.

What goes wrong is a rule. It hits the nth request that it matches, counted from when it was
added, or several from there on:

    rule = kubernetes.on("update persistentvolumes", Reset(forwarded=True))
    rule = kubernetes.on(re.compile("^(patch|delete) "), Respond(503), nth=2, times=3)
    await rule.struck.wait()

The actions are in actions.py: Instead, Before and After call back in place of the request, before
it is sent on or after its response was had, Respond responds by itself, Delay waits, Hang never
responds, Reset breaks the connection, CutBody sends a part of the response, Late forwards a request
long after its sender has given up. Of all connections at once, `drop_connections` breaks them,
`vanish` lets them hang in the air, and `fall_silent` sends nothing more on them. The oldest rule
that wants a request has it; the others still count it. Without a rule requests go through as they
are, and responses come back unbuffered where they are streams.
"""

from tests.testbed.proxy.actions import (
    Action,
    After,
    Before,
    CutBody,
    Delay,
    Hang,
    Instead,
    Late,
    Reset,
    Respond,
)
from tests.testbed.proxy.labels import Terms, kubernetes_terms, linstor_terms
from tests.testbed.proxy.record import Asked, Record
from tests.testbed.proxy.rules import Rule, Wanted
from tests.testbed.proxy.server import Proxy

__all__ = [
    "Action",
    "After",
    "Asked",
    "Before",
    "CutBody",
    "Delay",
    "Hang",
    "Instead",
    "Late",
    "Proxy",
    "Record",
    "Reset",
    "Respond",
    "Rule",
    "Terms",
    "Wanted",
    "kubernetes_terms",
    "linstor_terms",
]
