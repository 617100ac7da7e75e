"""Certificates that are given as texts have to pass through a file: disks may be full."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trustme

from linstor_affinity_events.adapters.linstor.connection import Tls
from linstor_affinity_events.errors import Unreachable
from tests.adapters.peers import linstor_at

URL = "https://127.0.0.1:3371"


@contextmanager
def full_disk() -> Iterator[None]:
    """Not one byte more goes into any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # By default the signal that comes with it ends the process; Python's own default ignores it.
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def texts() -> Tls:
    authority = trustme.CA()
    issued = authority.issue_cert("us@example.com")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return Tls(
        certificate=chain.decode(),
        key=issued.private_key_pem.bytes().decode(),
        root_ca=authority.cert_pem.bytes().decode(),
    )


def test_a_full_disk_is_reported_and_survived() -> None:
    connection = linstor_at(URL, tls=texts())

    with full_disk(), pytest.raises(Unreachable, match=r"are not valid: .*File too large"):
        connection.tls_for(URL)

    assert connection.tls_for(URL) is not True


def test_a_disk_that_fills_up_later_has_no_effect() -> None:
    connection = linstor_at(URL, tls=texts())
    first = connection.tls_for(URL)

    with full_disk():
        assert connection.tls_for(URL) is first
