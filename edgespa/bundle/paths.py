"""The files of a bundle: those that have a name of their own, and what a path among them may be."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PureWindowsPath
from typing import Annotated

from pydantic import AfterValidator

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
PROFILES = "profiles"
SELFCHECK = "selfcheck.npz"
LABELS = "labels.txt"
RUNNER = "run.py"

MAX_PATH_BYTES = 100
"""Of a file in a bundle: what a plain tar header has room for."""


def path_problem(text: str) -> str | None:
    """Why a text cannot be the path of a file in a bundle; None where it can."""
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in text or PureWindowsPath(text).drive:
        return "is not a relative path inside the bundle"
    if not text.isprintable():
        return "has characters that cannot be printed"
    if len(text.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    return None


def _safe_path(text: str) -> str:
    if problem := path_problem(text):
        raise ValueError(f"{text!r} {problem}")
    return text


RelativePath = Annotated[str, AfterValidator(_safe_path)]


def is_unlisted(path: str) -> bool:
    """Whether a file stands outside the manifest's list: the manifest, its signature, the profiles."""
    return path in (MANIFEST, SIGNATURE) or path.split("/")[0] == PROFILES


def refuse_collisions(paths: Iterable[str]) -> None:
    """No path may be a folder of another, or the same as another where capitals or accents do not count."""
    taken: dict[str, str] = {}
    for path in paths:
        folded = unicodedata.normalize("NFC", path).casefold()
        other = taken.setdefault(folded, path)
        if other != path:
            raise ValueError(f"'{path}' and '{other}' are one file where capitals do not count")
    for folded, path in taken.items():
        parts = folded.split("/")
        for count in range(1, len(parts)):
            if (above := "/".join(parts[:count])) in taken:
                raise ValueError(f"'{path}' lies in '{taken[above]}', which is a file or not for the list")
