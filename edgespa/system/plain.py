"""Results as plain values."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any


def to_plain(value: Any) -> Any:
    """Turn a result into what JSON has.

    Args:
        value: None, bool, int, float, str, enum, path, mapping, sequence, set, dataclass, pydantic model, or whatever
            has ``tolist`` (numpy arrays and scalars, tensors), nested at will. A float that is not finite becomes
            None, for JSON has no word for it; sets are sorted; the keys of mappings become strings.

    Returns:
        Dicts, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: Something else is in it; the message names its type.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and not isinstance(value, Enum):
        return str(value)
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return [to_plain(item) for item in sorted(value)]
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [to_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return to_plain(value.model_dump())
    if callable(getattr(value, "tolist", None)):
        return to_plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _key(key: Any) -> str:
    return key if type(key) is str else str(to_plain(key))
