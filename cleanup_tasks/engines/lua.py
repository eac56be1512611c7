"""The Lua engine: one script call judges and reaps a batch."""

from importlib.resources import files
from pathlib import Path

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from cleanup_tasks import keys
from cleanup_tasks.batches import Batch
from cleanup_tasks.engines import Outcome, ScriptingRefused
from cleanup_tasks.failures import is_server_trouble

SCRIPT_NAME = "cleanup_blocking_coordination.lua"


def script_source() -> str:
    """The script's text: from the installed package, or from a checkout's ``lua/``.

    Raises:
        ScriptingRefused: it is in neither place.
    """
    packaged = files("cleanup_tasks") / "lua" / SCRIPT_NAME
    checkout = Path(__file__).parents[2] / "lua" / SCRIPT_NAME
    for place in (packaged, checkout):
        if place.is_file():
            return place.read_text(encoding="utf-8")
    raise ScriptingRefused(f"script not found: {SCRIPT_NAME}")


class LuaEngine:
    """Reaps by EVALSHA, every key declared."""

    name = "lua"

    def __init__(self, client: Redis) -> None:
        """Use this client; raises ScriptingRefused where the script's file is missing."""
        self._script = client.register_script(script_source())

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Outcome:
        """See `Engine.reap`; raises ScriptingRefused where scripting is the trouble."""
        names: list[bytes] = []
        arguments: list[int | str] = [
            threshold_s,
            int(dry_run),
            int(batch.partial),
            len(batch.own),
            len(batch.unseen),
            int(batch.orphaned),
        ]
        numbers: dict[bytes, int] = {}
        for number, (coordinator, own) in enumerate(batch.own.items(), start=1):
            numbers[coordinator] = number
            names += batch.judged_keys(coordinator)
            names += own
            arguments.append(len(own))
        unseen = list(batch.unseen)
        names += map(keys.heartbeat, unseen)
        names += batch.shared
        if batch.orphaned:
            names.append(keys.SIGHTINGS)
        arguments += (",".join(str(numbers[owner]) for owner in owners) for owners in batch.shared.values())
        try:
            # redis-py loads the script and calls again when the server does not know it (NOSCRIPT).
            verdicts, deleted, newcomers = self._script(keys=names, args=arguments)
        except ResponseError as error:
            if is_server_trouble(error) or (
                isinstance(error, NoPermissionError) and "to access" in str(error)
            ):
                raise
            raise ScriptingRefused(str(error)) from error
        return Outcome(
            coordinators=verdicts[: len(batch.own)],
            shared=verdicts[len(batch.own) :],
            deleted=deleted,
            newcomers=frozenset(unseen[number - 1] for number in newcomers),
        )
