"""Where jobs run: processes of this machine, or the tasks of a Ray cluster; the same functions in both."""

from edgespa.workers.job import Ended, Failure, Job
from edgespa.workers.opening import Workers, open_workers

__all__ = ["Ended", "Failure", "Job", "Workers", "open_workers"]
