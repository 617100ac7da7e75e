"""Runs the commands that end by themselves, and reports their errors."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from linstor_affinity_events.cli.options import Exit
from linstor_affinity_events.cli.terminal import print_line
from linstor_affinity_events.errors import AffinityEventsError, BadSettings, Forbidden
from linstor_affinity_events.settings import Settings

T = TypeVar("T")

LINSTOR_TIP = (
    "Set LS_CONTROLLERS to the address of LINSTOR (now: {urls}). Run "
    "linstor-affinity-events check to test the connection."
)
KUBERNETES_TIP = (
    "Set --kubeconfig (KUBECONFIG), --context or --server to reach Kubernetes. "
    "Run linstor-affinity-events check to test the connection."
)


def run_once(work: Coroutine[Any, Any, T], settings: Settings) -> T:
    """Run to completion. On an error print it and what to change, and exit with 1.

    BadSettings is not caught: each command has its own exit code for it.
    """
    try:
        return asyncio.run(work)
    except BadSettings:
        raise
    except AffinityEventsError as error:
        print_line(f"error: {error}", err=True)
        for tip in _tips(error, settings):
            print_line(tip, err=True)
    except KeyboardInterrupt:
        print_line("interrupted", err=True)
    sys.exit(Exit.FAILED)


def _tips(error: AffinityEventsError, settings: Settings) -> list[str]:
    text = str(error)
    of_linstor = text.startswith(("LINSTOR ", "cannot reach LINSTOR"))
    if of_linstor and "LS_" not in text and "has no node" not in text:
        return [LINSTOR_TIP.format(urls=", ".join(settings.linstor_urls))]
    if isinstance(error, Forbidden):
        return ["Run linstor-affinity-events check to list the permissions that are missing."]
    return [KUBERNETES_TIP] if text.startswith("Kubernetes: ") else []
