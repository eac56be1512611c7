"""``python -m tests.churn --minutes 60``: on a server for half of the time, and on a cluster."""

import argparse
import json
import random
import sys

from tests.churn.churn import cluster, standalone

PLACES = {"server": standalone, "cluster": cluster}


def main() -> None:
    """Say what came of it; the exit status is 1 where a living coordinator lost something."""
    parser = argparse.ArgumentParser(description="A fleet that lives and dies while it is swept.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--on", choices=PLACES, action="append", help="only there; by default on both")
    arguments = parser.parse_args()
    chosen = arguments.on or list(PLACES)
    failed = False
    for name in chosen:
        print(f"{name}, seed {arguments.seed}", flush=True)
        outcome = PLACES[name](60 * arguments.minutes / len(chosen), arguments.seed)
        print(json.dumps(outcome.counts, indent=2))
        print(outcome.told(), flush=True)
        failed = failed or not outcome.is_good
    sys.exit(failed)


if __name__ == "__main__":
    main()
