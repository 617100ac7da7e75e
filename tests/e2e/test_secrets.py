"""Nothing that the service is given or learns in confidence is in its log.

Every instance that a test starts is checked when it ends; here it has all secrets at once, talks
as much as it can, and has reason to talk of them.
"""

from base64 import b64encode
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeService
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Respond
from tests.testbed.secrets import leaked
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

PASSWORD, BEARER = "pass-word-of-linstor", "bearer-token-of-linstor"
KUBERNETES = "token-of-kubernetes"


async def test_the_most_verbose_log_with_failures_contains_no_secret(
    proxied: ProxiedTestbed,
) -> None:
    testbed = proxied.testbed
    await testbed.add("pvc-1", ["n1"])
    testbed.world.login = ("admin", PASSWORD)
    token = testbed.cluster.token or KUBERNETES
    kubeconfig = proxied.kubernetes.write_kubeconfig(proxied.directory / "signed-in", token=token)
    service = proxied.service(
        *("-v", "9"), kubeconfig=kubeconfig, LS_USERNAME="admin", LS_PASSWORD=PASSWORD
    )

    async with running(service):
        for status in (200, 500):
            # What a peer responds is often repeated in a log; a definition has DRBD's secret in it.
            secret = testbed.world.definition("pvc-1").secret
            body = f'[{{"ret_code": 1, "data": "{secret}"}}]'.encode()
            proxied.on("linstor get resource-definitions/*", Respond(status, body))
        proxied.on("get persistentvolumes", Respond(401))
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        assert await service.stop() == 0

    assert {PASSWORD, testbed.world.definition("pvc-1").secret} <= set(testbed.secrets())
    assert leaked(service.said(), [KUBERNETES]) == []


async def test_bearer_token_and_wrong_password_are_not_logged(
    fake_testbed: Testbed, service_on: MakeService, tmp_path: Path
) -> None:
    fake_testbed.world.bearer = BEARER
    (tmp_path / "token").write_text(BEARER)
    signed_in = service_on(fake_testbed, "-v", "9", LS_BEARER_TOKEN_FILE=str(tmp_path / "token"))
    wrong = service_on(fake_testbed, "-v", "9", LS_USERNAME="admin", LS_PASSWORD=PASSWORD)
    await fake_testbed.add("pvc-1", ["n1"])

    async with running(signed_in):
        fake_testbed.world.move("pvc-1", "n1", "n2")
        await fake_testbed.until_on("pvc-1", "n2")
        assert await signed_in.stop() == 0
    try:
        await wrong.start()
        await wrong.until_said("Sign-in failed")
    finally:
        await wrong.kill()

    assert leaked(signed_in.said() + wrong.said(), [BEARER, PASSWORD]) == []


async def test_a_secret_in_a_log_fails_the_test_whose_service_wrote_it(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    fake_testbed.world.login = ("admin", PASSWORD)
    service = service_on(fake_testbed, f"--lease-lock-name={PASSWORD}")
    await service.start()
    await service.until_said("lease=")

    with pytest.raises(AssertionError, match=r"has secrets in it: .*\[HERE\]"):
        await service.stop()


@pytest.mark.parametrize(
    "text",
    [
        f"why={PASSWORD}",
        f"Authorization: Basic {b64encode(f'admin:{PASSWORD}'.encode()).decode()}",
    ],
    ids=["plain", "in a header"],
)
def test_a_secret_is_detected_in_any_encoding(text: str) -> None:
    assert leaked(text, [PASSWORD, f"admin:{PASSWORD}"]) != []


def test_a_leak_report_does_not_contain_the_secret() -> None:
    assert leaked(f"lease={PASSWORD} holder=x", [PASSWORD]) == ["lease=[HERE] holder=x"]
