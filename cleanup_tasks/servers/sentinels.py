"""Sentinels, which say what server is the primary; why none of them does is in one line."""

from typing import Any

from redis.exceptions import AuthenticationError, RedisError
from redis.sentinel import MasterNotFoundError, Sentinel

from cleanup_tasks.servers.errors import in_short


class Sentinels(Sentinel):
    """redis-py's, but for its message, which shows every client with all its options."""

    def discover_master(self, service_name: str) -> Any:
        """The host and port of a service's primary.

        Raises:
            AuthenticationError: no sentinel takes our login.
            MasterNotFoundError: none of them knows a primary now; the message says what each of them said.
        """
        reasons: list[str] = []
        refusals = 0
        for number, sentinel in enumerate(self.sentinels):
            place = "{host}:{port}".format(**sentinel.connection_pool.connection_kwargs)
            try:
                services: Any = sentinel.sentinel_masters()
            except RedisError as error:
                reasons.append(f"{place}: {in_short(error)}")
                refusals += isinstance(error, AuthenticationError)
                continue
            state = services.get(service_name)
            if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                # whoever answers is asked first the next time
                self.sentinels.insert(0, self.sentinels.pop(number))
                return state["ip"], state["port"]
            known = "it counts as down" if state else f"known are {', '.join(sorted(services)) or 'none'}"
            reasons.append(f"{place}: {known}")
        kind = AuthenticationError if refusals == len(reasons) else MasterNotFoundError
        raise kind(f"no sentinel names a primary of {service_name!r} ({'; '.join(reasons)})")
