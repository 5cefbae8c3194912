"""Findings in a file: JSON with a format and a version, written whole, read strictly and up to a size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from edgespa import __version__
from edgespa.config import Strict
from edgespa.errors import ConfigError
from edgespa.system.bounds import readable
from edgespa.system.files import open_plain, write_whole

MAX_BYTES = 32 << 20
"""Of a file of findings, which may be anybody's."""
MAX_ROWS = 10_000
"""Of any list in it."""
MAX_FILES = 1_000
"""Of files that are listed by name."""
MOST_CLASSES = 1 << 15


class Finding(Strict):
    """What a file holds.

    Attributes:
        format: Which kind of finding it is.
        format_version: Of the format.
        edgespa: The version that found it.
    """

    FORMAT: ClassVar[str]
    format: str
    format_version: int
    edgespa: str = __version__

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all.

        Args:
            path: Of it; what is there is replaced.

        Raises:
            OSError: It cannot be written.
        """
        write_whole(path, (json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            ConfigError: It cannot be read, is too large, or holds something else.
        """
        again = "name a file that edgespa wrote, or make it again"
        try:
            with open_plain(path) as stream:
                content = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}", again) from error
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_BYTES >> 20} MiB", again)
        try:
            values: Any = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no JSON: {error}", again) from error
        if not isinstance(values, dict) or values.get("format") != cls.FORMAT:
            raise ConfigError(f"{path} holds no {cls.FORMAT}", again)
        if values.get("format_version") != cls.model_fields["format_version"].default:
            raise ConfigError(
                f"{path} is of version {str(values.get('format_version'))[:20]} of its format",
                "read it with the edgespa that wrote it, or make it again with this one",
            )
        return cls.parse(values, str(path))


def file_name(text: str) -> str:
    """The name of a file as it can be shown and written, its end kept where it is long."""
    plain = readable(text)
    return plain if len(plain) <= _LONGEST else f"...{plain[-_LONGEST + 3 :]}"


def without_place(file: str, why: str) -> str:
    """What is the matter with a file, without its name, which stands beside it.

    Args:
        file: Its path below the data set's.
        why: A sentence that begins with its whole path, or is about another file.
    """
    before, found, rest = why.partition(file)
    return rest.lstrip(": ").removeprefix("is ") if found and (not before or before[-1] == "/") else why


_LONGEST = 400
