"""Flower's settings, which ``celery -A cleanup_tasks flower`` reads.

A FLOWER_ variable of the environment wins over what is here, a command line option over both; but without
FLOWER_BASIC_AUTH the environment can't open Flower to others than this machine.
"""

import ast
import os
import re
from typing import Any

_DEFAULTS = {
    # In this order, all that is read often is on a page of 1,400 pixels; the id is the link to the details.
    "tasks_columns": "name,state,result,kwargs,received,runtime,uuid,worker,retries",
    # History survives a restart, and all but the last minute a kill; FLOWER_DB says where.
    "persistent": True,
    "state_save_interval": 60_000,
    # A month of runs every five minutes.
    "max_tasks": 10_000,
}
globals().update(
    {name: value for name, value in _DEFAULTS.items() if f"FLOWER_{name.upper()}" not in os.environ}
)
if not os.environ.get("FLOWER_BASIC_AUTH"):
    address = "127.0.0.1"

#: Tasks whose names begin so are shown without this part.
_OURS = "cleanup_tasks."
#: A field of a dict in a representation that was cut off at its end.
_FIELD = re.compile(
    r"""'(\w+)': (None|True|False|[\d.]+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\[[^][]*\])(?=[,}])"""
)


def format_task(task: Any) -> Any:
    """Have the tasks page show what a run did, and why one failed; the task's own page has all the metrics.

    The tasks page shows about fifty characters of a result.
    """
    if not (task.name or "").startswith(f"{_OURS}cleanup"):
        return task
    task.name = task.name.removeprefix(_OURS)
    task.kwargs = ", ".join(f"{name}={value}" for name, value in _fields(task.kwargs or "").items())
    if task.state == "FAILURE":
        lines = (task.traceback or task.exception or "").strip().splitlines()
        # without the module: redis.exceptions.AuthenticationError: ...
        task.result = re.sub(r"^[\w.]+\.(?=\w+(:|$))", "", lines[-1]) if lines else ""
    elif task.result:
        metrics = _fields(task.result)
        if "keysDeleted" in metrics:
            task.result = _in_words(metrics)
            # the task's page has a row for each field that the task has, and words in its name for a _
            rows = {re.sub("([A-Z])", r"_\1", name).lower(): _shown(value) for name, value in metrics.items()}
            vars(task).update(rows)
            task._fields = (*rows, *task._fields)
    return task


def _fields(text: str) -> dict[str, Any]:
    """A dict in the representation that Flower gets; what is left of it where that was cut off."""
    try:
        return dict(ast.literal_eval(text))
    except (SyntaxError, TypeError, ValueError):
        return {name: ast.literal_eval(value) for name, value in _FIELD.findall(text)}


def _shown(value: Any) -> str:
    """A metric as the task's page shows it."""
    if isinstance(value, dict):
        value = [f"{name}: {number}" for name, number in value.items()]
    return ", ".join(value) if isinstance(value, list) else str(value)


def _in_words(fields: dict[str, Any]) -> str:
    """One line that begins with what makes a run unlike an ordinary one."""
    for name in ("skipped", "held"):
        if fields.get(name):
            return ("DRY RUN · " if fields.get("dryRun") else "") + f"{name.upper()}: {fields[name]}"
    marks = {
        "INCOMPLETE": not fields.get("complete", True),
        "DRY RUN": fields.get("dryRun"),
        "FALLBACK": fields.get("implementation") == "python",
    }
    words = [mark for mark, holds in marks.items() if holds]
    words += [
        f"{fields['keysDeleted']:,} keys" + ("" if fields.get("dryRun") else " deleted"),
        f"{fields['staleCoordinatorsFound']:,}/{fields['totalCoordinatorsChecked']:,} stale",
    ]
    if fields.get("unreadableHeartbeats"):
        words.append(f"{fields['unreadableHeartbeats']:,} unreadable")
    for name, noun in (("orphanedCoordinatorsFound", "orphan"), ("cleanupErrors", "error")):
        if number := fields.get(name):
            words.append(f"{number:,} {noun}" + ("" if number == 1 else "s"))
    if fields.get("fallbackReason"):
        words.append(fields["fallbackReason"])
    return " · ".join(words)
