"""When something was made: now, or what ``SOURCE_DATE_EPOCH`` says, so that the same inputs give the same bytes.

The variable is that of https://reproducible-builds.org/specs/source-date-epoch/: seconds since 1970.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from edgespa.errors import ConfigError

VARIABLE = "SOURCE_DATE_EPOCH"
_LAST = 253402300799
"""The end of the year 9999."""


def is_still() -> bool:
    """Whether times are said from outside: then nothing that a clock measured is recorded either."""
    return bool(os.environ.get(VARIABLE))


def made_at() -> str:
    """The time to record, as ISO 8601 to the second.

    Raises:
        ConfigError: The variable is no number of seconds.
    """
    said = os.environ.get(VARIABLE)
    if not said:
        return datetime.now(UTC).isoformat(timespec="seconds")
    if not (said.isascii() and said.isdecimal() and int(said[:20]) <= _LAST and len(said) <= len(str(_LAST))):
        raise ConfigError(
            f"{VARIABLE} is '{said[:40]}'", "give whole seconds since 1970, such as 1735689600, or leave it unset"
        )
    return datetime.fromtimestamp(int(said), UTC).isoformat(timespec="seconds")
