"""Stand-ins for the CSI sidecars: provisioner, attacher and resizer.

Retold from the source of external-provisioner 5.3 (with sig-storage-lib-external-provisioner 11),
external-attacher 4.13 and external-resizer 2.3. `decisions` says what they do on seeing a volume,
`sidecars` does it beside a service, `apis` on which cluster. They are as careless as the real ones:
all patches go to whatever has the name, and what a watch sent last is not read again.

The real programs are tested in tests/csi. These stay for what those can't do: random plans on a
virtual clock, the fake cluster, and a sidecar that is late by a given time.
"""

from tests.fakes.sidecars.apis import HttpApi, MemoryApi
from tests.fakes.sidecars.sidecars import Reclaimed, Sidecars

__all__ = ["HttpApi", "MemoryApi", "Reclaimed", "Sidecars"]
