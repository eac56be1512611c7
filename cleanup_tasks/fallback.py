"""The fallback without a retry: for the command, and for a task that is called as a function."""

from collections.abc import Callable
from dataclasses import replace

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.servers.errors import ScriptingRefused
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep


def sweep_or_fall_back(options: Options, begins: Callable[[Sweep], object] = lambda _sweep: None) -> Sweep:
    """Sweep; where scripting is the trouble, once more with the Python engine.

    Args:
        options: those of the first sweep.
        begins: called with each sweep before it runs, so that the caller has its report after an exception.

    Returns:
        The sweep that came to its end; raises what `Sweep.run` raises.
    """
    sweep = Sweep(options)
    begins(sweep)
    try:
        sweep.run()
    except ScriptingRefused as refusal:
        logger.warning("Falling back to the Python engine: %s", refusal)
        reason, previous = str(refusal), sweep.so_far()
        sweep = Sweep(replace(options, engine="python", fallback_reason=reason, previous=previous))
        begins(sweep)
        sweep.run()
    return sweep
