"""What the server says that it did."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from redis import Redis

#: Commands of the benchmark itself.
OURS = {b"CONFIG", b"DEBUG", b"INFO", b"SCRIPT", b"SLOWLOG"}


@dataclass(slots=True)
class ServerCost:
    """Figures of INFO and SLOWLOG; of a cluster the sums, and the longest command of any node."""

    #: Seconds of the main thread's CPU.
    main_thread_s: float = 0.0
    #: Seconds; 0 where none took a tenth of a millisecond.
    longest_s: float = 0.0
    #: Its name.
    longest: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    #: Command -> how often it was called, scripts' own calls too.
    calls: Counter[str] = field(default_factory=Counter)
    #: Command -> seconds in it. A script's commands count in the script too.
    seconds: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, client: Redis) -> Self:
        """Ask one server."""
        info: dict[str, Any] = client.info("everything")
        commands = {name[8:]: row for name, row in info.items() if name.startswith("cmdstat_")}
        slow = [entry for entry in client.slowlog_get(100_000) if entry["command"].split()[0] not in OURS]
        longest = max(slow, key=lambda entry: int(entry["duration"]), default=None)
        return cls(
            main_thread_s=info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"],
            longest_s=longest["duration"] / 1e6 if longest else 0.0,
            longest=longest["command"].split()[0].decode() if longest else "",
            bytes_in=info["total_net_input_bytes"],
            bytes_out=info["total_net_output_bytes"],
            calls=Counter({name: row["calls"] for name, row in commands.items()}),
            seconds=Counter({name: row["usec"] / 1e6 for name, row in commands.items()}),
        )

    @classmethod
    def sum(cls, costs: Iterable[Self]) -> Self:
        """What several servers did together."""
        total = cls()
        for cost in costs:
            total.main_thread_s += cost.main_thread_s
            if cost.longest_s > total.longest_s:
                total.longest_s, total.longest = cost.longest_s, cost.longest
            total.bytes_in += cost.bytes_in
            total.bytes_out += cost.bytes_out
            total.calls += cost.calls
            total.seconds += cost.seconds
        return total
