"""What LINSTOR's streams may fill the queue with."""

from pathlib import Path

from linstor_affinity_events.app.service import Service
from linstor_affinity_events.engine.engine import MOST_WAITING
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.settings import Settings
from tests.model.manifests import volume, with_metadata


async def test_unknown_names_fill_the_queue_up_to_a_limit(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("")
    flags = {"kubeconfig": str(kubeconfig), "leader_election": "false"}
    service = Service(Settings.read(flags, {}))
    known = with_metadata(volume(), name="pvc-known")
    known["spec"]["csi"]["volumeHandle"] = "pvc-known"
    service.index.changed(known)

    for number in range(MOST_WAITING + 100):
        service.engine.trigger(ResourceName(f"made-up-{number}"), "promotion")
    service.engine.trigger(ResourceName("pvc-known"), "promotion")

    assert len(service.engine.queue) == MOST_WAITING + 1
    assert ResourceName("pvc-known") in service.engine.queue
