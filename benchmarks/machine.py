"""Where something was measured, when, and with what."""

import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import version

from tests.real_parts.build import HERE

_LIBRARIES = ("aiohttp", "kubernetes-asyncio", "orjson", "uvloop")
_PARTS = re.compile(r"(?:etcd/server/v3|k8s\.io/kubernetes) v[\d.]+")


def circumstances() -> dict[str, str]:
    """What has to be known beside figures, to be reported with them."""
    return {
        "machine": machine(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "flags": " ".join(sys.argv[1:]),
    }


def machine() -> str:
    """In one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    parts = ", ".join(_PARTS.findall((HERE / "go.mod").read_text()))
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, {libraries}; {parts}, etcd without fsync"
    )
