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
    of_targets = {name.upper() for name in OPTIONS.values()}
    texts = []
    for variable in sorted(os.environ):
        setting, is_of_one, _ = variable.partition("__")
        read = of_targets if is_of_one else known
        if variable.startswith(PREFIXES) and setting not in read and not _OF_A_SERVICE.fullmatch(variable):
            near = difflib.get_close_matches(setting, sorted(read), n=1, cutoff=_CLOSE)
            texts.append(f"{variable} is ignored" + (f"; did you mean {near[0]}?" if near else ""))
    return texts


def _uses(use: type[Environment]) -> list[type[Environment]]:
    return [use, *(more for narrower in use.__subclasses__() for more in _uses(narrower))]


def warn_of_unknown_variables() -> None:
    """Name them in the log."""
    for text in unknown_variables():
        logger.warning("Unknown variable %s", text)
