"""Builds a control plane of Kubernetes, helm and CSI parts at the versions that go.mod files pin.

They come as source through the ordinary Go toolchain, because Kubernetes publishes these
binaries in no package registry. The result lives outside the tree and is made once.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


class BuildError(Exception):
    """The parts can't be had; the message says what a person could do about it."""


def kubernetes_version(directory: Path = HERE) -> str:
    """The version of Kubernetes that the go.mod there pins, such as "v1.37.2".

    Where it pins none, as those of the CSI parts don't, the one that tests run with.
    """
    for place in (directory, HERE):
        text = (place / "go.mod").read_text()
        found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", text, re.MULTILINE)
        if found is not None:
            return found[1]
    raise BuildError(f"{HERE / 'go.mod'} does not pin k8s.io/kubernetes")


@dataclass(frozen=True, slots=True)
class Module:
    """A go.mod, and the programs that are built at the versions it pins."""

    directory: Path
    packages: Mapping[str, str]
    group: str = ""
    """Distinguishes what is built from one go.mod at different times."""


PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
}

KUBERNETES = Module(HERE, PROGRAMS)
"""The newest Kubernetes that can be had, with which the tests run."""

OLDEST = Module(HERE / "oldest", PROGRAMS)
"""The oldest one that is tested, with the etcd that it was released with."""

CHOICES = {"newest": KUBERNETES, "oldest": OLDEST}
"""What the environment variable REAL_KUBERNETES may ask for."""

HELM = Module(
    HERE / "helm",
    {
        "helm": "helm.sh/helm/v3/cmd/helm",
        "helm-docs": "github.com/norwoodj/helm-docs/cmd/helm-docs",
    },
    group=f"for {kubernetes_version()}",
)
"""Apart from Kubernetes, whose own libraries it needs in another version; recreated for another
version all the same, since it is configured with the one to take a cluster for.
"""

ACTIONLINT = Module(
    HERE / "actionlint", {"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"}
)
"""Checks the workflows under .github; no test needs it."""

SCHEDULER = Module(
    HERE, {"kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler"}, group="scheduler"
)
"""Of the same version as the API server, but only some tests need it."""

DRIVER = Module(
    HERE / "csi" / "driver",
    {"linstor-csi": "github.com/piraeusdatastore/linstor-csi/cmd/linstor-csi"},
)
PROVISIONER = Module(
    HERE / "csi" / "provisioner",
    {"csi-provisioner": "github.com/kubernetes-csi/external-provisioner/v5/cmd/csi-provisioner"},
)
ATTACHER = Module(
    HERE / "csi" / "attacher",
    {"csi-attacher": "github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher"},
)
RESIZER = Module(
    HERE / "csi" / "resizer",
    {"csi-resizer": "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer"},
)
"""Each sidecar replaces Kubernetes' libraries by the versions that it was released with."""

CSI = (SCHEDULER, DRIVER, PROVISIONER, ATTACHER, RESIZER)
"""What a volume's whole way needs on top of the control plane; built when asked for."""

NO_GO = (
    "the real parts are not built yet and there is no Go toolchain to build them: "
    "install Go 1.26 or newer so that `go` is on the PATH, then run "
    "`python -m tests.real_parts.build`"
)


@cache
def toolchain() -> str | None:
    """What `go version` says, such as "go version go1.26.0 linux/amd64"; None without Go."""
    go = shutil.which("go")
    if go is None:
        return None
    # Asked inside the module, since go.mod may select another toolchain than the installed one.
    response = subprocess.run(
        [go, "version"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return response.stdout.strip() if response.returncode == 0 else None


def chosen() -> Module:
    """The Kubernetes that this run is on, the newest unless the environment asks for another."""
    name = os.environ.get("REAL_KUBERNETES", "newest")
    if name not in CHOICES:
        raise BuildError(f"REAL_KUBERNETES={name!r} is none of {', '.join(CHOICES)}")
    return CHOICES[name]


def locate(module: Module | None = None) -> Path | None:
    """The directory with all binaries of a module, if somebody built them already.

    Without a module, the Kubernetes that was chosen. Without a toolchain the pinned versions alone
    decide, so that a machine without Go can use what another one built.
    """
    module = chosen() if module is None else module
    wanted = _directory(module)
    if wanted is not None:
        return wanted if _complete(module, wanted) else None
    found = sorted(cache_directory().glob(f"{_pins(module)}-*"))
    return next((directory for directory in found if _complete(module, directory)), None)


def ensure_built(module: Module | None = None) -> Path:
    """The directory with the binaries, built first if need be, which takes minutes.

    Safe to call from several processes at once: one builds, the others wait for it. Raises
    BuildError.
    """
    module = chosen() if module is None else module
    found = locate(module)
    if found is not None:
        return found
    wanted = _directory(module)
    if wanted is None:
        raise BuildError(NO_GO)
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with only_builder(wanted.parent):
        if not _complete(module, wanted):
            _build(module, wanted)
    return wanted


def csi_programs(built: Callable[[Module], Path] = ensure_built) -> dict[str, Path]:
    """The scheduler, the CSI driver and its sidecars, by their names, where `built` has them."""
    return {name: built(module) / name for module in CSI for name in module.packages}


def _build(module: Module, wanted: Path) -> None:
    began = time.monotonic()
    say(f"building {', '.join(module.packages)} with {toolchain()} into {wanted}")
    with tempfile.TemporaryDirectory(dir=wanted.parent, prefix=".unfinished-") as scratch:
        made = Path(scratch) / "bin"
        made.mkdir()
        for name, package in module.packages.items():
            _compile(module, package, made / name)
        # Half a build must never be taken for a whole one, hence the rename at the end.
        made.rename(wanted)
    say(f"all built in {time.monotonic() - began:.0f} s")


def _compile(module: Module, package: str, output: Path) -> None:
    began = time.monotonic()
    say(f"compiling {package}")
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly"]
    command += ["-ldflags", _ldflags(module), "-o", str(output), package]
    result = subprocess.run(
        command,
        cwd=module.directory,
        env={**os.environ, "CGO_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise BuildError(f"go build of {package} failed:\n{result.stdout[-4000:]}")
    say(f"compiled {output.name} in {time.monotonic() - began:.0f} s")


def _ldflags(module: Module) -> str:
    """Linker flags: no debug symbols, and the version that a release build would show."""
    version = kubernetes_version(module.directory)
    major, minor, _ = version.removeprefix("v").split(".")
    known = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    reported = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in known.items()]
    # What helm takes a cluster for that it does not ask.
    reported.append(f"-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor={major}")
    reported.append(f"-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={minor}")
    return " ".join(["-s", "-w", *reported])


def _complete(module: Module, directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in module.packages)


def _directory(module: Module) -> Path | None:
    reported = toolchain()
    if reported is None:
        return None
    return (
        cache_directory() / f"{_pins(module)}-{hashlib.sha256(reported.encode()).hexdigest()[:8]}"
    )


def _pins(module: Module) -> str:
    pinned = b"".join((module.directory / name).read_bytes() for name in ("go.mod", "go.sum"))
    return hashlib.sha256(pinned + module.group.encode()).hexdigest()[:16]


def cache_directory() -> Path:
    """Where everything is kept that is made once for all checkouts."""
    given = os.environ.get("REAL_PARTS_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    root = Path(home) if home else Path.home() / ".cache"
    return root / "linstor-affinity-events" / "real-parts"


@contextmanager
def only_builder(directory: Path) -> Iterator[None]:
    """Wait until nobody else makes anything there."""
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    sys.stderr.write(f"real parts: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        for each in (chosen(), HELM, *(CSI if "--csi" in sys.argv[1:] else ())):
            sys.stdout.write(f"{ensure_built(each)}\n")
    except BuildError as failure:
        sys.exit(str(failure))
