"""Profiles in the ``profiles/`` folder of a bundle, and what has been measured of one that is not whole yet."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgespa.bundle import PROFILES
from edgespa.device.measure.results import Measurement, Profile
from edgespa.errors import ConfigError, DeviceError
from edgespa.system.files import expanded, open_plain, remove_abandoned_in, write_whole

MAX_PROFILE_BYTES = 32 << 20
"""They come with a bundle of whomever, and no digest covers them."""

_log = logging.getLogger(__name__)
_CACHE = "EDGESPA_CACHE"

JOURNAL_HOURS = 24.0
"""What was measured longer ago is not gone on with."""

Key = tuple[int, int, str, int, str | None, str | None, str | None, str | None]
"""Of one measurement: the round, which bundle, variant, threads, runtime, provider, arithmetic, cores."""


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
        remove_abandoned_in(folder)
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
            with open_plain(path) as stream:
                content = stream.read(MAX_PROFILE_BYTES + 1)
            if len(content) > MAX_PROFILE_BYTES:
                raise ValueError(f"it is larger than {MAX_PROFILE_BYTES >> 20} MiB")
            found.append(Profile.parse(json.loads(content), str(path)))
        except (OSError, ValueError, RecursionError, ConfigError) as error:
            _log.warning("%s is left out: %s", path, error)
    return tuple(found)


class Journal:
    """What has been measured so far, a line each, so that whatever ends a run loses one measurement at most.

    Lines are of one question: device, bundles, settings, runtimes. Whoever has saved the whole calls `forget`.

    Args:
        folder: For journals; None keeps nothing.
        fresh: What an earlier run has left is not taken over.
    """

    def __init__(self, folder: Path | None, *, fresh: bool = False) -> None:
        self._folder, self._fresh = folder, fresh
        self._path: Path | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """So many measurements are kept."""
        return self._count

    def open(self, question: Sequence[Any], keys: Sequence[Key]) -> dict[Key, Measurement]:
        """What an earlier run has measured of the same.

        Args:
            question: All that the measurements depend on, in JSON's types.
            keys: Of the measurements that are asked for.
        """
        if self._folder is None:
            return {}
        digest = hashlib.sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()[:24]
        self._path = self._folder / f"{digest}.jsonl"
        found: dict[Key, Measurement] = {}
        try:
            if self._fresh or time.time() - self._path.stat().st_mtime > JOURNAL_HOURS * 3600:
                self._path.unlink()
                return {}
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return {}
        for line in lines:
            try:
                row = json.loads(line)
                key: Any = tuple(row["key"])
                found[key] = Measurement.parse(row["measurement"], str(self._path))
            except (ValueError, LookupError, TypeError, ConfigError):
                continue  # cut while it was written
        found = {key: value for key, value in found.items() if key in set(keys)}
        self._count = len(found)
        return found

    def add(self, key: Key, measurement: Measurement) -> None:
        """Keep one measurement; where there is no space for it, the run goes on without."""
        if self._path is None:
            return
        line = json.dumps({"key": key, "measurement": measurement.model_dump()}) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._count += 1
        except OSError as error:
            _log.warning("measurements cannot be kept while they are made: %s", error)
            self._path = None

    def forget(self) -> None:
        """Remove it: the whole is saved, or is not to be gone on with."""
        if self._folder is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
        self._count = 0


def journal_folder() -> Path | None:
    """Where journals are kept; None where ``EDGESPA_CACHE=off`` keeps nothing."""
    named = os.environ.get(_CACHE)
    if named in ("", "off"):
        return None
    home = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "edgespa"
    return (expanded(named) if named else home) / "profiles"
