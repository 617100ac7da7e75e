"""The real helm, for rendering, and for installing into a cluster."""

import json
import os
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

CHART = Path(__file__).parents[2] / "chart"
ENDPOINT = "http://linstor:3370"
SOMEWHERE: Json = {"linstor": {"endpoint": ENDPOINT}}
"""The one value that rendering without a cluster can't do without."""


class HelmError(Exception):
    """Helm said no."""


def merged(*trees: Mapping[str, Any]) -> Json:
    """Values over values, as helm lays them over each other."""
    result: Json = {}
    for tree in trees:
        for key, value in tree.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else value
    return result


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm with a home of its own, so that nobody's settings matter."""

    binary: Path
    home: Path
    kubeconfig: Path | None = None

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """Raises HelmError with what it said."""
        given = [] if values is None else ["--values", "-"]
        result = subprocess.run(
            [str(self.binary), *arguments, *given],
            input=None if values is None else json.dumps(values),
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "KUBECONFIG": str(self.kubeconfig or self.home / "none"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise HelmError(result.stderr)
        return result.stdout

    def template(
        self,
        *values: Mapping[str, Any],
        chart: Path = CHART,
        api_versions: Collection[str] = (),
        kube_version: str = "",
    ) -> "Rendered":
        """Render it without a cluster, or for one that serves these beside what helm assumes, and
        with LINSTOR being somewhere.
        """
        given = merged(SOMEWHERE, *values)
        arguments = ["template", "rel", str(chart), "--namespace", "storage"]
        arguments += [f"--api-versions={each}" for each in api_versions]
        arguments += [f"--kube-version={kube_version}"] if kube_version else []
        return Rendered.read(self.run(*arguments, values=given))


@dataclass(frozen=True, slots=True)
class Rendered:
    """Manifests, found by kind."""

    manifests: tuple[Json, ...]

    @classmethod
    def read(cls, text: str) -> "Rendered":
        return cls(tuple(each for each in yaml.safe_load_all(text) if each))

    def kinds(self) -> list[str]:
        """All kinds, hooks left out."""
        return sorted(each["kind"] for each in self.manifests if not is_hook(each))

    def one(self, kind: str) -> Json:
        """The only manifest of a kind that is not a hook."""
        [found] = [each for each in self.manifests if each["kind"] == kind and not is_hook(each)]
        return found

    def hook(self, kind: str) -> Json:
        """The only manifest of a kind that is a hook."""
        [found] = [each for each in self.manifests if each["kind"] == kind and is_hook(each)]
        return found

    @property
    def pod(self) -> Json:
        spec: Json = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Json:
        [found] = self.pod["containers"]
        assert isinstance(found, dict)
        return found

    @property
    def env(self) -> dict[str, str]:
        return {each["name"]: each.get("value", "") for each in self.container["env"]}


def is_hook(manifest: Mapping[str, Any]) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})
