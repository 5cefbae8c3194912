"""Jobs in processes of this machine."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgespa.system.stopping import held_back
from edgespa.workers.calling import ended, threads_of
from edgespa.workers.job import Ended, Job
from edgespa.workers.process import Died, Process

PATIENCE_S = 120.0
"""For what was asked to end: until the training step that it is at is done, and its state written."""
_HEED_S = 0.2
_SAME_S = 1.0


@dataclass
class _Running:
    job: Job
    process: Process


class LocalWorkers:
    """Some processes that take jobs; see `edgespa.workers.Workers`.

    What is submitted begins in that order as soon as a process is free, and the device that it measures on.

    Args:
        jobs: How many processes; they are started when there is something to do.
    """

    def __init__(self, jobs: int) -> None:
        self.slots = jobs
        self._threads = threads_of(jobs)
        self._idle: list[Process] = []
        self._waiting: list[Job] = []
        self._running: list[_Running] = []
        self._ended: queue.SimpleQueue[tuple[_Running, Ended]] = queue.SimpleQueue()

    @property
    def running(self) -> tuple[Job, ...]:
        """Jobs that have begun and not ended."""
        return tuple(each.job for each in self._running)

    @property
    def waiting(self) -> tuple[Job, ...]:
        """Jobs that have not begun."""
        return tuple(self._waiting)

    def submit(self, job: Job) -> None:
        """Take a job; it begins at once where there is room.

        Args:
            job: It.
        """
        self._waiting.append(job)
        self._begin()

    def next(self) -> Ended:
        """What came of the job that ends next; waits for it.

        Raises:
            LookupError: None was submitted that has not ended.
        """
        if not self._running:
            raise LookupError("no job is running")
        return self._take(lambda: True)

    def stop(self) -> list[Ended]:
        """Begin nothing more, ask what runs to end, and wait for it; Ctrl-C once more ends it where it is.

        Returns:
            What came of what ran.
        """
        self._waiting.clear()
        for each in self._running:
            each.process.interrupt()
        began, result = time.monotonic(), list[Ended]()
        with held_back() as again:
            while self._running:

                def patient() -> bool:
                    seconds = time.monotonic() - began
                    return seconds < PATIENCE_S and not (again.asked is not None and seconds >= _SAME_S)

                result.append(self._take(patient))
        return result

    def close(self) -> None:
        """Stop what runs, and end the processes."""
        self.stop()
        while self._idle:
            self._idle.pop().close()

    def _begin(self) -> None:
        while len(self._running) < self.slots:
            busy = {each.job.device for each in self._running} - {None}
            job = next((each for each in self._waiting if each.device not in busy), None)
            if job is None:
                return
            self._waiting.remove(job)
            running = _Running(job, self._idle.pop() if self._idle else Process(self._threads))
            self._running.append(running)
            threading.Thread(target=self._do, args=(running,), name=f"job {job.name}", daemon=True).start()

    def _do(self, running: _Running) -> None:
        began = time.monotonic()
        try:
            outcome = ended(running.job, running.process.do(running.job), running.process.where)
        except Died as death:
            seconds = time.monotonic() - began
            outcome = Ended(running.job, None, death.failure, seconds, running.process.where)
        self._ended.put((running, outcome))

    def _take(self, patient: Callable[[], bool]) -> Ended:
        while True:
            try:
                running, outcome = self._ended.get(timeout=_HEED_S)  # a signal is noticed between short waits
                break
            except queue.Empty:
                if not patient():
                    for each in self._running:
                        each.process.kill()
        self._running.remove(running)
        if outcome.failure is not None and outcome.failure.lost:
            running.process.close()
        else:
            self._idle.append(running.process)
        self._begin()
        return outcome
