"""Which failure is which."""

import pytest
from redis import exceptions

from cleanup_tasks.failures import is_transient


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
