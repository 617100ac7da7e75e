"""The image does the main job as a cluster runs it, with no right at all."""

import asyncio
from pathlib import Path

import pytest

from linstor_affinity_events import __version__
from tests.figures import Figures
from tests.image.contained import Contained
from tests.image.engine import Image
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

# The first one waits for the image, and where it is new for the base as well.
pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

ROOT, MEGA = "/", 10**6
NO_CAPABILITIES = "0000000000000000"
FILTERED = "2"
"""How the kernel writes that a process has a seccomp profile."""


def contained(image: Image, testbed: Testbed, directory: Path) -> Contained:
    return Contained(
        image,
        directory,
        kubeconfig=testbed.cluster.kubeconfig,
        linstor=testbed.linstor.url,
    )


def facts_of(pid: int) -> dict[str, list[str]]:
    """What the kernel knows of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def options_of_root(pid: int) -> list[str]:
    """How the root file system of a process is mounted."""
    rows = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    [options] = [row[5] for row in rows if row[4] == ROOT]
    return options.split(",")


async def test_the_image_runs_the_main_scenario_serves_probes_and_exits_cleanly(
    image: Image, fake_testbed: Testbed, tmp_path: Path, figures: Figures
) -> None:
    await fake_testbed.add("pvc-1", ["n1"])
    clock = asyncio.get_running_loop()
    began = clock.time()

    async with running(contained(image, fake_testbed, tmp_path)) as service:
        figures.count("image: ms from its start until it was ready", _ms(clock.time() - began))
        probes = {path: await service.ask(path) for path in ("/healthz", "/readyz", "/metrics")}
        fake_testbed.world.move("pvc-1", "n1", "n2")
        await fake_testbed.until_on("pvc-1", "n2")
        await fake_testbed.until_bound("pvc-1")
        code = await service.stop()

    assert {path: status for path, (status, _) in probes.items()} == dict.fromkeys(probes, 200)
    assert code == 0
    assert fake_testbed.observer.lost == []
    assert await fake_testbed.entries() == []


async def test_the_image_has_no_privileges_and_a_read_only_root(
    image: Image, fake_testbed: Testbed, tmp_path: Path
) -> None:
    async with running(contained(image, fake_testbed, tmp_path)) as service:
        facts = facts_of(service.pid)
        root = options_of_root(service.pid)

    assert (set(facts["Uid"]), set(facts["Gid"]), facts["Groups"]) == ({"1000"}, {"1000"}, [])
    sets = {name: value for name, value in facts.items() if name.startswith("Cap")}
    assert sets == {name: [NO_CAPABILITIES] for name in sets}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == (["1"], [FILTERED])
    assert "ro" in root


def test_the_image_shows_its_version_and_has_no_installers(image: Image, figures: Figures) -> None:
    installed = image.root / "opt" / "linstor-affinity-events"
    figures.count("image: MB of it above its base", (image.size - image.base_size) // MEGA)

    assert image.config["Labels"]["org.opencontainers.image.version"] == __version__
    assert not list(installed.glob("lib/python3*/site-packages/pip*"))
    assert not (image.root / "source").exists()


def test_the_image_does_not_contain_the_pip_configuration(image: Image) -> None:
    assert not [each for each in image.config["Env"] if each.startswith(("PIP_", "SSL_"))]
    assert (image.root / "etc" / "pip.conf").read_bytes() == b""


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
