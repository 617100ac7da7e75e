"""helm accepts each installation in the documentation, and renders objects for it."""

import shlex
from pathlib import Path

import pytest

from tests.chart.helm import CHART, ENDPOINT, Helm, Rendered
from tests.docs.blocks import commands

REFERENCE = Path(__file__).parent / "reference_values.yaml"
INSTALLS = sorted(
    {" ".join(line.split()) for _, line in commands() if line.startswith(("helm i", "helm up"))}
)


def as_template(command: str) -> list[str]:
    """The same without a cluster to find LINSTOR in, and without a release to reuse."""
    words = [word for word in shlex.split(command)[1:] if word != "--reuse-values"]
    if "linstor.endpoint" not in command:
        words += ["--set", f"linstor.endpoint={ENDPOINT}"]
    files = {"my-values.yaml": str(REFERENCE), "./chart": str(CHART)}
    return ["template", *(files.get(word, word) for word in words[1:])]


def test_documented_installations_are_extracted() -> None:
    assert len(INSTALLS) >= 6


@pytest.mark.parametrize("command", INSTALLS)
def test_helm_renders_the_documented_command(
    helm: Helm, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(CHART.parent)

    rendered = Rendered.read(helm.run(*as_template(command)))

    assert "ClusterRole" in rendered.kinds()
    assert ("Deployment" in rendered.kinds()) == ("mode=sidecar" not in command)
