"""Which failure is which."""

import pytest
from redis import exceptions

from cleanup_tasks.failures import interrupts_unmasked, is_transient


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
    with pytest.raises(seen) as caught, interrupts_unmasked(Interrupt):
        raise_over(*raised)
    assert caught.value in raised
