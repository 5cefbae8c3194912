"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real weights and images, from ``EDGESPA_DATA`` or beside the repository; skips if it is absent."""
    folder = Path(os.environ.get("EDGESPA_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "models.py").is_file():
        pytest.skip(f"REAL DATA ABSENT: no models.py in {folder}; set EDGESPA_DATA to the folder that has it")
    return folder
