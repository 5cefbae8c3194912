"""What a bundle says of where it was made, without the folders of the machine: a stranger learns no names from it."""

from __future__ import annotations

import json
import re
from typing import Any

from edgespa.bundle.manifest import Manifest

_FOLDERS = re.compile(r"(?<![\w./~])~?/(?:[^/\s:'\"`]+/)+(?=[^/\s])")
"""An absolute path or one from a home, up to its last part; not the middle of a relative path or of an address."""
_ONE = re.compile(r"(?P<before>(?:[\w ,.]* of )?(?:[a-z]+:)?)(?P<path>~?/[^,;\n]*)")
_TOLD = ("data", "inputs")
"""Fields of files and measures whose text names data."""


def without_places(manifest: Manifest) -> Manifest:
    """A manifest in which models, weights and data have the last part of their path, where that was absolute.

    Args:
        manifest: As it was made.
    """
    values = json.loads(manifest.model_dump_json())
    for name in ("base", "provenance"):
        values[name] = _everywhere(values[name])
    for name in ("variants", "reference_accuracy", "sizes"):
        values[name] = _in_fields(values[name])
    return Manifest.model_validate_json(json.dumps(values), strict=True)


def without_folders(text: str) -> str:
    """A text that may name a file, such as a model's spec, without the folders that the file lies in.

    Args:
        text: Any.
    """
    # One path to the end is cut whole: a folder's name may have a space.
    if (found := _ONE.fullmatch(text)) is not None and not found["path"].startswith("//"):
        return found["before"] + (found["path"].rstrip("/").rpartition("/")[2] or "/")
    return _FOLDERS.sub("", text)


def _everywhere(value: Any) -> Any:
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, dict):
        return {key: _everywhere(each) for key, each in value.items()}
    return [_everywhere(each) for each in value] if isinstance(value, list) else value


def _in_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _everywhere(each) if key in _TOLD and isinstance(each, str) else _in_fields(each)
            for key, each in value.items()
        }
    return [_in_fields(each) for each in value] if isinstance(value, list) else value
