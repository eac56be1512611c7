"""``python -m cleanup_tasks`` is the command too."""

from cleanup_tasks.cli import main

main(prog_name="cleanup-blocking-coordination")
