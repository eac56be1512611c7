"""What to do about an error while connecting, in one line."""

import contextlib
import re
from collections.abc import Iterator

from redis.exceptions import RedisError

from cleanup_tasks.servers.errors import in_short
from cleanup_tasks.servers.url import Address

#: What an error says -> what to do about it. The first that matches, of those for TLS only where it is used.
#: One of the sentinels' and not the server's begins with "no sentinel".
_WITH_TLS = {
    "certificate is not valid for|mismatch": "the certificate is for another name; use that one in the URL",
    "no sentinel.*certificate verify failed": "sentinel_ca_file in the URL names their authority's file",
    "certificate verify failed": "COORDINATION_REDIS_CA_FILE names the authority's PEM file",
    "no sentinel.*(WRONG_VERSION|RECORD_LAYER|Timeout)": "if the sentinels speak no TLS, "
    "give sentinel_tls=false",
    "WRONG_VERSION|RECORD_LAYER|Timeout": "if this port speaks no TLS, use redis://",
    "Connection closed|reset by peer|Broken pipe|alert": "if the server asks for a certificate, "
    "COORDINATION_REDIS_CERT_FILE and COORDINATION_REDIS_KEY_FILE name it",
}
_WITHOUT_TLS = {
    "no sentinel.*(Connection closed|reset by peer|Broken pipe|Protocol error)": "if the sentinels "
    "speak TLS, give sentinel_tls=true",
    "Connection closed|reset by peer|Broken pipe|Protocol error": "if this port speaks TLS, use rediss://",
}
_ALWAYS = {
    "refused": "is the server running, and are host and port right?",
    "not known|name resolution": "is the host name right?",
    "no sentinel.*any password configured": "the sentinels ask for no password; leave sentinel_password out",
    "no sentinel.*username-password": "check sentinel_username and sentinel_password in the URL",
    "no sentinel.*Authentication required": "give the sentinels' own, as in ?sentinel_password=password",
    "any password configured": "the server asks for no password; leave it out",
    "username-password": "check user and password; in a URL special characters are written as %XX",
    "Authentication required": "give the password, as in redis://:password@host:6379/0",
    "cluster support disabled": "this is no node of a cluster; use redis://host:port",
    "DB index": "choose another database number in the URL",
    "SELECT is not allowed": "a cluster has only database 0",
    "unknown command .(SELECT|CLUSTER)": "if this is a sentinel, use redis+sentinel://host:port/service",
    "unknown command .?SENTINEL": "this is no sentinel; use redis://host:port",
}


def hint(error: Exception, address: Address) -> str | None:
    """What to do about an error, if we know."""
    text = str(error)
    tls = address.sentinel_tls if text.startswith("no sentinel") else address.tls
    hints = {**(_WITH_TLS if tls else _WITHOUT_TLS), **_ALWAYS}
    found = (advice for pattern, advice in hints.items() if re.search(pattern, text, re.IGNORECASE))
    return next(found, None)


@contextlib.contextmanager
def with_hint(address: Address) -> Iterator[None]:
    """Have an error while connecting to an address say also what to do about it."""
    try:
        yield
    except RedisError as error:
        if text := hint(error, address):
            error.args = (f"{in_short(error).removesuffix('.')} ({text})",)
        raise
