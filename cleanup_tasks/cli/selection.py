"""Which targets the command works on."""

from collections.abc import Sequence

from pydantic import SecretStr

from cleanup_tasks.configuration import targets
from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.reporting.report import DEFAULT_TARGET


def selected(names: Sequence[str], *, are_all: bool, redis_url: str | None) -> dict[str, Settings]:
    """The settings of the targets that the options name, by target; of ``default`` where they name none.

    Raises:
        ValueError: the options or the settings are wrong.
    """
    if sum((bool(names), are_all, redis_url is not None)) > 1:
        raise ValueError("--target, --all-targets, --list-targets and --redis-url: give only one of them")
    if redis_url is not None:  # the others are not used, so they need not be right
        url = {"coordination_redis_url": SecretStr(redis_url), "coordination_redis_url_file": None}
        return {DEFAULT_TARGET: Settings.read(**url)}
    known = targets.names()
    wanted = list(known if are_all else names or [DEFAULT_TARGET])
    if not (are_all or names or DEFAULT_TARGET in known):
        raise ValueError(
            f"no target is called {DEFAULT_TARGET!r}: choose one with --target NAME, or --all-targets "
            f"(known: {', '.join(known)})"
        )
    wrong = [targets.unknown(name, known) for name in wanted if name not in known]
    if wrong:
        raise ValueError(f"--target: {'; '.join(wrong)}")
    return targets.settings_of(*wanted)
