"""What is to be done, and what came of it: plain values, which JSON carries to any process or machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CALL = re.compile(r"edgespa(\.[A-Za-z_]\w*)+:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Job:
    """One call of a function of edgespa's own.

    Attributes:
        name: For messages and progress.
        call: ``edgespa.module:function``. A job never names a user's file: what such a file may run is decided by the
            function, as it is for any call.
        arguments: Its keywords, values that JSON has. Paths are absolute: a worker may have another current folder.
        device: The name of the device that it measures on; one job at a time does.
        reads: Those of its arguments that are specs of files or folders which it reads; absolute. A node of a cluster
            that does not see them gets copies.
        folder: The folder that it writes to; in its arguments are paths in it. None where it writes nothing.
        writes: Names below that folder of files and folders that it makes, or goes on with; what says that something
            is done comes last.

    Raises:
        ValueError: The call is no function of edgespa by its name, or an argument is nothing that JSON has.
    """

    name: str
    call: str
    arguments: Mapping[str, Any]
    device: str | None = None
    reads: tuple[str, ...] = ()
    folder: str | None = None
    writes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _CALL.fullmatch(self.call):
            raise ValueError(f"the job '{self.name}' calls {self.call!r}, which is no function of edgespa")
        try:
            kept = json.loads(json.dumps(dict(self.arguments), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the job '{self.name}' has an argument that JSON has no form for: {error}") from error
        if kept != dict(self.arguments):
            raise ValueError(f"the job '{self.name}' has an argument that JSON changes; give lists for tuples")


@dataclass(frozen=True)
class Failure:
    """Why a job gave nothing.

    Attributes:
        message: What failed, and where.
        hint: What to do next.
        own: It is an error of edgespa's own tree, meant for the user; else it is a fault, and `traceback` says where.
        kind: The name of the error's class; empty where the process ended without a word.
        traceback: Of the worker.
        stopped: It was asked to end, and did: nothing is wrong with it.
        lost: Its process or machine ended under it.
    """

    message: str
    hint: str | None = None
    own: bool = True
    kind: str = ""
    traceback: str = ""
    stopped: bool = False
    lost: bool = False


@dataclass(frozen=True)
class Ended:
    """What came of a job.

    Attributes:
        job: Which.
        value: What its function gave, as plain values (`edgespa.system.plain.to_plain`); None where it failed.
        failure: None where it did not.
        seconds: From the beginning of the call to its end, in the worker; of one that was lost, until that was seen.
        where: ``process 4711``, or the node of the cluster.
        said: What it logged meanwhile, notes and warnings: ``(level, text)``, the last `edgespa.workers.calling.MOST`.
    """

    job: Job
    value: Any
    failure: Failure | None
    seconds: float
    where: str
    said: tuple[tuple[int, str], ...] = ()
