"""The `run` command: runs the service until a signal stops it."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from linstor_affinity_events import logs
from linstor_affinity_events.app.service import Service
from linstor_affinity_events.cli.options import (
    Exit,
    GroupedCommand,
    exit_with_errors,
    settings_from,
    takes_settings,
)
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.settings import Settings

try:
    import uvloop
except ImportError:  # not available for this platform
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


HELP = """Watch LINSTOR, and keep the node affinity of PersistentVolumes correct until SIGTERM.

The connection to LINSTOR is configured with environment variables, as for LINBIT's own
clients: LS_CONTROLLERS (comma-separated; schemes http, https, linstor, linstor+ssl),
LS_USERNAME and LS_PASSWORD or LS_BEARER_TOKEN_FILE, LS_ROOT_CA, LS_USER_CERTIFICATE and
LS_USER_KEY (PEM; or append _FILE to name a file, which is reloaded when it changes), and
LS_TLS_SERVER_NAME (the expected host name in LINSTOR's certificate).

Flags override environment variables, which override defaults. Durations: 90s, 1m30s, 250ms.

\b
  run                                          in a pod beside the LINSTOR controller
  LS_CONTROLLERS=https://linstor:3371 run -v 1 elsewhere, with every decision logged
  run --metrics-address=:8001                  with metrics

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 invalid settings.
"""


@click.command(cls=GroupedCommand, help=HELP, short_help="Run the service.")
@takes_settings()
def run(**given: Any) -> None:
    try:
        settings = settings_from(given)
        logs.set_up(verbosity=settings.v, as_json=settings.log_format == "json")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_run(settings))
    except BadSettings as error:
        exit_with_errors(error, "run")
    except BaseExceptionGroup as errors:
        # Work in progress has finished by now; after a restart everything is reconciled.
        log.critical(
            "unexpected error: the service exits with code 1, and continues when "
            "Kubernetes restarts it. Work in progress was completed or is resumed then. "
            "Please report it with the traceback",
            exc_info=errors,
        )
        sys.exit(Exit.FAILED)


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(*_: object) -> None:
        # A second signal has no effect: work in progress may finish within the shutdown grace.
        loop.call_soon_threadsafe(stop.set)

    # Not the event loop's handlers: closing the loop restores the defaults, and another signal at
    # that moment would kill a process that has stopped cleanly.
    for number in STOP_SIGNALS:
        signal.signal(number, ask)
    try:
        await Service(settings).run(stop)
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
