"""The smallest ACL user that a sweep needs. HELLO, which each connection begins with, is open to all."""

#: Every key that is read or deleted; the lock is one of the first.
KEY_PATTERNS = ("blocking:*", "coordinator:activity:*")

#: For either engine: find, read, delete (or count, in a dry run).
FIND_AND_REAP = ("time", "scan", "getrange", "exists", "unlink")
#: The lock, and what a sweep notes for later ones: when it began, why it was held, since when it is skipped.
LOCK_AND_NOTES = ("set", "get", "pexpire")
#: Whether the server came up a moment ago.
RESTART = ("info",)
#: The lock and the Python engine.
TRANSACTIONS = ("watch", "multi", "exec")
#: The Lua engine alone.
SCRIPTING = ("evalsha", "script|load")
COMMANDS = (*FIND_AND_REAP, *LOCK_AND_NOTES, *RESTART, *TRANSACTIONS, *SCRIPTING)

#: Besides, where orphans are reaped: their notes.
ORPHANS = ("hscan", "hset", "hdel", "hmget", "expire")

#: Besides, with a database number other than 0, and on a cluster.
DATABASE = ("select",)
CLUSTER = ("cluster|slots", "asking")


def rules(*more: str) -> str:
    """What follows ``ACL SETUSER cleanup on >password``; `more` are further commands."""
    patterns = [f"~{pattern}" for pattern in KEY_PATTERNS]
    return " ".join([*patterns, *(f"+{command}" for command in (*COMMANDS, *more))])
