"""The command cleanup-blocking-coordination: sweeps in the foreground, no worker needed."""
