"""How much a server is asked for at once."""

import time
from dataclasses import dataclass

from redis import Redis


@dataclass(frozen=True, slots=True)
class Pace:
    """The sizes of what goes to a server."""

    #: COUNT of a SCAN.
    scan_count: int
    #: Heartbeats or activities that are read at once.
    values: int
    #: Keys in an ordinary batch.
    batch_keys: int
    #: Batches that are under way at once.
    batches: int


#: For a server nearby: it always has something to do, and hardly anybody has to wait for a ms.
NEAR = Pace(scan_count=750, values=200, batch_keys=150, batches=2)
#: For one that is far, and would idle while a batch is on its way; and for a cluster, where a batch is cut
#: by slots.
FAR = Pace(scan_count=2_500, values=1_000, batch_keys=500, batches=4)
#: Seconds for a round trip from which on a server counts as far: in less it does all that is under way.
FAR_S = 0.001


def pace_for(client: Redis) -> Pace:
    """The pace for a server, by the fastest of some round trips: those of a busy machine vary."""
    took_s = []
    for _trip in range(4):  # the first one connects
        started_s = time.perf_counter()
        client.time()
        took_s.append(time.perf_counter() - started_s)
    return NEAR if min(took_s) < FAR_S else FAR
