"""Commands that read, print and exit, run as a person runs them."""

import asyncio
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner, Result

from linstor_affinity_events.cli import main
from linstor_affinity_events.settings import OPTIONS
from tests.preserved_logging import preserved_logging
from tests.testbed.testbed import Testbed


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The lines of a table as its columns, the header left out."""
        lines = [line for line in self.out.splitlines() if "  " in line]
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[1:]]

    @classmethod
    def of(cls, result: Result) -> "Said":
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError("the command failed unforeseen") from result.exception
        return cls(result.exit_code, result.stdout, result.stderr)


async def command(testbed: Testbed, *arguments: str, **env: str) -> Said:
    """Run a command against a test bed, on a thread of its own."""
    ours: Iterable[str] = {option.variable for option in OPTIONS} | {"POD_NAMESPACE"}
    unset: dict[str, str | None] = {
        name: None for name in [*ours, *os.environ] if name in ours or name.startswith("LS_")
    }
    given = {
        **unset,
        "KUBECONFIG": str(testbed.cluster.kubeconfig),
        "LS_CONTROLLERS": testbed.linstor.url,
        "LINSTOR_AFFINITY_NEW_VOLUME_GRACE": "0",
        **env,
    }

    def run() -> Result:
        return CliRunner(env=given).invoke(main, arguments)

    with preserved_logging():
        return Said.of(await asyncio.to_thread(run))
