"""Workers that do their jobs in the process of the test."""

from __future__ import annotations

from collections.abc import Callable

from edgespa.workers import Ended, Failure, Job
from edgespa.workers.calling import carried_out, ended


class Here:
    """They do one job after the other, and can be made to end before one.

    Args:
        slots: Jobs that are done at a time.
        queue: More may be given.
        newest_first: Of these the last that was given is done first.
    """

    def __init__(self, slots: int, *, queue: bool, newest_first: bool) -> None:
        self.slots = slots
        self._most = None if queue else slots
        self.done: list[Job] = []
        self.before: Callable[[Job], Failure | None] = lambda job: None
        self._next = -1 if newest_first else 0
        self._left: list[Job] = []

    @property
    def running(self) -> tuple[Job, ...]:
        return tuple(self._left)

    def submit(self, job: Job) -> None:
        assert self._most is None or len(self._left) < self._most
        self._left.append(job)

    def forget(self) -> None:
        """What was given and is not done."""
        self._left.clear()

    def next(self) -> Ended:
        job = self._left.pop(self._next)
        failure = self.before(job)
        self.done.append(job)
        if failure is not None:
            return Ended(job, None, failure, 0.0, "here")
        return ended(job, carried_out(job.call, job.arguments), "here")
