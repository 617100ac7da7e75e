"""Runs an image under crun with the security contexts that the chart gives its pods.

Docker's and Kubernetes' runtimes write such a bundle too; here nothing stands in between. Only the
network is the machine's own, since the fake peers are on its loopback.
"""

import asyncio
import json
import os
import platform
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from linstor_affinity_events.settings import OPTIONS
from tests.image.engine import Image
from tests.testbed.service import Service

Json = dict[str, Any]

VALUES = Path(__file__).parents[2] / "chart" / "values.yaml"

SECCOMP = Path("/usr/share/containers/seccomp.json")
"""The profile that Podman and CRI-O take for RuntimeDefault; it comes with buildah."""

KUBECONFIG = "/run/kubeconfig"

ENTER = 'mount -t tmpfs none /sys/fs/cgroup && exec crun --cgroup-manager=disabled "$@"'
"""crun refuses to start beside both versions of cgroups, though it is to use none."""


class Refused(Exception):
    """The chart asks for something that is not tried here; the message says what."""


class Contained(Service):
    """An instance in a container."""

    def __init__(self, image: Image, directory: Path, *, kubeconfig: Path, linstor: str) -> None:
        super().__init__(
            kubeconfig=Path(KUBECONFIG), linstor=linstor, log=directory / "service.log"
        )
        self._image, self._directory = image, directory
        self._files = {KUBECONFIG: kubeconfig}
        self._pid_file = directory / "pid"

    async def start(self) -> None:
        process = process_of(self._image, ("run", *self._flags))
        ours = {option.variable for option in OPTIONS}
        given = [f"{k}={v}" for k, v in self._env.items() if k in ours or k.startswith("LS_")]
        process["env"] = [*process["env"], *given]
        written = json.dumps(bundle(process, self._image.root, self._files))
        (self._directory / "config.json").write_text(written)
        with self.log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *("unshare", "--mount", "--propagation=private", "sh", "-c", ENTER, "enter"),
                f"--root={self._directory / 'crun'}",
                "run",
                f"--bundle={self._directory}",
                f"--pid-file={self._pid_file}",
                "service",
                stdout=out,
                stderr=out,
            )

    @property
    def pid(self) -> int:
        """Of the service itself, as seen from outside of its container."""
        return int(self._pid_file.read_text())

    async def kill(self) -> None:
        # Whoever only kills the runtime leaves the container alone with itself.
        if self.runs and self._pid_file.exists():
            os.kill(self.pid, signal.SIGKILL)
        await super().kill()


def process_of(image: Image, args: Sequence[str]) -> Json:
    """The OCI's "process", of an image and the chart's security contexts. Raises Refused."""
    values = yaml.safe_load(VALUES.read_text())
    pod, container = values["podSecurityContext"], values["securityContext"]
    _only(pod, {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}})
    _only(
        container,
        {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    )
    user, group = (int(number) for number in image.config["User"].split(":"))
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {
        "terminal": False,
        "user": {"uid": user, "gid": group},
        "args": [*image.config["Entrypoint"], *args],
        "env": image.config["Env"],
        "cwd": image.config.get("WorkingDir") or "/",
        "capabilities": dict.fromkeys(kinds, ()),
        "noNewPrivileges": True,
    }


def _only(asked: Json, known: Json) -> None:
    if asked != known:
        raise Refused(f"the chart says {asked}, and what is tried is {known}")


def bundle(process: Json, root: Path, files: Mapping[str, Path]) -> Json:
    """The OCI's runtime configuration; `files` are to be seen at these paths."""
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "noexec", "mode=755", "size=64k"],
            },
            *(
                {
                    "destination": place,
                    "type": "bind",
                    "source": str(file),
                    "options": ["bind", "ro"],
                }
                for place, file in files.items()
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "seccomp": seccomp(json.loads(SECCOMP.read_text())),
        },
    }


def seccomp(profile: Json) -> Json:
    """A profile as a runtime reads it, for a container without capabilities."""
    machine = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[platform.machine()]
    [known] = [each for each in profile["archMap"] if each["architecture"] == machine]
    rules = [rule for rule in profile["syscalls"] if "caps" not in (rule.get("includes") or {})]
    keys = ("names", "action", "errnoRet", "args")
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [known["architecture"], *(known["subArchitectures"] or ())],
        "syscalls": [{k: rule[k] for k in keys if rule.get(k)} for rule in rules],
    }
