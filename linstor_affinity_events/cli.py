"""The command line: parses, prints and picks exit codes. Nothing else in the package prints."""

import asyncio
import enum
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from linstor_affinity_events import __version__, logs
from linstor_affinity_events.app import Service, default_policy
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.settings import OPTIONS, Option, Settings

try:
    import uvloop
except ImportError:  # not made for this platform
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop


log = logging.getLogger(__name__)


class Exit(enum.IntEnum):
    """What a script may rely on."""

    GOOD = 0
    FAILED = 1
    BAD_SETTINGS = 2


class _Verbosity(click.ParamType[str]):
    """Takes `-v 1`, `-v=1` and `--v=1`, as the reference does."""

    name = "integer"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        del param, ctx
        return str(value).removeprefix("=")


def _as_click(option: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    names = [f"--{option.flag}", option.field]
    given: dict[str, Any] = {"metavar": option.parse.__name__.upper(), "type": str}
    if option.flag == "v":
        names.insert(0, "-v")
        given["type"] = _Verbosity()
    if option.is_switch:
        given |= {"is_flag": False, "flag_value": "true"}
    if option.flag == "allow-finalizer":
        given |= {"multiple": True}
    shown = f" [default: {option.default}]" if option.default else ""
    return click.option(*names, help=f"{option.help}{shown} [env: {option.variable}]", **given)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(OPTIONS):
        command = _as_click(option)(command)
    return command


def _settings(given: dict[str, Any]) -> Settings:
    """Read the settings, or leave with all mistakes told."""
    flags = {
        name: ",".join(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not None and value != ()
    }
    try:
        return Settings.read(flags, os.environ, check_policy=default_policy)
    except BadSettings as error:
        _leave_over(error)


def _leave_over(error: BadSettings) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"error: {line}", err=True)
    click.echo("See linstor-affinity-events run --help.", err=True)
    sys.exit(Exit.BAD_SETTINGS)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="linstor-affinity-events")
def main() -> None:
    """Keep the node affinity of PersistentVolumes in step with LINSTOR's replicas."""


@main.command()
@_with_options
def run(**given: Any) -> None:
    """Listen to LINSTOR and set affinities right until told to stop.

    LINSTOR is found by the environment, as by LINBIT's own clients: LS_CONTROLLERS (comma list;
    schemes http, https, linstor, linstor+ssl), LS_USERNAME and LS_PASSWORD or
    LS_BEARER_TOKEN_FILE, LS_ROOT_CA, LS_USER_CERTIFICATE and LS_USER_KEY (PEM, or with _FILE
    appended a file that is read again when it changes).

    Flags go over environment variables, these over defaults. Durations are written as in Go:
    90s, 1m30s, 250ms. Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 bad settings.
    """
    settings = _settings(given)
    logs.set_up(verbosity=settings.v, as_json=settings.log_format == "json")
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_run(settings))
    except BadSettings as error:
        _leave_over(error)
    except BaseExceptionGroup as errors:
        # What was begun has ended by now; a restarted service looks at everything.
        log.critical("a part of the service failed unforeseen", exc_info=errors)
        sys.exit(Exit.FAILED)


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # A second signal changes nothing: what was begun is finished, within the shutdown grace.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Service(settings).run(stop)
