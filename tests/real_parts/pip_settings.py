"""How pip finds packages on this machine, for a pip that runs elsewhere on it.

Taken when it is needed, and never kept: an index may be this machine's own, and want a password.
"""

import configparser
import os
import ssl
from collections.abc import Mapping
from pathlib import Path

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Where Debian keeps the authorities that programs trust."""


def authorities(env: Mapping[str, str] = os.environ) -> Path:
    """The file with the authorities that pip trusts here."""
    return Path(env.get("PIP_CERT") or ssl.get_default_verify_paths().cafile or AUTHORITIES)


def write_configuration(path: Path, env: Mapping[str, str] = os.environ) -> None:
    """Write what files and environment say here as one file, for nobody else to read.

    Authorities are meant to be at Debian's place for them where it is read.
    """
    home = Path(env.get("HOME", "/"))
    known = configparser.RawConfigParser()
    known.read(
        [
            "/etc/pip.conf",
            home / ".pip" / "pip.conf",
            home / ".config" / "pip" / "pip.conf",
            env.get("PIP_CONFIG_FILE", os.devnull),
        ]
    )
    if not known.has_section("global"):
        known.add_section("global")
    for variable, value in env.items():
        if variable.startswith("PIP_") and variable != "PIP_CONFIG_FILE":
            name = variable.removeprefix("PIP_").lower().replace("_", "-")
            known.set("global", name, value)
    known.set("global", "cert", str(AUTHORITIES))
    # Directories of this machine are not seen there, and pip would say so each time.
    links = known.get("global", "find-links", fallback="").split()
    known.set("global", "find-links", " ".join(link for link in links if "://" in link))
    path.touch(mode=0o600)
    with path.open("w") as file:
        known.write(file)
