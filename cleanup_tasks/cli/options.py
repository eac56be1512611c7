"""The kinds of options, and a help that shows the settings in force."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from cleanup_tasks.configuration.environment import InvalidSettings
from cleanup_tasks.configuration.settings import ConfigSettings, Settings
from cleanup_tasks.reporting.durations import read_seconds
from cleanup_tasks.reporting.metrics_file import MetricsFile
from cleanup_tasks.servers import url

MAX_SECONDS = 999_999_999

EXIT_STATUSES = [
    ("0", "success; also where nothing was to be done, or the sweep was skipped and says why"),
    ("1", "no connection to Redis; nothing was done"),
    (
        "2",
        "errors during the cleanup, its time limit, skipped for more than three intervals, or a wrong option "
        "or setting",
    ),
    (
        "3",
        "held: 20 or more coordinators look dead and none beats, or a clock was set; nothing was deleted",
    ),
    ("129, 130, 143", "stopped by SIGHUP, Ctrl-C or SIGTERM; the next run goes on"),
]


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no type argument
    """What a function makes of the text; what it raises says what is wrong with that."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        try:
            return self._parse(str(value))
        except (OSError, ValueError) as error:
            self.fail(str(error), param, ctx)


def _duration(text: str) -> int:
    seconds = read_seconds(text)
    if seconds > MAX_SECONDS:
        raise ValueError(f"{text!r} is too long; at most {MAX_SECONDS} seconds")
    return seconds


def _redis_url(text: str) -> str:
    url.parse(text)
    return text


def _metrics_file(text: str) -> MetricsFile:
    file = MetricsFile(Path(text))
    file.check()
    return file


#: A duration, as whole seconds.
DURATION = _Parsed("duration", _duration)
#: A URL of the coordination Redis; what is wrong with one is told without showing it.
REDIS_URL = _Parsed("url", _redis_url)
#: The path of a metrics file; one that is somebody else's or can't be written is refused.
METRICS_FILE = _Parsed("path", _metrics_file)


class SettingOption(click.Option):
    """An option that wins over a setting; the help names the variable and its value."""

    def __init__(self, *args: Any, variable: str, value: Callable[[Settings], object], **rest: Any) -> None:
        """`value` is what the option would have to be given to say the same as the settings."""
        super().__init__(*args, **rest)
        self.variable = variable
        self._value = value

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """See `click.Option`."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        return record[0], f"{record[1]}  [env: {self.variable}; now: {self._value(_settings())}]"


class CommandWithSettings(click.Command):
    """A command whose help ends with the exit statuses and the variables that have no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command`; of the options that a misspelt one is like, only the nearest is named."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            nearest = difflib.get_close_matches(error.option_name, error.possibilities or (), n=1)
            raise click.NoSuchOption(error.option_name, possibilities=nearest, ctx=ctx) from None

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Command`."""
        with formatter.section("Exit status"):
            formatter.write_dl(EXIT_STATUSES)
        of_options = {param.variable for param in self.params if isinstance(param, SettingOption)}
        settings = _settings()
        rows = []
        for name, field in {**Settings.model_fields, **ConfigSettings.model_fields}.items():
            value = getattr(settings, name, None)
            shown = "" if value is None or isinstance(value, SecretStr) else f"  [now: {_spelled(value)}]"
            if name.upper() not in of_options:
                about = f"{field.title}: " if field.title else ""
                rows.append((name.upper(), f"{about}{field.description}{shown}"))
        with formatter.section("Environment"):
            formatter.write_dl(rows)


def _settings() -> Settings:
    """Those in force; where the environment is wrong, which a run says, those of an empty one."""
    try:
        return Settings.read()
    except InvalidSettings:
        return Settings.model_construct()


def _spelled(value: object) -> str:
    """A value as a variable has it."""
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"
