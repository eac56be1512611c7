"""The targets: coordination Redises, each with a name, a place and settings of its own.

They come from the file that CLEANUP_CONFIG names, a table ``[targets.NAME]`` each with the options in
`OPTIONS`, and from variables that end in two underscores and a name: ``COORDINATION_REDIS_URL__EU_1`` is the
URL of ``eu-1``, and wins over the file. What says where a target is belongs to it alone; another setting that
it does not have is that of the variable without a name.

``default`` is the target that variables without a name describe. It is there when COORDINATION_REDIS_URL
is, or nothing else.
"""

import functools
import os
import re
import tomllib
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from cleanup_tasks.configuration.environment import Environment, InvalidSettings, faults, not_known
from cleanup_tasks.configuration.settings import ConfigSettings, IntervalSettings, LogSettings, Settings
from cleanup_tasks.reporting.report import DEFAULT_TARGET

_NAME = re.compile(r"[a-z0-9-]{1,40}")
NAMES = "a target's name has 1 to 40 small letters, digits and hyphens"
#: How settings begin that say where a target is.
_PLACE = "coordination_redis_"
_URL = "coordination_redis_url"
#: An option of a target in the file -> the setting.
OPTIONS = {
    name.removeprefix(_PLACE).removeprefix("cleanup_"): name
    for name in Settings.model_fields
    if name not in LogSettings.model_fields and not name.startswith("redis_")
}

Use = TypeVar("Use", bound=Environment)


class _Given(NamedTuple):
    """A target's own value of a setting, as text, and what the user calls it."""

    value: str
    spelled: str


#: Target -> setting -> what was given.
_AllGiven = dict[str, dict[str, _Given]]


def read(use: type[Use]) -> dict[str, Use]:
    """Every target's settings for one use.

    Raises:
        InvalidSettings: all that is wrong, of all targets.
    """
    given, wrong = _given()
    found: dict[str, Use] = {}
    for name, own in given.items():
        values: dict[str, Any] = {setting: value for setting, (value, _) in own.items()}
        if name != DEFAULT_TARGET:
            if _URL in use.model_fields and not any(setting.startswith(_URL) for setting in own):
                wrong.append(f"target {name}: it needs a url")
            fields = Settings.model_fields.items()
            nowhere = {setting: field.default for setting, field in fields if setting.startswith(_PLACE)}
            values = nowhere | values
        try:
            found[name] = use(**values)
        except ValidationError as error:
            spelled = {setting: spelled for setting, (_, spelled) in own.items()}
            wrong += faults(error, use, spelled)
    if wrong:
        raise InvalidSettings.of(wrong)
    return found


def _given() -> tuple[_AllGiven, list[str]]:
    """What the file and the environment say of each target, and what is wrong with it."""
    given: _AllGiven = {}
    wrong = _read_file(given)
    for variable, value in os.environ.items():
        setting, _, name = variable.lower().partition("__")
        if not value or setting not in OPTIONS.values():
            continue
        if name:
            given.setdefault(name.replace("_", "-"), {})[setting] = _Given(value, variable)
        elif setting.startswith(_URL):
            given.setdefault(DEFAULT_TARGET, {})
    for name in [name for name in given if not _NAME.fullmatch(name)]:
        del given[name]
        wrong.append(f"target {name.rpartition('@')[2]!r}: {NAMES}")  # a URL with a password may stand there
    return dict(sorted(given.items())) or {DEFAULT_TARGET: {}}, wrong


def _read_file(given: _AllGiven) -> list[str]:
    path = ConfigSettings.read().cleanup_config
    if path is None:
        return []
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"CLEANUP_CONFIG: {path} can't be read as TOML: {error}"]
    wrong = [f"{path}: {key}: {not_known(key, ['targets'])}" for key in document if key != "targets"]
    tables = document.get("targets", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        return [*wrong, f"{path}: targets: tables [targets.NAME], each with a url"]
    for name, table in tables.items():
        given[name] = {}
        for option, value in table.items():
            spelled = f"targets.{name}.{option}"
            if option not in OPTIONS:
                wrong.append(f"{spelled}: {not_known(option, OPTIONS)}")
            elif value != "":
                # as the text of a variable, so that what is accepted is the same
                given[name][OPTIONS[option]] = _Given(str(value), spelled)
    return wrong


@functools.cache
def names() -> tuple[str, ...]:
    """All targets; raises InvalidSettings."""
    return tuple(read(Environment))


@functools.cache
def intervals() -> dict[str, int]:
    """How often each target is swept, in seconds; raises InvalidSettings."""
    return {name: own.cleanup_interval_seconds for name, own in read(IntervalSettings).items()}


@functools.cache
def all_settings() -> dict[str, Settings]:
    """What a sweep of each target needs, read once per process; raises InvalidSettings."""
    return read(Settings)


def settings_of(target: str | None) -> Settings:
    """What a sweep of a target needs; raises InvalidSettings, and KeyError where it is not known."""
    return all_settings()[target or DEFAULT_TARGET]


def forget() -> None:
    """Read all anew the next time, for tests that change the environment."""
    for remembered in (names, intervals, all_settings):
        remembered.cache_clear()
