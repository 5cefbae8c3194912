"""What a Python user has at hand in the place of a spec: a module, a data set."""

from __future__ import annotations

from typing import Any

PREFIX = "python:"


class Given(str):
    """Reads as a spec, ``python:ResNet``, wherever one is recorded or told, and carries the thing itself.

    Two of the same name are two.

    Args:
        value: The thing.

    Attributes:
        value: The thing.
    """

    value: Any

    def __new__(cls, value: Any) -> Given:
        """A name for a thing, by its type."""
        plain = isinstance(value, (tuple, list)) or hasattr(value, "__array__")
        given = super().__new__(cls, f"{PREFIX}{'arrays' if plain else type(value).__name__}")
        given.value = value
        return given

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)
