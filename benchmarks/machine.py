"""Where something was measured, and with what, in one line."""

import os
import platform
import re
from importlib.metadata import version

from tests.real_parts.build import HERE

_LIBRARIES = ("aiohttp", "kubernetes-asyncio", "orjson", "uvloop")
_PARTS = re.compile(r"(?:etcd/server/v3|k8s\.io/kubernetes) v[\d.]+")


def machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    parts = ", ".join(_PARTS.findall((HERE / "go.mod").read_text()))
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, {libraries}; {parts}, etcd without fsync"
    )
