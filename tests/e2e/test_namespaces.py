"""Lease and journal entries lie where the settings say."""

import pytest

from tests.testbed.clusters import ApiError
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.service import running

LEASES, JOURNAL = "affinity-leases", "affinity-journal"


async def namespaces_of(proxied: ProxiedTestbed, *flags: str) -> dict[str, set[str]]:
    """Run one replacement; the namespaces in which each kind was asked for."""
    testbed = proxied.testbed
    for name in (LEASES, JOURNAL):
        try:
            await testbed.cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        except ApiError as error:
            if error.status != 409:
                raise
    await testbed.add("pvc-1", ["n1"])
    service = proxied.service("--leader-election=true", *flags)
    async with running(service):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        assert await service.stop() == 0
    asked: dict[str, set[str]] = {"configmaps": set(), "leases": set()}
    for each in proxied.record:
        if each.terms.resource in asked and not each.terms.of:
            asked[each.terms.resource].add(each.terms.namespace or "")
    return asked


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((f"--lease-lock-namespace={LEASES}",), {"configmaps": {LEASES}, "leases": {LEASES}}),
        (
            (f"--lease-lock-namespace={LEASES}", f"--journal-namespace={JOURNAL}"),
            {"configmaps": {JOURNAL}, "leases": {LEASES}},
        ),
    ],
    ids=["together", "apart"],
)
async def test_the_journal_can_have_a_separate_namespace(
    proxied: ProxiedTestbed, flags: tuple[str, ...], expected: dict[str, set[str]]
) -> None:
    assert await namespaces_of(proxied, *flags) == expected
