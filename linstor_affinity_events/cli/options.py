"""The parts that all commands share: flags, the settings read from them, and exit codes."""

import enum
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from linstor_affinity_events.app.peers import default_policy
from linstor_affinity_events.cli.terminal import print_line
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.settings import OPTIONS, Group, Option, Settings


class Exit(enum.IntEnum):
    """The exit codes that scripts may rely on."""

    GOOD = 0
    FAILED = 1
    BAD_SETTINGS = 2


class _Verbosity(click.ParamType[str]):
    """Accepts `-v 1`, `-v=1` and `--v=1`, as the reference controller does."""

    name = "integer"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        del param, ctx
        return str(value).removeprefix("=")


def _as_click(
    option: Option, *, hidden: bool
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    names = [f"--{option.flag}", option.field]
    given: dict[str, Any] = {"metavar": option.metavar, "type": str}
    if option.flag == "v":
        names.insert(0, "-v")
        given["type"] = _Verbosity()
    if option.is_switch:
        given |= {"is_flag": False, "flag_value": "true"}
    if option.flag == "allow-finalizer":
        given |= {"multiple": True}
    shown = f" [default: {option.default}]" if option.default else ""
    words = f"{option.help}{shown} [${option.variable}]"
    return click.option(*names, help=words, hidden=hidden, **given)


class GroupedCommand(click.Command):
    """A command whose help lists the settings under headings, after its own options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = {option.field: option.group for option in OPTIONS}
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for group in Group:
            sections[group] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections[groups.get(parameter.name or "", "Options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=24)


def takes_settings(
    *shown: str,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command all flags of the service, so that the same arguments work for every command.
    Its help lists those in `shown`, or all of them if `shown` is empty.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(OPTIONS):
            hidden = bool(shown) and option.flag not in shown
            command = _as_click(option, hidden=hidden)(command)
        return command

    return decorate


def settings_from(given: dict[str, Any]) -> Settings:
    """Read the settings. Raises BadSettings that lists all mistakes."""
    flags = {
        name: ",".join(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not None and value != ()
    }
    return Settings.read(flags, os.environ, check_policy=default_policy)


def exit_with_errors(
    error: BadSettings, command: str, *, code: Exit = Exit.BAD_SETTINGS
) -> NoReturn:
    """Print every mistake and exit."""
    for line in str(error).splitlines():
        print_line(f"error: {line}", err=True)
    print_line(f"See linstor-affinity-events {command} --help.", err=True)
    sys.exit(code)
