"""Which failure is which: whether to try again, and whom to tell."""

import contextlib
import re
from collections.abc import Iterator

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    ExecAbortError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)


class WrongServer(RedisError):
    """What answers is not what the URL says; another form of it is needed."""


class ScriptingRefused(Exception):
    """Scripting itself is forbidden, missing or broken on this server; code without Lua may still do."""


#: A server that can't answer just now; the same call may work later. MOVED is an ASK, and MASTERDOWN a
#: CLUSTERDOWN; LOADING is a ConnectionError.
_TEMPORARY = (AskError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
#: The same, where redis-py has no class: by the first word of the answer. A pipeline of redis-py puts the
#: command in front, and Redis 6.2 the place in a script.
_TEMPORARY_CODE = re.compile(
    r"(?:Command # \d+ .* of pipeline caused error: |Error running script .*@user_script: ?\d+: -)?"
    r"(?:BUSY|MISCONF|NOREPLICAS|READONLY) ",
    re.DOTALL,
)
_UNKNOWN = re.compile(r"unknown command\W+(\w+)\W, with args beginning with:.*", re.DOTALL)
#: Answers of a server that has done nothing, for the slot is elsewhere or on its way.
REDIRECTIONS = (AskError, TryAgainError)


def is_about_the_server(error: Exception) -> bool:
    """Whether an error answer is about the server's state, not about what was asked."""
    if not isinstance(error, ResponseError):
        return False
    if isinstance(error, ExecAbortError):
        return "NOPERM" not in str(error)  # else the server has become a replica, or full, in between
    return isinstance(error, _TEMPORARY) or _TEMPORARY_CODE.match(str(error)) is not None


def is_wrong_type(answer: object) -> bool:
    """Whether a command was refused because a key is of another type."""
    return isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE")


def is_unknown_command(error: Exception) -> bool:
    """Whether a command was refused because the server or proxy doesn't have it."""
    return isinstance(error, ResponseError) and _UNKNOWN.match(str(error)) is not None


def in_short(error: Exception) -> str:
    """What an error says, without the arguments of a command that is not known, which may be many."""
    return _UNKNOWN.sub(r"unknown command \1", str(error))


def is_transient(error: Exception) -> bool:
    """Whether the same run may succeed a little later: connection, time-out or the server's state.

    A wrong password or a missing permission is not; trying again would only lock the account.
    """
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    return isinstance(error, ConnectionError | TimeoutError) or is_about_the_server(error)


def may_have_happened(error: BaseException) -> bool:
    """Whether the server may have done some of what was asked, though its answer says nothing of it."""
    if isinstance(error, ScriptingRefused):
        return "user_script" in str(error)  # it ran and broke; Lua has no rollback
    if isinstance(error, AuthenticationError | AuthorizationError | BusyLoadingError):
        return False
    return not isinstance(error, ResponseError)


@contextlib.contextmanager
def interrupts_unmasked(kinds: tuple[type[BaseException], ...]) -> Iterator[None]:
    """Raise an interrupt of these kinds as itself, where a library's error has taken its place.

    A signal's exception may strike in anybody's code, and what handles errors there may fail over one that
    it does not know (redis-py 6.4: UnboundLocalError out of a connection that is being made).
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        seen: set[int] = set()
        while cause is not None and not isinstance(cause, kinds) and id(cause) not in seen:
            seen.add(id(cause))  # an error that is raised again elsewhere may lead back to itself
            cause = cause.__context__
        if cause is error or not isinstance(cause, kinds):
            raise
        raise cause from None
