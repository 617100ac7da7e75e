"""A kube-apiserver on loopback that holds state, speaks the real protocol and breaks on demand."""

from tests.fakes.kube_server.binder import Binder
from tests.fakes.kube_server.cluster import FakeCluster
from tests.fakes.kube_server.refusals import Refusal
from tests.fakes.kube_server.server import KubeServer

__all__ = ["Binder", "FakeCluster", "KubeServer", "Refusal"]
