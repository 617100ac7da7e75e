"""Client certificates that are good, or were until a moment ago, in files that get replaced."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, in two files."""

    certificate: Path
    key: Path

    @classmethod
    def within(cls, directory: Path) -> "KeyPair":
        return cls(directory / "tls.crt", directory / "tls.key")

    def renew(self, authority: trustme.CA, *, expired: bool = False) -> None:
        """Put other ones in their place: each new file takes the name of the old one."""
        now = datetime.now(UTC)
        ended = now - timedelta(minutes=1) if expired else now + timedelta(days=1)
        issued = authority.issue_cert(
            "admin@example.com",
            common_name="admin-by-certificate",
            organization_name="system:masters",
            not_before=now - timedelta(days=1),
            not_after=ended,
        )
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for path, content in (
            (self.certificate, chain),
            (self.key, issued.private_key_pem.bytes()),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            os.replace(new, path)  # noqa: PTH105
