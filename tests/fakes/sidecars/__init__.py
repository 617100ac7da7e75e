"""Stand-ins for the CSI sidecars: provisioner, attacher and resizer.

Retold from how they behave (kubernetes-csi/external-provisioner with
sig-storage-lib-external-provisioner, external-attacher, external-resizer). `decisions` says what
they do on seeing a volume, `sidecars` does it beside a service, `apis` on which cluster.
"""

from tests.fakes.sidecars.apis import HttpApi, MemoryApi
from tests.fakes.sidecars.sidecars import Reclaimed, Sidecars

__all__ = ["HttpApi", "MemoryApi", "Reclaimed", "Sidecars"]
