"""The service as a process of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from linstor_affinity_events.settings import OPTIONS
from tests.real_parts.daemon import free_port
from tests.testbed.clusters import until
from tests.testbed.secrets import leaked
from tests.testbed.warm import Forked, WarmStarts


class Service:
    """One instance; its log is a file, for tests and people to read.

    With `starts` it is forked from a process that has the imports done. None of `secrets` may be in
    its log: that is checked when it has ended.
    """

    def __init__(
        self,
        *,
        kubeconfig: Path,
        linstor: str,
        log: Path,
        flags: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        program: tuple[str, ...] = (sys.executable, "-m", "linstor_affinity_events"),
        starts: WarmStarts | None = None,
        secrets: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.log = log
        self._starts, self._secrets = starts, secrets
        self.port = free_port()
        self._program = program
        self._flags = (
            f"--bind-address=127.0.0.1:{self.port}",
            f"--metrics-address=127.0.0.1:{self.port}",
            "--new-volume-grace=0",
            *flags,
        )
        # What is set where a person runs must not decide what happens.
        ours = {option.variable for option in OPTIONS} | {"POD_NAMESPACE"}
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LS_") and k not in ours}
        self._env = {
            **clean,
            "KUBECONFIG": str(kubeconfig),
            "LS_CONTROLLERS": linstor,
            # As in a pod, whose name stays: who is started again continues its own Lease.
            "LEASE_HOLDER_IDENTITY": "the-pod",
            **(env or {}),
        }
        self.process: asyncio.subprocess.Process | Forked | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        if self.process is None:
            raise AssertionError("started first")
        return self.process.pid

    async def start(self) -> None:
        if self._starts is not None:
            self.process = await self._starts.start(("run", *self._flags), self._env, self.log)
            return
        with self.log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *self._program,
                "run",
                *self._flags,
                stdout=out,
                stderr=out,
                env=self._env,
            )

    async def ask(self, path: str, *, method: str = "GET") -> tuple[int, str]:
        """One of the service's own endpoints; status 0 while nobody listens."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.request(method, f"http://127.0.0.1:{self.port}{path}") as response,
            ):
                return response.status, await response.text()
        except aiohttp.ClientError:
            return 0, ""

    async def until_ready(self) -> None:
        async def ready() -> bool:
            if self.process is not None and self.process.returncode is not None:
                raise AssertionError(f"the service ended: {self.said()}")
            return (await self.ask("/readyz"))[0] == 200

        try:
            await until(ready, "the service is ready")
        except AssertionError as error:
            status, why = await self.ask("/readyz")
            raise AssertionError(f"{error}; {status} {why}; {self.said()[-3000:]}") from None

    async def until_said(self, text: str, *, times: int = 1) -> None:
        async def said() -> bool:
            return self.said().count(text) >= times

        await until(said, f"the log has {text!r}")

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        _, text = await self.ask("/metrics")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return sum(float(x.split()[-1]) for x in lines if x.split("{")[0].split()[0] == name)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def stop(self) -> int:
        """End it as Kubernetes does; returns its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self, within: float = 40.0) -> int:
        if self.process is None:
            return 0
        try:
            async with asyncio.timeout(within):
                code = await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise AssertionError(f"the service did not end: {self.said()[-3000:]}") from None
        reported = leaked(self.said(), self._secrets())
        if reported:
            raise AssertionError(f"{self.log} has secrets in it: {reported}")
        return code

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """A service that is ready, and gone afterwards whatever happened."""
    try:
        await service.start()
        await service.until_ready()
        yield service
    finally:
        await service.kill()
