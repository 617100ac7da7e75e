"""What is used of kubernetes-asyncio, imported without its generated models.

The packages `kubernetes_asyncio` and `kubernetes_asyncio.client` import a class for every kind of
Kubernetes object: 36 MiB of memory and half a second at the start, although only configuration and
login are used. So both packages are stand-ins while these modules are imported. If a version of the
library needs more of them, the ordinary import is used instead.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

LIBRARY, CLIENT = "kubernetes_asyncio", "kubernetes_asyncio.client"


class _NotLoaded:
    """Takes the place of a class that is imported by name and never used here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("only configuration and login of kubernetes-asyncio are loaded")


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Have both packages without what they import. Raises ImportError if they are not found."""
    for name in (LIBRARY, CLIENT):
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ImportError(f"{name} is not installed")
        sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        client = sys.modules[CLIENT]
        configuration = importlib.import_module(f"{CLIENT}.configuration")
        client.__dict__["Configuration"] = configuration.Configuration
        client.__dict__["ApiClient"] = _NotLoaded
        yield
    finally:
        # Whoever imports the library later gets all of it.
        for name in (LIBRARY, CLIENT):
            sys.modules.pop(name, None)


def _modules() -> tuple[ModuleType, ModuleType, ModuleType]:
    names = (f"{CLIENT}.configuration", f"{CLIENT}.rest", f"{LIBRARY}.config")
    if LIBRARY not in sys.modules:
        before = set(sys.modules)
        try:
            with _stand_ins():
                found = [importlib.import_module(name) for name in names]
                return found[0], found[1], found[2]
        except (ImportError, AttributeError):
            for name in sys.modules.keys() - before:
                if name.partition(".")[0] == LIBRARY:
                    del sys.modules[name]
    found = [importlib.import_module(name) for name in names]
    return found[0], found[1], found[2]


if TYPE_CHECKING:
    from kubernetes_asyncio.client.configuration import Configuration
    from kubernetes_asyncio.client.rest import RESTClientObject
    from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
else:
    _configuration, _rest, _config = _modules()
    Configuration = _configuration.Configuration
    RESTClientObject = _rest.RESTClientObject
    ConfigException = _config.ConfigException
    load_incluster_config = _config.load_incluster_config
    load_kube_config = _config.load_kube_config

__all__ = [
    "ConfigException",
    "Configuration",
    "RESTClientObject",
    "load_incluster_config",
    "load_kube_config",
]
