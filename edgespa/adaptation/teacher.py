"""Whose outputs a task can be distilled from: the base itself, or a task that was learned on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgespa.adaptation.loss import Teacher
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task, is_task_file

BASE = "base"


def load_teacher(spec: str, base: Base) -> Teacher:
    """The teacher of a name.

    Args:
        spec: ``base``, or a task file of the same base: most useful is one that was learned without pruning.
        base: The base that is adapted.

    Raises:
        TaskFileError: If the task file cannot be read, or is of another base; both digests are named.
    """
    if not is_task_file(spec):
        return Teacher(f"{BASE} {base.digest}", (base.whole or base).program, of_base=True)
    path = Path(spec)
    task = Task.load(path)
    base.require_digest(task.header.digest)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Teacher(f"{path.name} sha256:{digest}", task.program(base))
