"""One sweep at a time for one Redis: for thrift, not for safety."""

import contextlib
import time

from redis import Redis
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.errors import in_short, is_unknown_command, is_wrong_type
from cleanup_tasks.servers.pipelining import PipelinedConnection, or_raise

#: A lock whose owner was killed frees itself after this many seconds.
TTL_S = 30
#: Errors that a sweep gets over without the lock. A server that is lost as a whole is found out by the next
#: command.
_BEARABLE = (ConnectionError, TimeoutError, ClusterDownError, OutOfMemoryError, NoPermissionError)


def limit_ttl(client: Redis, key: bytes, ttl_ms: int) -> None:
    """Give a key an end in `ttl_ms`, if it has none, or a later one; where that is not permitted it stays."""
    with contextlib.suppress(NoPermissionError):
        try:
            client.pexpire(key, ttl_ms, lt=True)
        except ResponseError:  # Redis 6.2 has no such option
            left_ms = client.pttl(key)
            if left_ms == -1 or left_ms > ttl_ms:
                client.pexpire(key, ttl_ms)


class SweepLock(contextlib.AbstractContextManager["SweepLock"]):
    """The lock in the coordination Redis, a context manager that releases it.

    redis-py's own lock releases and renews by scripts, and the fallback must do without any.
    """

    def __init__(
        self, client: Redis, owner: str, ttl_s: float = TTL_S, *, previous_owner: str | None = None
    ) -> None:
        """A lock that is not taken yet.

        Args:
            client: of the server that holds it.
            owner: a token that is ours alone, so that a copy of our message does not pass for us.
            ttl_s: seconds after which it frees itself where nobody renews it.
            previous_owner: the token of the attempt before this one, which could perhaps not free it.
        """
        self._client = client
        self._owner = owner.encode()
        self._ours = {self._owner} if previous_owner is None else {self._owner, previous_owner.encode()}
        self._ttl_ms = int(ttl_s * 1000)
        self._renew_s = ttl_s / 3
        self._renewed_at = 0.0
        self._held = False

    def acquire(self) -> bool:
        """Take the lock; False where another sweep holds it.

        A lock that can't be written (memory full, no permission, on a cluster its primary lost) costs a
        warning, not the sweep.
        """
        self._renewed_at = time.monotonic()
        try:
            if self._client.set(keys.LOCK, self._owner, nx=True, px=self._ttl_ms):
                self._held = True
            elif self._client.get(keys.LOCK) in self._ours:
                self._held = self._if_owned("SET", keys.LOCK, self._owner, "PX", str(self._ttl_ms))
            else:
                limit_ttl(self._client, keys.LOCK, self._ttl_ms)
        except RedisError as error:
            if not (isinstance(error, _BEARABLE) or is_wrong_type(error) or is_unknown_command(error)):
                raise
            what = "is somebody's key of another type" if is_wrong_type(error) else "can't be written"
            logger.warning("Sweep lock %s, going on without: %s", what, in_short(error))
            return True
        return self._held

    def renew(self) -> None:
        """Keep the lock, if a third of its life has passed; call it often."""
        if self._held and time.monotonic() - self._renewed_at > self._renew_s:
            self._renewed_at = time.monotonic()
            try:
                self._held = self._if_owned("PEXPIRE", keys.LOCK, str(self._ttl_ms))
            except RedisError as error:
                # Of a cluster this may be the one primary that is lost; the sweep goes on elsewhere.
                logger.warning("Sweep lock can't be renewed, going on without: %s", error)
                self._held = False
                return
            if not self._held:
                logger.warning("Sweep lock lost; another sweep may run beside this one (harmless)")

    def release(self) -> None:
        """Free the lock if it is still ours; where that fails it frees itself in time."""
        if not self._held:
            return
        self._held = False
        try:
            self._if_owned("UNLINK", keys.LOCK)
        except RedisError as error:
            logger.warning("Sweep lock frees itself in %d s: %s", self._ttl_ms // 1000, error)

    def _if_owned(self, *command: str | bytes) -> bool:
        """Send a command if the lock is ours, in one step with the look; returns whether it is."""
        with PipelinedConnection(self._client) as connection:
            # MULTI is answered before the command is sent: where it is refused, the command would be done at
            # once, whoever has taken the lock meanwhile
            connection.send(("WATCH", keys.LOCK), ("GET", keys.LOCK), ("MULTI",))
            _watched, owner, _multi = or_raise(connection.receive_each(3))
            is_ours = owner in self._ours
            commands = [command, ("EXEC",)] if is_ours else [("EXEC",)]
            connection.send(*commands)
            return is_ours and or_raise(connection.receive_each(len(commands)))[-1] is not None

    def __exit__(self, *_error: object) -> None:
        """Release."""
        self.release()
