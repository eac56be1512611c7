"""What one attempt of a task tells the next, in the headers of the message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cleanup_tasks.reporting.report import HANDED_ON, PreviousAttempts

FALLBACK_HEADER = "x-cleanup-fallback"
PREVIOUS_HEADER = "x-cleanup-earlier"
RETRIES_HEADER = "x-cleanup-retries"
OWNER_HEADER = "x-cleanup-owner"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known of the attempts before this one."""

    #: Why the work was handed over to the fallback, or None.
    fallback_reason: str | None = None
    #: Retries so far because the connection or the server was the trouble.
    retries: int = 0
    #: The token of the lock that the last of them could perhaps not free, or None.
    owner: str | None = None
    previous: PreviousAttempts = field(default_factory=PreviousAttempts)

    @classmethod
    def read(cls, headers: Mapping[str, Any] | None) -> Self:
        """Read it from a message of any version: what this version doesn't know counts as not said."""
        found = headers or {}
        reason = found.get(FALLBACK_HEADER)
        owner, previous = found.get(OWNER_HEADER), found.get(PREVIOUS_HEADER)
        previous = previous if isinstance(previous, Mapping) else {}
        return cls(
            fallback_reason=None if reason is None else str(reason),
            retries=_number(found.get(RETRIES_HEADER)),
            owner=owner if isinstance(owner, str) else None,
            previous=PreviousAttempts({name: _number(previous.get(name)) for name in HANDED_ON}),
        )

    def headers(self) -> dict[str, Any]:
        """The headers that `read` reads."""
        named = {FALLBACK_HEADER: self.fallback_reason, OWNER_HEADER: self.owner}
        known = {name: text for name, text in named.items() if text is not None}
        return {PREVIOUS_HEADER: dict(self.previous), RETRIES_HEADER: self.retries, **known}


def _number(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0
