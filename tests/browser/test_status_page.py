"""The page at / in a browser: what is read, heard, reached by keyboard, and seen."""

import pytest

from tests.browser.chromium import Page
from tests.e2e.conftest import MakeService
from tests.testbed.clusters import until
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

HOSTILE = '- <script>document.title = "taken over"</script>'

# The contrast of each piece of text against what it stands on, as WCAG 2.2 reckons it.
CONTRASTS = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own) continue;
    const pair = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const [a, b] = pair.sort((x, y) => y - x);
    found.push([e.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return found;
})()
"""


async def with_one_change_and_one_refusal(testbed: Testbed, service: Service) -> None:
    await testbed.add("pvc-moved", ["n1"])
    annotations = {"override.piraeus.io/policy": HOSTILE}
    await testbed.add("pvc-odd", ["n1"], annotations=annotations)
    testbed.world.move("pvc-moved", "n1", "n2")
    await testbed.until_on("pvc-moved", "n2")
    await service.until_said("volume affinity updated")
    await service.until_said("volume not updated")


async def in_sync(service: Service, volume: str) -> bool:
    return '"state": "in_sync"' in (await service.ask(f"/status?q={volume}"))[1]


async def test_the_page_shows_changes_and_deferred_volumes(
    fake_testbed: Testbed, service_on: MakeService, page: Page
) -> None:
    async with running(service_on(fake_testbed)) as service:
        await with_one_change_and_one_refusal(fake_testbed, service)
        await page.open(f"http://127.0.0.1:{service.port}/")

        assert await page.run("document.title") == "linstor-affinity-events: ready"
        rows = await page.run("[...document.querySelectorAll('tbody tr')].map((r) => r.innerText)")
        [odd] = [row for row in rows if row.startswith("pvc-odd")]
        moved = [row.split("\t") for row in rows if row.startswith("pvc-moved")]
        assert "refused: bad-policy" in odd
        assert "<script>" in odd
        # LINSTOR adds the new replica before it removes the old one, which may be two changes.
        assert any("linbit.com/hostname=n2" in row and "replace" in row for row in moved)
        assert any("linbit.com/hostname=n1" in row for row in moved)
        assert page.complaints == []


async def test_the_page_is_accessible_to_screen_readers(
    fake_testbed: Testbed, service_on: MakeService, page: Page
) -> None:
    async with running(service_on(fake_testbed)) as service:
        await with_one_change_and_one_refusal(fake_testbed, service)
        await page.open(f"http://127.0.0.1:{service.port}/")

        heard = await page.heard()

    assert ("main", "") in heard
    assert {name for role, name in heard if role == "heading"} == {
        "linstor-affinity-events",
        "Event streams",
        "Volumes out of sync",
        "Recent changes",
    }
    assert ("searchbox", "Find a volume, claim or resource") in heard
    assert ("rowheader", "pvc-moved") in heard
    assert ("columnheader", "Time from trigger") in heard
    assert all(name for role, name in heard if role in {"button", "link", "searchbox", "region"})
    assert await page.run("document.documentElement.lang") == "en"


async def test_a_volume_can_be_found_with_the_keyboard(
    fake_testbed: Testbed, service_on: MakeService, page: Page
) -> None:
    focused = "(document.activeElement.innerText || document.activeElement.name || '').trim()"
    async with running(service_on(fake_testbed)) as service:
        await with_one_change_and_one_refusal(fake_testbed, service)
        await page.open(f"http://127.0.0.1:{service.port}/")
        reached = []
        for _ in range(5):
            await page.press("Tab")
            reached.append((await page.run(focused)).split("\n")[0])
        assert reached[:3] == ["Skip to the volumes", "Refresh", "JSON"]
        assert reached[-1] == "q"
        # Until its recheck is over, a volume that was changed is waiting.
        await until(lambda: in_sync(service, "pvc-moved"), "the volume is in sync")

        await page.write("CLAIM-PVC-MOVED")
        await page.press("Enter", loads=True)

        found = await page.run("document.querySelector('#volumes').innerText")
        assert "Volumes found" in found
        assert "pvc-moved" in found
        assert "in_sync" in found
        assert "pvc-odd" not in found


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_has_enough_contrast_in_light_and_dark_mode(
    fake_testbed: Testbed, service_on: MakeService, page: Page, scheme: str
) -> None:
    async with running(service_on(fake_testbed)) as service:
        await with_one_change_and_one_refusal(fake_testbed, service)
        await page.prefer(scheme)
        await page.open(f"http://127.0.0.1:{service.port}/")

        contrasts = await page.run(CONTRASTS)
        ground = await page.run("getComputedStyle(document.body).backgroundColor")

    assert len(contrasts) > 20
    assert [each for each in contrasts if each[1] < 4.5] == []
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")


async def test_text_fits_a_narrow_window(
    fake_testbed: Testbed, service_on: MakeService, page: Page
) -> None:
    async with running(service_on(fake_testbed)) as service:
        await with_one_change_and_one_refusal(fake_testbed, service)
        await page.ask(
            "Emulation.setDeviceMetricsOverride",
            width=360,
            height=700,
            deviceScaleFactor=1,
            mobile=True,
        )
        await page.open(f"http://127.0.0.1:{service.port}/")

        assert await page.run("document.documentElement.scrollWidth <= 360")
