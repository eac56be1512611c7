"""Which failure is which."""

import pytest
from redis import exceptions

from cleanup_tasks.reporting.metrics import REASONS
from cleanup_tasks.servers.errors import (
    ScriptingRefused,
    interrupts_unmasked,
    is_about_the_server,
    is_transient,
    may_have_happened,
)

#: What the text of a script's own error holds, for the metrics; `errors` must know it by the same text.
_SCRIPT_BROKE = next(text for text, label in REASONS.items() if label == "script_error")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (exceptions.ConnectionError("reset"), True),
        (exceptions.TimeoutError("slow"), True),
        (exceptions.BusyLoadingError("loading"), True),
        (exceptions.ReadOnlyError("replica"), True),
        (exceptions.OutOfMemoryError("full"), True),
        (exceptions.ClusterDownError("down"), True),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), True),
        (exceptions.ResponseError("Command # 1 (TIME) of pipeline caused error: BUSY Redis is busy"), True),
        (exceptions.ResponseError("Command # 2 (UNLINK a\nb) of pipeline caused error: MISCONF no"), True),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (exceptions.AuthenticationError("invalid"), False),
        (exceptions.AuthorizationError("invalid"), False),
        (exceptions.NoPermissionError("no"), False),
        (exceptions.ResponseError("WRONGTYPE BUSY "), False),
        (exceptions.ResponseError("BUSYKEY Target key name already exists."), False),
    ],
)
def test_what_is_tried_again(error: Exception, transient: bool) -> None:
    assert is_transient(error) == transient


@pytest.mark.parametrize(
    ("error", "about_the_server"),
    [
        (exceptions.ReadOnlyError("replica"), True),
        (exceptions.OutOfMemoryError("full"), True),
        (exceptions.MovedError("1 h:1"), True),
        (exceptions.AskError("1 h:1"), True),
        (exceptions.MasterDownError("down"), True),
        (exceptions.ResponseError("MISCONF no snapshot"), True),
        (exceptions.ResponseError("unknown command 'EVALSHA'"), False),
        (exceptions.NoPermissionError("no"), False),
        # no answer of the server at all
        (exceptions.ConnectionError("reset"), False),
        (exceptions.TimeoutError("slow"), False),
    ],
)
def test_what_says_nothing_of_what_was_asked(error: Exception, about_the_server: bool) -> None:
    assert is_about_the_server(error) == about_the_server


@pytest.mark.parametrize(
    ("error", "may_have"),
    [
        (exceptions.ConnectionError("reset"), True),
        (exceptions.TimeoutError("slow"), True),
        (ScriptingRefused(f"{_SCRIPT_BROKE}:81: attempt to call a nil value"), True),
        (KeyboardInterrupt(), True),
        # answered in the place of the work
        (exceptions.ResponseError("WRONGTYPE no"), False),
        (exceptions.ReadOnlyError("replica"), False),
        (exceptions.NoScriptError("no matching script"), False),
        (ScriptingRefused("unknown command 'EVALSHA'"), False),
        # before anything was sent
        (exceptions.BusyLoadingError("loading"), False),
        (exceptions.AuthenticationError("invalid"), False),
        (exceptions.AuthorizationError("invalid"), False),
    ],
)
def test_after_what_some_of_it_may_be_done(error: BaseException, may_have: bool) -> None:
    assert may_have_happened(error) == may_have


class Interrupt(BaseException):
    """What a signal handler raised."""


def raise_over(*errors: BaseException) -> None:
    """Raise the first, and the others each while the one before is handled."""
    try:
        raise errors[0]
    except BaseException:
        if errors[1:]:
            raise_over(*errors[1:])
        raise


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        ([Interrupt()], Interrupt),
        ([Interrupt(), UnboundLocalError()], Interrupt),
        ([Interrupt(), exceptions.ConnectionError(), ValueError()], Interrupt),
        ([OSError(), exceptions.ConnectionError()], exceptions.ConnectionError),
        ([OSError()], OSError),
        ([KeyboardInterrupt(), OSError()], OSError),
    ],
)
def test_an_interrupt_is_raised_whatever_a_library_makes_of_it(
    raised: list[BaseException], seen: type[BaseException]
) -> None:
    with pytest.raises(seen) as caught, interrupts_unmasked((Interrupt,)):
        raise_over(*raised)
    assert caught.value in raised
