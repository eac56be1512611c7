"""Flower's settings, which ``celery -A cleanup_tasks flower`` reads.

A FLOWER_ variable of the environment wins over what is here, a command line option over both; but without
FLOWER_BASIC_AUTH the environment can't open Flower to others than this machine.
"""

import ast
import os
import re
from typing import Any

_DEFAULTS = {
    "tasks_columns": "name,state,result,kwargs,retries,received,runtime,worker,uuid",
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

#: A field of a metrics dict in the representation that Flower gets, which is cut off somewhere.
_FIELD = re.compile(r"""'(\w+)': (None|True|False|[\d.]+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def format_task(task: Any) -> Any:
    """Have the tasks page show what a run did instead of its metrics dict, and why one failed.

    The page shows about forty-five characters, the rest when it is scrolled or on the task's own page.
    """
    if not (task.name or "").startswith("cleanup_tasks.cleanup"):
        return task
    task.kwargs = ", ".join(f"{name}={value}" for name, value in _FIELD.findall(task.kwargs or ""))
    if task.state == "FAILURE":
        lines = (task.traceback or task.exception or "").strip().splitlines()
        # without the module: redis.exceptions.AuthenticationError: ...
        task.result = re.sub(r"^[\w.]+\.(?=\w+(:|$))", "", lines[-1]) if lines else ""
    elif task.result:
        fields = {name: ast.literal_eval(value) for name, value in _FIELD.findall(task.result)}
        task.result = _in_words(fields) if "keysDeleted" in fields else task.result
    return task


def _in_words(fields: dict[str, Any]) -> str:
    """One line that begins with what makes a run unlike an ordinary one."""
    if fields.get("skipped"):
        return f"SKIPPED: {fields['skipped']}"
    if fields.get("held"):
        return f"HELD: {fields['held']}"
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
    if fields.get("orphanedCoordinatorsFound"):
        words.append(f"{fields['orphanedCoordinatorsFound']:,} orphans")
    if fields.get("cleanupErrors"):
        words.append(f"{fields['cleanupErrors']:,} errors")
    if fields.get("fallbackReason"):
        words.append(fields["fallbackReason"])
    return " · ".join(words)
