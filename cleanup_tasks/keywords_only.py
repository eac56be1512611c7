"""Celery tasks whose arguments are all given by keyword, and are checked where they are given."""

from typing import Any

from celery import Task

from cleanup_tasks.configuration.arguments import check_arguments


class KeywordsOnly(Task):
    """Refuses wrong arguments at the caller, before a message is sent.

    A chain, a link or a chord passes on the result of the task before, which is ignored. A positional
    argument of anybody else is refused: ``cleanup.delay(True)`` may have meant a dry run. So it is where a
    signature is made, for in a chain nobody could tell it from a result later.
    """

    def signature(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """See celery.Task.signature, which `s` and `si` call; raises TypeError for arguments by position."""
        self.refuse(args)
        return super().signature(args, *rest, **options)

    subtask = signature

    def apply(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """See celery.Task.apply; raises TypeError for arguments by position."""
        self.refuse(args)
        return super().apply(args, *rest, **options)

    def apply_async(self, args: Any = None, kwargs: Any = None, **rest: Any) -> Any:
        """See celery.Task.apply_async; raises as the task does for an argument that is not what it should be.

        Celery gives the id of the task before, or for a chain within a canvas that of the first of all, to
        what it sends with a result. The results of a chord come without, as a list. None of them is sent on:
        a message of Celery's protocol 1 does not say that there was a task before.
        """
        if args and len(args) == 1:
            is_of_chord = rest.get("task_id") and isinstance(args[0], list)
            args = () if rest.get("parent_id") or rest.get("root_id") or is_of_chord else args
        self.refuse(args)
        check_arguments(**(kwargs or {}))
        return super().apply_async(args, kwargs, **rest)

    def refuse(self, args: Any) -> None:
        """Raise TypeError if there are any arguments by position."""
        if args:
            raise TypeError(
                f"{self.name} takes keyword arguments only, as in dry_run=True; nothing was touched"
            )
