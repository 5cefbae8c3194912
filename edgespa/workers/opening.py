"""Workers as others use them: opened for a block, the same on this machine and on a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from edgespa.errors import ConfigError
from edgespa.workers.job import Ended, Job


class Workers(Protocol):
    """What takes jobs and says what came of them."""

    slots: int
    """How many jobs may run at once."""

    @property
    def running(self) -> tuple[Job, ...]:
        """Jobs that were submitted and have not ended; of those that wait for room here, none."""

    def submit(self, job: Job) -> None:
        """Take a job; it begins when there is room, and its device is free.

        Args:
            job: It.
        """

    def next(self) -> Ended:
        """What came of the job that ends next; waits for it.

        Raises:
            LookupError: None was submitted that has not ended.
        """

    def stop(self) -> list[Ended]:
        """Begin nothing more, ask what runs to end, and wait for it.

        Returns:
            What came of what ran.
        """


@contextlib.contextmanager
def open_workers(*, jobs: int = 1, ray: str | None = None, devices: Sequence[str] = ()) -> Iterator[Workers]:
    """Workers for as long as the block runs.

    Where the block is left by an error or by Ctrl-C nothing new begins, and what runs is asked to end as Ctrl-C asks:
    a training saves its state. It is waited for; Ctrl-C once more ends it where it is.

    Args:
        jobs: Processes of this machine. Each computes with the threads that its share of the cores allows.
        ray: ``auto``, ``local`` or ``HOST:PORT``: tasks of that Ray cluster instead, as many at once as it has cores.
        devices: Names of devices that this machine serves, for a cluster that is started here (``local``).

    Raises:
        ConfigError: There is no such number of processes, or no such cluster.
        MissingExtraError: Ray is not installed.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}", "leave it out for 1")
    if ray is None:
        from edgespa.workers.local import LocalWorkers

        with contextlib.closing(LocalWorkers(jobs)) as local:
            yield local
    else:
        from edgespa.workers.cluster import RayWorkers

        with contextlib.closing(RayWorkers(ray, devices)) as cluster:
            yield cluster
