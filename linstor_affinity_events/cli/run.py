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


@click.command(short_help="Listen to LINSTOR and set affinities right.")
@takes_settings()
def run(**given: Any) -> None:
    """Listen to LINSTOR and set affinities right until told to stop.

    LINSTOR is found by the environment, as by LINBIT's own clients: LS_CONTROLLERS (comma list;
    schemes http, https, linstor, linstor+ssl), LS_USERNAME and LS_PASSWORD or
    LS_BEARER_TOKEN_FILE, LS_ROOT_CA, LS_USER_CERTIFICATE and LS_USER_KEY (PEM, or with _FILE
    appended a file that is read again when it changes), and LS_TLS_SERVER_NAME (the name to
    expect in LINSTOR's certificate in place of the host's).

    Flags go over environment variables, these over defaults. Durations are written as in Go:
    90s, 1m30s, 250ms. Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 bad settings.
    """
    try:
        settings = settings_from(given)
        logs.set_up(verbosity=settings.v, as_json=settings.log_format == "json")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_run(settings))
    except BadSettings as error:
        exit_with_errors(error, "run")
    except BaseExceptionGroup as errors:
        # Work in progress has finished by now; after a restart everything is reconciled.
        log.critical("a part of the service failed unforeseen", exc_info=errors)
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
