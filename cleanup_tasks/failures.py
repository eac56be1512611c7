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
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from cleanup_tasks.engines import ScriptingRefused

#: A server that can't answer just now; the same call may work later. MOVED is an ASK, and MASTERDOWN a
#: CLUSTERDOWN; LOADING is a ConnectionError.
TROUBLE = (AskError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
#: The same, where redis-py has no class: by the first word of the answer.
#: A pipeline puts the command in front.
_TROUBLE_CODE = re.compile(
    r"(?:Command # \d+ .* of pipeline caused error: )?(?:BUSY|MISCONF|NOREPLICAS) ", re.DOTALL
)


def is_server_trouble(error: Exception) -> bool:
    """Whether an error answer is about the server's state, not about what was asked."""
    if not isinstance(error, ResponseError):
        return False
    return isinstance(error, TROUBLE) or _TROUBLE_CODE.match(str(error)) is not None


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


@contextlib.contextmanager
def interrupts_unmasked(kind: type[BaseException]) -> Iterator[None]:
    """Raise an interrupt of this kind as itself, where a library's error has taken its place.

    A signal's exception may strike in anybody's code, and what handles errors there may fail over one that
    it does not know (redis-py 6.4: UnboundLocalError out of a connection that is being made).
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, kind):
            cause = cause.__context__
        if cause is None or cause is error:
            raise
        raise cause from None
