"""The Lua engine: one script call judges and reaps a batch."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError

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
        self._client = client
        self._script = client.register_script(script_source())

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Outcome:
        """See `Engine.reap`; raises ScriptingRefused where scripting is the trouble."""
        call = _Call.of(batch, threshold_s, dry_run)
        try:
            # redis-py loads the script and calls again when the server does not know it (NOSCRIPT).
            return call.outcome(self._script(keys=call.names, args=call.arguments))
        except ResponseError as error:
            refusal = _as_refusal(error)
            if refusal is error:
                raise
            raise refusal from error

    def reap_each(
        self, batches: list[Batch], threshold_s: int, *, dry_run: bool
    ) -> list[Outcome | RedisError | ScriptingRefused]:
        """See `NodeEngine.reap_each`; raises what the client raises where the connection is lost."""
        calls = [_Call.of(batch, threshold_s, dry_run) for batch in batches]
        answers = self._send(calls)
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            try:
                self._client.script_load(self._script.script)
                anew = self._send([calls[number] for number in unknown])
            except ResponseError as error:
                anew = [error] * len(unknown)
            for number, answer in zip(unknown, anew, strict=True):
                answers[number] = answer
        return [
            _as_refusal(answer) if isinstance(answer, ResponseError) else call.outcome(answer)
            for call, answer in zip(calls, answers, strict=True)
        ]

    def _send(self, calls: "list[_Call]") -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(self._script.sha, len(call.names), *call.names, *call.arguments)
            return pipe.execute(raise_on_error=False)


@dataclass(frozen=True, slots=True)
class _Call:
    """KEYS and ARGV for a batch, as the script's head describes them."""

    names: list[bytes]
    arguments: list[int | str]
    coordinators: int
    unseen: list[bytes]

    @classmethod
    def of(cls, batch: Batch, threshold_s: int, dry_run: bool) -> "_Call":
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
        beats, activities = batch.guard_keys(unseen)
        names += beats
        names += activities
        names += batch.shared
        if batch.orphaned:
            names.append(keys.SIGHTINGS)
        arguments += (",".join(str(numbers[owner]) for owner in owners) for owners in batch.shared.values())
        return cls(names, arguments, len(batch.own), unseen)

    def outcome(self, answer: Any) -> Outcome:
        verdicts, deleted, newcomers = answer
        return Outcome(
            coordinators=verdicts[: self.coordinators],
            shared=verdicts[self.coordinators :],
            deleted=deleted,
            newcomers=frozenset(self.unseen[number - 1] for number in newcomers),
        )


def _as_refusal(error: ResponseError) -> ResponseError | ScriptingRefused:
    """ScriptingRefused where scripting is the trouble, else the error itself."""
    if is_server_trouble(error) or (isinstance(error, NoPermissionError) and "to access" in str(error)):
        return error
    return ScriptingRefused(str(error))
