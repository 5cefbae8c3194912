"""An environment of its own for the runtimes: made beside its place, and put there when it works."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from edgespa.device.agent.disk import sync_path
from edgespa.device.agent.protocol import within


def environment_begin(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Remove what interrupted set-ups have left; the folder to make the environment in."""
    parent = root / "environments"
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(".*"):
        shutil.rmtree(str(left), ignore_errors=True)
    return {"folder": str(_new(root, request))}


def environment_discard(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Remove an environment that was not finished."""
    shutil.rmtree(str(_new(root, request)), ignore_errors=True)
    return {}


def environment_finish(root: Path, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    """Put an environment in its place, with a record, and let ``environment`` lead to it; others are removed."""
    new, key = _new(root, request), request["key"]
    target = within(root / "environments", key)
    with (new / "edgespa.json").open("w", encoding="utf-8") as file:
        json.dump(request["record"], file)
        file.flush()
        os.fsync(file.fileno())
    link, other = root / "environment", root / f".environment.{os.getpid()}"
    if target.exists():  # it is made again
        shutil.rmtree(str(target))
    os.replace(str(new), str(target))
    if other.is_symlink():
        other.unlink()
    other.symlink_to(Path("environments") / key)
    os.replace(str(other), str(link))
    sync_path(root)
    for path in (root / "environments").iterdir():
        if path != target:
            shutil.rmtree(str(path), ignore_errors=True)
    for path in (root / "wheels").glob("*"):
        if path.name != key:
            shutil.rmtree(str(path), ignore_errors=True)
    return {"folder": str(target)}


def _new(root: Path, request: dict[str, Any]) -> Path:
    return within(root / "environments", f".{request['key']}.new")
