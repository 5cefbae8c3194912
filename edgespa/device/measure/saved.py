"""Profiles in the ``profiles/`` folder of a bundle."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from edgespa.bundle import PROFILES
from edgespa.device.measure.results import Profile
from edgespa.errors import ConfigError, DeviceError
from edgespa.files import write_whole

MAX_PROFILE_BYTES = 32 << 20
"""They come with a bundle of whomever, and no digest covers them."""

_log = logging.getLogger(__name__)


def save_profile(profile: Profile, bundle: Path) -> Path:
    """Write a profile into ``profiles/`` of a bundle, whole or not at all; earlier ones stay.

    Returns:
        The file, ``profiles/<UTC time>-<device>.json``.

    Raises:
        DeviceError: The folder cannot be written.
    """
    folder = bundle / PROFILES
    stamp = datetime.fromisoformat(profile.created).astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    text = json.dumps(profile.model_dump(), indent=2, allow_nan=False) + "\n"
    try:
        folder.mkdir(exist_ok=True)
        number, target = 1, folder / f"{stamp}-{profile.device}.json"
        while target.exists():
            number += 1
            target = folder / f"{stamp}-{profile.device}-{number}.json"
        write_whole(target, text.encode())
    except OSError as error:
        raise DeviceError(
            f"cannot save the profile in {folder}: {error.strerror or error}",
            "make the folder writable, or pass --no-save and keep the output of --json",
        ) from error
    return target


def read_profiles(bundle: Path) -> tuple[Profile, ...]:
    """The profiles that lie in a bundle's folder, oldest first; what is none of this version's is left out and told."""
    found = []
    for path in sorted((bundle / PROFILES).glob("*.json")):
        try:
            if path.stat().st_size > MAX_PROFILE_BYTES:
                raise ValueError(f"it is larger than {MAX_PROFILE_BYTES >> 20} MiB")
            found.append(Profile.parse(json.loads(path.read_text(encoding="utf-8")), str(path)))
        except (OSError, ValueError, RecursionError, ConfigError) as error:
            _log.warning("%s is left out: %s", path, error)
    return tuple(found)
