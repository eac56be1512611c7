"""Variables that look like ours and that nobody reads: a misspelt one would be ignored in silence."""

import difflib
import os
import re

from cleanup_tasks.configuration.environment import Environment
from cleanup_tasks.configuration.targets import OPTIONS
from cleanup_tasks.reporting.log import logger

PREFIXES = ("CLEANUP_", "COORDINATION_REDIS_")
#: How alike two names are of which one may be the other misspelt, see `difflib`.
_CLOSE = 0.85
#: What Kubernetes puts into every container for a service whose name begins like ours.
_OF_A_SERVICE = re.compile(r"\w+_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


def unknown_variables() -> list[str]:
    """Each variable that begins like ours and that nobody reads, with the one that may have been meant."""
    known = {name.upper() for use in _uses(Environment) for name in use.model_fields}
    own = {name.upper() for name in OPTIONS.values()}
    return [
        f"{variable} is ignored{_meant(setting, own if of_a_target else known)}"
        for variable in sorted(os.environ)
        for setting, of_a_target, _ in [variable.partition("__")]
        if variable.startswith(PREFIXES) and not _OF_A_SERVICE.fullmatch(variable)
        if setting not in (own if of_a_target else known)
    ]


def _meant(setting: str, known: set[str]) -> str:
    near = difflib.get_close_matches(setting, sorted(known), n=1, cutoff=_CLOSE)
    return f"; did you mean {near[0]}?" if near else ""


def _uses(use: type[Environment]) -> list[type[Environment]]:
    return [use, *(more for narrower in use.__subclasses__() for more in _uses(narrower))]


def warn_of_unknown_variables() -> None:
    """Name them in the log."""
    for text in unknown_variables():
        logger.warning("Unknown variable %s", text)
