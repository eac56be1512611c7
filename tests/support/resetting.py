"""A server that tests share is for each of them as it was when it started."""

from functools import cache

from redis import Redis

from demo.servers import Server


@cache
def _settings(server: Server) -> dict[str, str]:
    """Those of a server that no test has had yet."""
    with server.client() as client:
        return dict(client.config_get())


def reset(server: Server, client: Redis) -> None:
    """Undo what a test may have left: a pause, another role, rights of the default user, settings, keys."""
    client.client_unpause()
    client.replicaof("NO", "ONE")
    client.execute_command("ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all")  # type: ignore[no-untyped-call]
    there = client.config_get()
    for name, value in _settings(server).items():
        if there[name] != value:
            client.config_set(name, value)
    client.flushall()
