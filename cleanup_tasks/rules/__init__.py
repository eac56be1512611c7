"""The rules, pure: who owns a key (`keys`), and who is stale (`staleness`)."""
