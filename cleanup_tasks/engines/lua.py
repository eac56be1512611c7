"""The Lua engine: one script call judges and reaps a batch."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.engines import REAPED, Answer, Outcome, Reaping, ScriptingRefused
from cleanup_tasks.failures import is_server_trouble
from cleanup_tasks.line import Command, Line

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
        self._source = script_source()
        self._sha = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Reaping:
        """See `Engine.reap`; raises ScriptingRefused where scripting is the trouble."""
        call = _Call.of(batch, threshold_s, dry_run)
        with Line(self._client) as line:
            line.send(call.command(self._sha))
            yield
            try:
                try:
                    return call.outcome(line.receive())
                except NoScriptError:  # so nothing was done
                    line.ask("SCRIPT", "LOAD", self._source)
                    return call.outcome(line.ask(*call.command(self._sha)))
            except ResponseError as error:
                refusal = _as_refusal(error)
                if refusal is error:
                    raise
                raise refusal from error

    def reap_each(self, batches: list[Batch], threshold_s: int, *, dry_run: bool) -> list[Answer]:
        """See `NodeEngine.reap_each`; raises what the client raises where the connection is lost."""
        calls = [_Call.of(batch, threshold_s, dry_run) for batch in batches]
        with Line(self._client) as line:
            answers = self._ask_each(line, calls)
            unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                try:
                    line.ask("SCRIPT", "LOAD", self._source)
                    anew = self._ask_each(line, [calls[number] for number in unknown])
                except ResponseError as error:
                    anew = [error] * len(unknown)
                for number, answer in zip(unknown, anew, strict=True):
                    answers[number] = answer
        return [_as_refusal(answer) if isinstance(answer, ResponseError) else answer for answer in answers]

    def _ask_each(self, line: Line, calls: "list[_Call]") -> list[Outcome | ResponseError]:
        answers: list[Outcome | ResponseError] = []
        line.send(*(call.command(self._sha) for call in calls))
        for call in calls:
            try:
                answers.append(call.outcome(line.receive()))
            except ResponseError as error:
                answers.append(error)
        return answers


@dataclass(frozen=True, slots=True)
class _Call:
    """KEYS and ARGV for a batch, as the script's head describes them."""

    names: list[bytes]
    arguments: list[bytes | str]
    coordinators: int
    shared: int
    unseen: list[bytes]

    @classmethod
    def of(cls, batch: Batch, threshold_s: int, dry_run: bool) -> "_Call":
        unseen = list(batch.unseen)
        beats, activities = batch.judged_keys(unseen)
        names = beats + activities
        beats, activities = batch.judged_keys(batch.own)
        names += beats
        names += activities
        for own in batch.own.values():
            names += own
        names += batch.shared
        if batch.orphaned:
            names.append(keys.SIGHTINGS)
        numbers = {id_: number for number, id_ in enumerate(batch.own, start=1)} if batch.shared else {}
        lines = batch.snapshot.lines_of(batch.own)
        figures = [threshold_s, dry_run, batch.partial, len(batch.own), len(unseen), batch.orphaned]
        arguments: list[bytes | str] = [
            *(str(int(figure)) for figure in figures),
            ",".join(map(str, map(len, batch.own.values()))),
            ";".join(",".join(str(numbers[owner]) for owner in owners) for owners in batch.shared.values()),
        ]
        if lines is not None:
            arguments += [str(batch.snapshot.at_ms), lines]
        return cls(names, arguments, len(batch.own), len(batch.shared), unseen)

    def command(self, sha: str) -> Command:
        return ("EVALSHA", sha, str(len(self.names)), *self.names, *self.arguments)

    def outcome(self, answer: Any) -> Outcome:
        verdicts, deleted, newcomers = answer
        if not verdicts and not newcomers:  # short for "all of them"
            verdicts = [REAPED] * (self.coordinators + self.shared)
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
