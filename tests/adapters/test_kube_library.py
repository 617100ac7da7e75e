"""kubernetes-asyncio without its models, each time in an interpreter of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
OURS = "linstor_affinity_events.adapters.kubernetes.library"


def run(code: str, *paths: Path) -> str:
    """What the code prints; the paths go before all others."""
    where = "".join(f"sys.path.insert(0, {str(path)!r})\n" for path in (TOP, *paths))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{where}{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_model_classes_are_loaded() -> None:
    loaded = run(f"import {OURS}\nprint(*(m for m in sys.modules if 'kubernetes_asyncio' in m))")

    assert "kubernetes_asyncio.config" in loaded
    assert "kubernetes_asyncio.client.models" not in loaded


def test_a_later_import_of_the_library_is_complete() -> None:
    code = f"""
import {OURS} as ours
import kubernetes_asyncio
from kubernetes_asyncio.client.configuration import Configuration
print(Configuration is ours.Configuration, kubernetes_asyncio.client.V1Pod.__name__)
print(kubernetes_asyncio.client.Configuration is Configuration)
"""
    assert run(code).split() == ["True", "V1Pod", "True"]


def test_a_library_that_is_loaded_already_is_used() -> None:
    code = f"""
import kubernetes_asyncio.config
import {OURS} as ours
print(kubernetes_asyncio.config.load_kube_config is ours.load_kube_config)
"""
    assert run(code) == "True"


@pytest.mark.parametrize(
    "wants", ["from kubernetes_asyncio.client import V1Pod", "import kubernetes_asyncio.watch.more"]
)
def test_a_version_that_requires_more_modules_is_imported_normally(
    tmp_path: Path, wants: str
) -> None:
    client, config = tmp_path / "kubernetes_asyncio/client", tmp_path / "kubernetes_asyncio/config"
    watch = tmp_path / "kubernetes_asyncio/watch"
    for package in (client, config, watch):
        package.mkdir(parents=True)
    (client.parent / "__init__.py").write_text(
        "import kubernetes_asyncio.client\nimport kubernetes_asyncio.watch\n"
    )
    (client / "__init__.py").write_text(
        "from kubernetes_asyncio.client.configuration import Configuration\nclass V1Pod: ...\n"
    )
    (client / "configuration.py").write_text("class Configuration: ...\n")
    (client / "rest.py").write_text("class RESTClientObject: ...\n")
    (watch / "__init__.py").write_text("import sys\nsys.modules[__name__ + '.more'] = sys\n")
    (config / "__init__.py").write_text(
        f"{wants}\nclass ConfigException(Exception): ...\n"
        "def load_incluster_config(): ...\ndef load_kube_config(): ...\n"
    )

    where = run(f"import {OURS} as ours\nprint(ours.Configuration, sys.modules)", tmp_path)

    assert str(client) in where


def test_using_a_class_that_is_not_loaded_is_an_error() -> None:
    code = f"""
import {OURS}
from kubernetes_asyncio.config import kube_config
try:
    kube_config.ApiClient()
except NotImplementedError as error:
    print(error)
"""
    assert "only configuration and login" in run(code)
