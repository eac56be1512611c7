"""--explain: what a sweep would do and why, as a table, in detail for one coordinator, or as JSON lines."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from redis.exceptions import RedisError
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cleanup_tasks.cli.output import Style, console
from cleanup_tasks.cli.sweeping import ERRORS, NO_CONNECTION
from cleanup_tasks.reporting.durations import in_words
from cleanup_tasks.reporting.log import logger, utc
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.hints import with_hint
from cleanup_tasks.servers.topology import servers_at
from cleanup_tasks.sweep.explanation import Explained, Explanation, Key, shown
from cleanup_tasks.sweep.options import Options

_COLOURS = {"stale": "red", "orphaned": "yellow", "unreadable": "yellow", "active": "green"}

#: Families -> what people call one key of it, where that is another word.
_WORDS = {"idempotency": "record"}


class _Words(NamedTuple):
    """What the table says of sweeps: what they do, or would do if they were neither held nor skipped."""

    heading: str
    delete: str
    keep: str


_DOES = _Words("What a sweep does", "delete", "keep")
_WOULD_DO = _Words("What a sweep would do", "would delete", "would keep")


def explain(options: Options, wanted: str, style: Style) -> int:
    """Print what a sweep with these options would do; returns the exit status.

    Args:
        options: those of the sweep.
        wanted: an id, or empty for everybody.
        style: JSON lines, or everybody in the table and not just those about whom something is done.
    """
    logger.setLevel(logging.WARNING)
    connected = False
    coordinator = shown(os.fsencode(wanted)) if wanted else None
    try:
        with servers_at(options.address, options.tls) as servers:
            with with_hint(options.address):
                servers.connect()
            connected = True
            explanation = Explanation(servers, options)
            explained = explanation.explain(coordinator)
    except Exception as error:  # also a credential provider's
        why = error if isinstance(error, RedisError) else repr(error)
        logger.error("%s: %s", "Explanation failed" if connected else "Redis connection failed", why)
        return ERRORS if connected else NO_CONNECTION
    if style.as_json:
        for each in explained:
            print(json.dumps({**_as_json(each), "held": explanation.held, "skipped": explanation.skipped}))
        return 0
    out = console()
    head = Table.grid(padding=(0, 2))
    head.add_row(Text("Redis", "bold"), Text(str(options.address)))
    if explanation.held:
        now = "a sweep deletes nothing now, unless you add --force"
        if explanation.held_until_ms:
            now += f". If nothing changes, sweeps from now on are held until {utc(explanation.held_until_ms)}"
        head.add_row(Text("Held", "bold"), Text(f"{explanation.held}; {now}"))
    if explanation.skipped:
        now = "a sweep does nothing now, unless you add --force"
        head.add_row(Text("Skipped", "bold"), Text(f"{explanation.skipped}; {now}"))
    out.print(head)
    words = _WOULD_DO if explanation.held or explanation.skipped else _DOES
    if coordinator and not explained:
        out.print(f"No coordinator {coordinator!r}, and no key that names it.")
    elif coordinator:
        out.print(_detail(explained[0], words))
    else:
        for part in _overview(explained, None if style.verbose else options.max_named, words):
            out.print(part)
    return 0


def _as_json(each: Explained) -> dict[str, object]:
    return {
        "coordinator": keys.text(each.id),
        "verdict": each.verdict,
        "goes": each.goes,
        "reason": each.reason,
        "heartbeatAgeSeconds": each.heartbeat_age_s,
        "activityAgeSeconds": each.activity_age_s,
        "sightedAgeSeconds": each.sighted_age_s,
        "dueInSeconds": each.due_in_s,
        "keys": [
            {
                "key": keys.text(key.name),
                "family": keys.family(key.name),
                "goes": key.goes,
                "sharedWith": [keys.text(id_) for id_ in key.shared_with],
                "keptBy": {keys.text(id_): why for id_, why in key.kept_by.items()},
            }
            for key in each.keys
        ],
    }


def _overview(explained: list[Explained], most: int | None, words: _Words) -> Iterator[RenderableType]:
    """A table of those about whom something is done, at most so many; None: of everybody."""
    counted = Counter(each.verdict for each in explained)
    listed = [each for each in explained if most is None or each.verdict != "active"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Coordinator", "Heartbeat", "Activity", "Verdict", words.heading):
        table.add_column(column, overflow="fold", no_wrap=column in ("Heartbeat", "Activity", "Verdict"))
    for each in listed[:most]:
        ages = _age(each.heartbeat_age_s), _age(each.activity_age_s)
        table.add_row(shown(each.id), *ages, Text(each.verdict, _COLOURS[each.verdict]), _keys(each, words))
    if listed:
        yield table
    total = ", ".join(f"{number:,} {verdict}" for verdict, number in counted.items())
    yield Text(total or "no coordinators", "bold")
    if most is not None and len(listed) > most:
        yield f"{len(listed) - most:,} more are not shown. --verbose shows all, --explain ID shows one."
    elif most is not None and counted["active"]:
        yield "Active coordinators are not shown. --verbose shows all, --explain ID shows one."


def _detail(each: Explained, words: _Words) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row(Text("Coordinator", "bold"), shown(each.id))
    verdict = Text(each.verdict, _COLOURS[each.verdict])
    grid.add_row(Text("Verdict", "bold"), Text.assemble(verdict, f": {each.reason}"))
    grid.add_row(Text("Heartbeat", "bold"), _age(each.heartbeat_age_s))
    grid.add_row(Text("Activity", "bold"), _age(each.activity_age_s))
    if each.verdict == "orphaned":
        grid.add_row(Text("Sighted", "bold"), _age(each.sighted_age_s))
    for key in each.keys:
        grid.add_row(Text(words.delete, "red") if key.goes else Text(words.keep, "green"), _key(key, each.id))
    return grid


def _key(key: Key, owner: bytes) -> Text:
    text = Text(shown(key.name))
    kept_by = {id_: why for id_, why in key.kept_by.items() if id_ != owner}
    if kept_by:
        text.append(f" (also owned by {_owners(kept_by)})")
    elif key.shared_with:
        text.append(f" (also owned by {_owners(key.shared_with, len(key.shared_with))})")
    return text


def _keys(each: Explained, words: _Words) -> Text:
    """How many keys of each family go, how many stay, and why where the verdict doesn't say it."""
    lines = [each.reason] if each.verdict in ("orphaned", "unreadable") else []
    for goes in (True, False):
        counted = Counter(keys.family(key.name) for key in each.keys if key.goes is goes)
        families = ", ".join(
            f"{number} {_WORDS.get(family, family)}" + ("" if number == 1 else "s")
            for family, number in counted.items()
        )
        if not families:
            continue
        keeping = {id_: why for key in each.keys for id_, why in key.kept_by.items() if not goes}
        whose = f", also owned by {_owners(keeping)}" if each.goes and keeping else ""
        lines.append(f"{words.delete if goes else words.keep} {families}{whose}")
    return Text("\n".join(lines))


def _owners(kept_by: dict[bytes, str], most: int = 2) -> str:
    named = [f"{shown(id_)} ({why})" for id_, why in list(kept_by.items())[:most]]
    return ", ".join(named) + (f" and {len(kept_by) - most} more" if len(kept_by) > most else "")


def _age(seconds: int | None) -> str:
    return "-" if seconds is None else in_words(seconds)
