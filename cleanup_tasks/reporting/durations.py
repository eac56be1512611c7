"""Durations as people write them."""

import re

_SECONDS = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}
_SPELLED = {"m": "min", "sec": "s"}
#: A number of seconds, or numbers with units, the largest first.
_FORM = re.compile(r"(\d{1,99})|(?:\d{1,99} ?(?:d|h|min|m|sec|s) ?)+", re.ASCII | re.IGNORECASE)
_PART = re.compile(r"(\d+) ?([a-z]+)", re.IGNORECASE)

EXAMPLES = "600, 90s, 10m, 1h30m or 2d"


def read_seconds(text: str) -> int:
    """The whole seconds that a text such as one of the `EXAMPLES` says.

    Raises:
        ValueError: it is no duration.
    """
    match = _FORM.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a duration; write for example {EXAMPLES}")
    if match[1]:
        return int(match[1])
    parts = _PART.findall(text.lower())
    return sum(int(number) * _SECONDS[_SPELLED.get(unit, unit)] for number, unit in parts)


def in_words(seconds: float, units: int = 2) -> str:
    """A duration by its largest units: ``10 min``, ``1 h 30 min``, ``4.2 s`` or ``12 ms``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    left = round(seconds)
    words = []
    for unit, size in _SECONDS.items():
        number, left = divmod(left, size)
        if number:
            words.append(f"{number} {unit}")
    return " ".join(words[:units])
