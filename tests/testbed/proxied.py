"""A test bed with a proxy before each peer, which records requests and injects faults."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.testbed.proxy import (
    Action,
    Proxy,
    Record,
    Rule,
    kubernetes_terms,
    linstor_terms,
)
from tests.testbed.service import Service
from tests.testbed.testbed import Testbed
from tests.testbed.warm import WarmStarts


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxiedTestbed:
    """Instances of the service that are made here know the proxies only."""

    testbed: Testbed
    record: Record
    kubernetes: Proxy
    linstor: Proxy
    starts: WarmStarts
    directory: Path
    kubeconfig: Path
    made: list[Service] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def of(cls, testbed: Testbed, directory: Path, starts: WarmStarts) -> AsyncIterator[Self]:
        record, cluster = Record(), testbed.cluster
        async with (
            Proxy(cluster.url, kubernetes_terms, record=record, tls=cluster.tls) as kubernetes,
            Proxy(testbed.linstor.url, linstor_terms, record=record) as linstor,
        ):
            yield cls(
                testbed=testbed,
                record=record,
                kubernetes=kubernetes,
                linstor=linstor,
                starts=starts,
                directory=directory,
                kubeconfig=kubernetes.write_kubeconfig(
                    directory / "proxy.kubeconfig", token=cluster.token
                ),
            )

    def service(self, *flags: str, kubeconfig: Path | None = None, **env: str) -> Service:
        """An instance that does not vote, so that a killed one leaves no lease to wait for, and
        without a poll, so that it asks LINSTOR for nothing by the clock.
        """
        service = Service(
            kubeconfig=self.kubeconfig if kubeconfig is None else kubeconfig,
            linstor=self.linstor.url,
            log=self.directory / f"service-{len(self.made) + 1}.log",
            flags=("-v", "1", "--leader-election=false", "--poll-rate=0", *flags),
            env=env,
            starts=self.starts,
            secrets=self.testbed.secrets,
        )
        self.made.append(service)
        return service

    def on(self, label: str, action: Action, *, nth: int = 1) -> Rule:
        """A rule at the proxy that such requests come to."""
        proxy = self.linstor if label.startswith("linstor ") else self.kubernetes
        return proxy.on(label, action, nth=nth)

    def forget(self) -> None:
        """Begin a new page: no rule, no request, no old log."""
        self.kubernetes.rules.clear()
        self.linstor.rules.clear()
        self.record.forget()

    async def until_idle(self) -> None:
        """Wait until both peers have responded to everything that was forwarded."""
        await self.kubernetes.until_idle()
        await self.linstor.until_idle()
