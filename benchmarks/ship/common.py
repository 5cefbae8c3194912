"""What both scripts need: the tests' sshd and emulated Pi, and rows that stay."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"


def loaded(name: str, path: Path) -> Any:
    """A module by its path: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


sshd = loaded("bench_sshd", ROOT / "tests" / "device" / "sshd.py")
pi = loaded("bench_pi", ROOT / "tests" / "arm64" / "pi.py")


def rows(name: str) -> list[dict[str, Any]]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(name: str, row: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("a") as file:
        file.write(json.dumps(row) + "\n")
