"""What the converters of both formats share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from edgespa.errors import MissingExtraError

RANGES = ("minmax", "percentile")  # where the range of an int8 activation ends
PERCENTILE = 99.99
PERCENTILE_SAMPLES = 24  # percentiles need the values of all activations at once


def require(packages: Iterable[str], extra: str) -> None:
    """Say at once if a package is missing, without importing any.

    Raises:
        MissingExtraError: With the extra to install.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)
