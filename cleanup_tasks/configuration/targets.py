"""The targets: coordination Redises, each with a name, a place and settings of its own.

They come from the file that CLEANUP_CONFIG names, a table ``[targets.NAME]`` each with the options in
`OPTIONS`, and from variables that end in two underscores and a name: ``COORDINATION_REDIS_URL__EU_1`` is the
URL of ``eu-1``, and wins over the file. What says where a target is belongs to it alone; another setting that
it does not have is that of the variable without a name.

``default`` is the target that variables without a name describe. It is there when COORDINATION_REDIS_URL or
COORDINATION_REDIS_URL_FILE is, when it has settings of its own, or when there is no other.

What is wrong with one target stops its own sweeps alone.
"""

import functools
import os
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable
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
#: What a target has of these that it is not given.
_NOWHERE = {name: field.default for name, field in Settings.model_fields.items() if name.startswith(_PLACE)}

Use = TypeVar("Use", bound=Environment)


class _Given(NamedTuple):
    """A target's own value of a setting, as text, and what the user calls it."""

    value: str
    spelled: str


#: Target -> setting -> what was given.
_AllGiven = dict[str, dict[str, _Given]]
#: Target -> what is wrong with its settings; under "" what is wrong for all.
_Faults = dict[str, list[str]]


def read(use: type[Use]) -> tuple[dict[str, Use], _Faults]:
    """Every target's settings for one use, where they are right, and all that is wrong."""
    given, wrong = _given()
    found: dict[str, Use] = {}
    for name, own in given.items():
        values: dict[str, Any] = {setting: value for setting, (value, _) in own.items()}
        if name != DEFAULT_TARGET:
            if _URL in use.model_fields and not any(setting.startswith(_URL) for setting in own):
                wrong[name].append(f"target {name}: it needs a url")
            values = _NOWHERE | values
        try:
            found[name] = use(**values)
        except ValidationError as error:
            spelled = {setting: spelled for setting, (_, spelled) in own.items()}
            wrong[name] += faults(error, use, spelled)
    return found, wrong


def _refuse(wrong: _Faults, *targets: str) -> None:
    """Raise what is wrong with these targets, or for all."""
    if named := [fault for name in ("", *targets) for fault in wrong.get(name, ())]:
        raise InvalidSettings.of(named)


def _given() -> tuple[_AllGiven, _Faults]:
    """What the file and the environment say of each target, and what is wrong with it."""
    given: _AllGiven = {}
    wrong: _Faults = defaultdict(list)
    _read_file(given, wrong)
    said_by: dict[tuple[str, str], str] = {}
    for variable, value in os.environ.items():
        setting, is_of_one, name = variable.lower().partition("__")
        if not value or setting not in OPTIONS.values():
            continue
        if is_of_one:
            name = name.replace("_", "-")
            if variable != (first := said_by.setdefault((name, setting), variable)):
                wrong[name].append(f"{variable}: {first} is the same; one of the two has to go")
            given.setdefault(name, {})[setting] = _Given(value, variable)
        elif setting.startswith(_URL):
            given.setdefault(DEFAULT_TARGET, {})
    for name in [name for name in given if not _NAME.fullmatch(name)]:
        del given[name]
        # a URL with a password may stand there
        wrong[""].append(f"target {name.rpartition('@')[2]!r}: {NAMES}")
    return dict(sorted(given.items())) or {DEFAULT_TARGET: {}}, wrong


def _read_file(given: _AllGiven, wrong: _Faults) -> None:
    path = ConfigSettings.read().cleanup_config
    if path is None:
        return
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        wrong[""].append(f"CLEANUP_CONFIG: {path} can't be read as TOML: {error}")
        return
    wrong[""] += [f"{path}: {key}: {not_known(key, ['targets'])}" for key in document if key != "targets"]
    tables = document.get("targets", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        wrong[""].append(f"{path}: targets: tables [targets.NAME], each with a url")
        return
    for name, table in tables.items():
        given[name] = {}
        for option, value in table.items():
            spelled = f"targets.{name}.{option}"
            if option not in OPTIONS:
                wrong[name].append(f"{spelled}: {not_known(option, OPTIONS)}")
            elif value != "":
                # as the text of a variable, so that what is accepted is the same
                given[name][OPTIONS[option]] = _Given(str(value), spelled)


def unknown(name: str, known: Iterable[str]) -> str:
    """That a target is not known; what is no name may be a URL with a password, and is not repeated."""
    if _NAME.fullmatch(name):
        return f"no target is called {name!r}{not_known(name, known).removeprefix('not known')}"
    return f"{NAMES}; known are {', '.join(known)}"


@functools.cache
def names() -> tuple[str, ...]:
    """All targets; raises InvalidSettings where something is wrong for all."""
    given, wrong = _given()
    _refuse(wrong)
    return tuple(given)


@functools.cache
def intervals() -> dict[str, int]:
    """How often each target is swept, in seconds; raises InvalidSettings where something is wrong for all.

    Where it is wrong for one target it is the default: its sweeps then fail, and say why.
    """
    found, wrong = read(IntervalSettings)
    _refuse(wrong)
    default = IntervalSettings.model_construct()
    return {name: found.get(name, default).cleanup_interval_seconds for name in names()}


@functools.cache
def settings_of(*targets: str) -> dict[str, Settings]:
    """What a sweep of each of these targets needs, read once per process.

    Raises:
        InvalidSettings: all that is wrong with these, or for all.
        KeyError: one is not known.
    """
    found, wrong = read(Settings)
    _refuse(wrong, *targets)
    return {name: found[name] for name in targets}


def forget() -> None:
    """Read all anew the next time, for tests that change the environment."""
    for remembered in (names, intervals, settings_of):
        remembered.cache_clear()
