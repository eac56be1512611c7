"""Which failure is which: whether to try again, and whom to tell."""

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    ResponseError,
    TimeoutError,
)

from cleanup_tasks.engines import ScriptingRefused

#: Error codes of a server that can't answer just now; the same call may work later.
TROUBLE_CODES = frozenset(
    {
        "ASK",
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
    }
)


def code_of(error: ResponseError) -> str:
    """The first word of the server's answer, such as ``READONLY``; redis-py cuts it off the text."""
    return str(getattr(error, "status_code", None) or str(error).split(" ", 1)[0])


def is_server_trouble(error: Exception) -> bool:
    """Whether an error answer is about the server's state, not about what was asked."""
    return isinstance(error, ResponseError) and code_of(error) in TROUBLE_CODES


def is_transient(error: Exception) -> bool:
    """Whether the same run may succeed a little later: connection, time-out or the server's state.

    A wrong password or a missing permission is not; trying again would only lock the account.
    """
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    return isinstance(error, ConnectionError | TimeoutError) or is_server_trouble(error)


def may_have_happened(error: BaseException) -> bool:
    """Whether the server may have done some of what was asked, though its answer says nothing of it."""
    if isinstance(error, ScriptingRefused):
        return "user_script" in str(error)  # it ran and broke; Lua has no rollback
    if isinstance(error, AuthenticationError | AuthorizationError | BusyLoadingError):
        return False
    return not isinstance(error, ResponseError)
