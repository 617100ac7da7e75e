"""A real control plane on loopback: etcd, kube-apiserver and the volume binder, no nodes."""

import asyncio
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.real_parts import credentials
from tests.real_parts.build import ensure_built
from tests.real_parts.credentials import ADMIN, BINDER
from tests.real_parts.daemon import Daemon, free_port

CONTROLLERS = (
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
)

CONTROLLERS_FOR_PODS = (
    *CONTROLLERS,
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
)
"""With those that a scheduled pod and a resize need."""

START_LIMIT = 60.0
"""Far more than the usual three seconds, for machines that are busy with something else."""


class StartError(Exception):
    """A part did not come up; the message ends with the end of its log."""


class RealCluster:
    """Use it as `async with RealCluster() as cluster`; everything is gone afterwards.

    `users` are further users and their groups; the admin is there always. `controller_qps` is
    the request limit of the controllers, None for their own default of 20, `resync` how often
    the binder resyncs, None for its default of 15s. With a `directory`,
    logs and credentials stay there for later inspection.
    """

    def __init__(
        self,
        *,
        binaries: Path | None = None,
        directory: Path | None = None,
        feature_gates: Mapping[str, bool] | None = None,
        controller_qps: int | None = 500,
        resync: str | None = None,
        controller_manager: bool = True,
        controllers: Sequence[str] = CONTROLLERS,
        users: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._binaries = binaries
        self._directory = directory
        self._gates = dict(feature_gates or {})
        self._controller_qps, self._resync = controller_qps, resync
        self._with_controllers, self._controller_names = controller_manager, controllers
        self._users = {ADMIN: ("system:masters",), BINDER: ("system:masters",), **(users or {})}
        self._stack = AsyncExitStack()
        self._probes = count(1)
        self._port, self._etcd_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.etcd_url = f"http://127.0.0.1:{self._etcd_port}"

    async def __aenter__(self) -> Self:
        binaries = self._binaries
        if binaries is None:
            binaries = await asyncio.to_thread(ensure_built)
        try:
            self._prepare()
            self._etcd = self._daemon(binaries / "etcd", self._etcd_flags())
            self._apiserver = self._daemon(binaries / "kube-apiserver", self._apiserver_flags())
            self._controllers = self._daemon(
                binaries / "kube-controller-manager", self._controller_flags()
            )
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start_controller_manager(self) -> None:
        """Start the binder and wait until it has acted on a volume."""
        # A new name each time: the last binder may have died before it release the old probe.
        probe = _probe(next(self._probes))
        self._controllers.start()
        await _until(lambda: self._binder_is_active(probe), self._controllers)

    async def stop_controller_manager(self) -> None:
        await self._controllers.kill()

    async def restart_etcd(self) -> None:
        """Kill the store and start it again with its data; waits until the API is well."""
        await self._etcd.kill()
        self._etcd.start()
        await _until(self._ready, self._apiserver)

    async def restart_apiserver(self) -> None:
        """Kill the API server and start it again; its watch cache restarts."""
        await self._apiserver.kill()
        self._apiserver.start()
        await _until(self._ready, self._apiserver)

    async def forget_history(self) -> None:
        """Make every version before this moment too old to watch or to page from.

        Only both together do it: the store must forget, and so must the API server's cache.
        """
        async with aiohttp.ClientSession(self.etcd_url) as etcd:
            async with etcd.post("/v3/kv/range", json={"key": "AA=="}) as response:
                revision = (await response.json())["header"]["revision"]
            async with etcd.post("/v3/kv/compaction", json={"revision": revision}) as response:
                response.raise_for_status()
        await self.restart_apiserver()

    async def _start(self) -> None:
        self._etcd.start()
        self._apiserver.start()
        await _until(self._ready, self._apiserver)
        if self._with_controllers:
            await self.start_controller_manager()

    def _prepare(self) -> None:
        scratch = tempfile.TemporaryDirectory(prefix="real-cluster-")
        self._stack.callback(scratch.cleanup)
        self._data = Path(scratch.name)
        preserved = self._directory or self._data
        self.logs = preserved / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._made = credentials.make(preserved, self._users)
        self.ca_file, self.authority = self._made.ca_file, self._made.authority
        self.tokens = self._made.tokens
        self.token = self.tokens[ADMIN]
        self.kubeconfigs = {
            user: preserved / f"{number}.kubeconfig" for number, user in enumerate(self._users)
        }
        for user, path in self.kubeconfigs.items():
            credentials.write_kubeconfig(
                path, url=self.url, ca_file=self.ca_file, token=self.tokens[user]
            )
        self.kubeconfig = self.kubeconfigs[ADMIN]
        self._tls = ssl.create_default_context(cafile=str(self.ca_file))

    def _daemon(self, binary: Path, flags: Sequence[str]) -> Daemon:
        daemon = Daemon([str(binary), *flags], self.logs / f"{binary.name}.log")
        self._stack.push_async_callback(daemon.kill)
        return daemon

    def _etcd_flags(self) -> list[str]:
        peers = f"http://127.0.0.1:{free_port()}"
        return [
            f"--data-dir={self._data / 'etcd'}",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--log-level=warn",
            "--unsafe-no-fsync",
        ]

    def _apiserver_flags(self) -> list[str]:
        return [
            f"--etcd-servers={self.etcd_url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--tls-cert-file={self._made.cert_file}",
            f"--tls-private-key-file={self._made.key_file}",
            f"--token-auth-file={self._made.token_file}",
            f"--client-ca-file={self._made.ca_file}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._made.service_account_key}",
            f"--service-account-signing-key-file={self._made.service_account_key}",
            "--disable-admission-plugins=ServiceAccount",
            # No pod reaches this server, and a loopback address makes no valid endpoint.
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
            *self._gate_flags(),
        ]

    def _controller_flags(self) -> list[str]:
        flags = [
            f"--kubeconfig={self.kubeconfigs[BINDER]}",
            f"--controllers={','.join(self._controller_names)}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={self._data / 'controller-manager'}",
            *self._gate_flags(),
        ]
        if self._controller_qps is not None:
            flags.append(f"--kube-api-qps={self._controller_qps}")
            flags.append(f"--kube-api-burst={self._controller_qps}")
        if self._resync is not None:
            flags.append(f"--pvclaimbinder-sync-period={self._resync}")
        return flags

    def _gate_flags(self) -> list[str]:
        gates = ",".join(f"{name}={str(on).lower()}" for name, on in self._gates.items())
        return [f"--feature-gates={gates}"] if gates else []

    async def _ready(self) -> bool:
        async with self._session() as session, session.get("/readyz") as response:
            return response.status == 200

    async def _binder_is_active(self, probe: dict[str, Any]) -> bool:
        """Whether a volume that nobody claims has been checked; then it may go again."""
        path = "/api/v1/persistentvolumes"
        own = f"{path}/{probe['metadata']['name']}"
        async with self._session() as session:
            async with session.post(path, json=probe) as response:
                await response.read()
            async with session.get(own) as response:
                found = await response.json()
            observed: bool = found.get("status", {}).get("phase") == "Available"
            if observed:
                async with session.delete(own) as response:
                    await response.read()
        return observed

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            connector=aiohttp.TCPConnector(ssl=self._tls, force_close=True),
            timeout=aiohttp.ClientTimeout(total=5),
        )


def _probe(number: int) -> dict[str, Any]:
    name = f"is-the-binder-there-{number}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            # A class of its own, so that no claim of a test ever gets this volume.
            "storageClassName": name,
            "csi": {"driver": "probe.invalid", "volumeHandle": name},
        },
    }


async def _until(condition: Callable[[], Awaitable[bool]], part: Daemon) -> None:
    """Poll, since these programs announce nothing; a part that died ends the wait at once."""
    try:
        async with asyncio.timeout(START_LIMIT):
            while part.runs:
                try:
                    if await condition():
                        return
                except (aiohttp.ClientError, TimeoutError):
                    pass  # It is not listening yet.
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StartError(f"not ready in {START_LIMIT:g} s:\n{part.last_words}") from None
    raise StartError(f"it ended:\n{part.last_words}")
