"""The client of the coordination Redis, configured so that all redis-py versions behave alike."""

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Seconds until a connection, or an answer, counts as lost. No call we send takes longer than ms.
TIMEOUT_S = 5.0

CLIENT_NAME = "cleanup-blocking-coordination"


def connect(url: str) -> Redis:
    """A client for a URL (see `settings.REDIS_SCHEMES`); it connects with the first command.

    It never repeats a command on its own: a deletion whose answer is lost must not be sent again and
    then report "0 deleted". Make it after a fork, use it as a context manager.
    """
    return Redis.from_url(
        url,
        client_name=CLIENT_NAME,
        socket_connect_timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        protocol=2,
        decode_responses=False,
        health_check_interval=0,
    )


def server_time_ms(client: Redis) -> int:
    """The server's time, in whole ms since the epoch; the worker's clock decides nothing."""
    return time_ms(client.time())


def time_ms(answer: tuple[int, int]) -> int:
    """TIME's answer (seconds, microseconds) in whole ms since the epoch."""
    seconds, microseconds = answer
    return seconds * 1000 + microseconds // 1000
