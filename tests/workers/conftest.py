"""Jobs that workers of the tests can call: a job's function has to be one of edgespa's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgespa.workers import Job

_FOUND = """
import importlib.util, sys


class Jobs:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "edgespa.jobs_of_tests":
            return importlib.util.spec_from_file_location(name, {file!r})


sys.meta_path.append(Jobs)
"""


@pytest.fixture
def jobs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Makes a job of a function of ``jobs.py``, which every process that is started from here finds."""
    folder = tmp_path_factory.mktemp("found")
    (folder / "sitecustomize.py").write_text(_FOUND.format(file=str(Path(__file__).with_name("jobs.py"))))
    root = Path(__file__).resolve().parents[2]
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(root), *([before] if before else [])]))

    def job(function: str, name: str = "job", device: str | None = None, **arguments: Any) -> Job:
        return Job(name, f"edgespa.jobs_of_tests:{function}", arguments, device)

    return job
