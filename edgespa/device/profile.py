"""Profiles: what the files of a bundle cost where they run.

`profile_local` runs the bundle's own ``run.py`` on this machine, a fresh process for every measurement, so that load
time, first run and peak memory are those of a device that starts the model. Rounds alternate between variants (and,
with ``against``, between two bundles), because a machine drifts: only what was measured side by side is compared.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from edgespa import __version__
from edgespa.bundle import PROFILES, RUNNER, Manifest, verify_files
from edgespa.config import Strict
from edgespa.device import runner_source
from edgespa.device.host import read_conditions, read_host
from edgespa.device.results import Check, Listed, Measurement, Profile, Ratio, Skipped, VariantProfile
from edgespa.errors import ConfigError, DeviceError
from edgespa.files import write_whole

Progress = Callable[[int, int, str], None]
"""Called with what is done, the total, and what comes next in words."""

_STDERR_LINES = 8
_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer", bound=Strict)


def run_selfcheck(bundle: Path, variant: str = "all", *, threads: int = 1) -> tuple[Check, ...]:
    """Run the recorded inputs through the files of a bundle, in a process of its own.

    This edgespa's runner does it, not the bundle's: what came with a bundle cannot speak for it. In a bundle of the
    same version both are the same file.

    Args:
        bundle: The bundle's folder; its digests are not looked at here.
        variant: A variant's name, or ``"all"``.
        threads: Threads of the runtime.

    Returns:
        One result per variant. A bound that is exceeded is a result with status ``"failed"``, not an exception.

    Raises:
        DeviceError: The runner did not answer; the message has its last lines.
    """
    options = ["--selfcheck", "--variant", variant, "--threads", str(threads), "--bundle", os.path.abspath(bundle)]
    what = f"{bundle.name}: self-check of {variant}"
    with tempfile.TemporaryDirectory(prefix="edgespa-", ignore_cleanup_errors=True) as folder:
        runner = Path(folder) / RUNNER
        runner.write_bytes(runner_source())
        answer = _run(runner, options, "selfcheck", what, statuses=(0, 1))
    return tuple(_parse(Check, each, bundle.name) for each in answer["selfcheck"])


def is_own_runner(bundle: Path) -> bool:
    """Whether the runner in a bundle is the one of this edgespa, byte for byte."""
    runner = bundle / RUNNER
    return runner.is_file() and runner.read_bytes() == runner_source()


def profile_local(
    bundle: Path,
    *,
    against: Path | None = None,
    variants: Sequence[str] | None = None,
    threads: Sequence[int] = (1,),
    runs: int | None = None,
    seconds: float | None = None,
    rounds: int = 1,
    progress: Progress | None = None,
) -> Profile:
    """Measure the variants of a bundle on this machine.

    Args:
        bundle: The bundle's folder; its digests are checked first.
        against: A second bundle to compare with, measured in alternation in the same rounds.
        variants: Names to measure; None means every one whose runtime is installed. A name must be in the bundle;
            of ``against`` those are measured that it has.
        threads: Numbers of threads, each measured by itself.
        runs: At most so many inferences per process; None means 200, or no limit where ``seconds`` is given.
        seconds: Stop after so long per process (and at least 10 inferences).
        rounds: How often every measurement is repeated, in a fresh process.
        progress: Told of each process.

    Raises:
        BundleError: A bundle is damaged, or has no such variant.
        ConfigError: A number is out of range.
        DeviceError: A variant cannot run, or no runtime is installed.
    """
    for name, smallest in (("rounds", rounds), ("threads", min(threads, default=0)), ("runs", runs)):
        if smallest is not None and smallest < 1:
            raise ConfigError(f"{name} must be at least 1, not {smallest}")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ConfigError(f"seconds must be positive, not {seconds}")
    folders = [Path(os.path.abspath(each)) for each in (bundle, against) if each is not None]
    if against is not None and bundle.resolve() == against.resolve():
        raise ConfigError(f"{bundle} cannot be compared with itself", "give another bundle as baseline")
    names = _display_names(folders)
    chosen, skipped = [], []
    for index, folder in enumerate(folders):
        manifest = verify_files(folder)
        _look_at_runner(folder)
        wanted = variants if variants is None or index == 0 else _in_both(manifest, variants)
        found, missing = _runnable(folder, names[folder], manifest, wanted)
        chosen.append(found)
        skipped += missing
    if not chosen[0]:
        raise DeviceError(f"{bundle}: no variant can run here: {skipped[0].reason}", "pip install 'edgespa[onnx]'")
    order = list(dict.fromkeys([*chosen[0], *(chosen[1] if against else ())]))
    # Bundles innermost: what is compared is measured back to back.
    plan = [
        (folder, variant, count)
        for count in dict.fromkeys(threads)
        for variant in order
        for index, folder in enumerate(folders)
        if variant in chosen[index]
    ]
    options = [] if runs is None else ["--runs", str(runs)]
    options += [] if seconds is None else ["--seconds", str(seconds)]
    measured: dict[tuple[Path, str, int], list[Measurement]] = {step: [] for step in plan}
    before, done, total = read_conditions(), 0, rounds * len(plan)
    for round_ in range(rounds):
        # Every other round backwards, so that a steady drift falls on both sides of each comparison.
        for folder, variant, count in plan if round_ % 2 == 0 else plan[::-1]:
            what = f"{names[folder]}: {variant}, {count} thread{'s' if count > 1 else ''}"
            if progress:
                progress(done, total, what)
            arguments = ["--bench", "--variant", variant, "--threads", str(count), *options]
            answer = _run(folder / RUNNER, arguments, "variant", what)
            measured[folder, variant, count].append(_parse(Measurement, answer, names[folder]))
            done += 1
    if progress:
        progress(done, total, "done")
    results = sorted(measured, key=lambda step: (folders.index(step[0]), order.index(step[1]), step[2]))
    return Profile(
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        device="local",
        host=read_host(),
        before=before,
        after=read_conditions(),
        rounds=rounds,
        bundle=names[folders[0]],
        against=names[folders[1]] if against else None,
        results=tuple(VariantProfile.of(names[step[0]], measured[step]) for step in results),
        ratios=_ratios(measured, folders),
        skipped=tuple(skipped),
    )


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
            found.append(Profile.parse(json.loads(path.read_text(encoding="utf-8")), str(path)))
        except (OSError, ValueError, RecursionError, ConfigError) as error:
            _log.warning("%s is left out: %s", path, error)
    return tuple(found)


def _display_names(folders: Sequence[Path]) -> dict[Path, str]:
    names = {folder: folder.name for folder in folders}
    if len(set(names.values())) < len(folders):  # a/bundle and b/bundle
        names = {folder: f"{folder.parent.name}/{folder.name}" for folder in folders}
    if len(set(names.values())) < len(folders):
        names = {folder: str(folder) for folder in folders}
    return names


def _in_both(manifest: Manifest, variants: Sequence[str]) -> list[str]:
    there = {variant.name for variant in manifest.variants}
    return [name for name in variants if name in there]


def _runnable(
    folder: Path, name: str, manifest: Manifest, wanted: Sequence[str] | None
) -> tuple[list[str], list[Skipped]]:
    """The variants to measure, and those that are left out because their runtime is not installed."""
    for variant in wanted or ():
        manifest.variant(variant)
    answer = _run(folder / RUNNER, [], "variants", f"{name}: list of variants")
    rows = [_parse(Listed, each, name) for each in answer["variants"]]
    found, missing = [], []
    for row in rows:
        if wanted is not None and row.name not in wanted:
            continue
        if row.runtime:
            found.append(row.name)
        elif wanted is not None:
            raise DeviceError(f"{name}: {row.name} cannot run here: {row.reason}", "install its runtime")
        else:
            missing.append(Skipped(bundle=name, variant=row.name, reason=row.reason or "its runtime is not installed"))
    return found, missing


def _ratios(measured: dict[tuple[Path, str, int], list[Measurement]], folders: Sequence[Path]) -> tuple[Ratio, ...]:
    found = []
    for folder, variant, count in measured:
        other = (folders[-1], variant, count)
        if folder != folders[-1] and other in measured:
            pairs = zip(measured[folder, variant, count], measured[other], strict=True)
            values = [here.p50_ms / there.p50_ms for here, there in pairs]
            ratio = statistics.median(values)
            found.append(Ratio(variant=variant, threads=count, ratio=ratio, low=min(values), high=max(values)))
    return tuple(found)


def _run(runner: Path, options: Sequence[str], key: str, what: str, statuses: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a runner and decode the JSON on the last line of its output, an object that has this key."""
    # -P: what lies beside the runner is not to be taken for a module of the same name.
    command = [sys.executable, "-P", str(runner), *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = done.stdout.strip().splitlines()
    try:
        if done.returncode in statuses and lines and key in (answer := dict(json.loads(lines[-1]))):
            return answer
    except (ValueError, TypeError):
        pass
    code = done.returncode
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_STDERR_LINES:])
    raise DeviceError(
        f"{what}: {runner.name} {how}" + (f":\n{last}" if last else ""),
        f"run it by hand to see more: python {runner} {' '.join(options)}",
    )


def _parse(model: type[_Answer], values: dict[str, Any], name: str) -> _Answer:
    try:
        return model.parse(values, f"{name}/{RUNNER}")
    except ConfigError as error:
        raise DeviceError(
            f"{error.message}: this runner answers otherwise than edgespa {__version__} expects",
            "export the bundle again with this version",
        ) from error


def _look_at_runner(bundle: Path) -> None:
    runner = bundle / RUNNER
    if not runner.is_file():
        raise DeviceError(f"{bundle} has no {RUNNER}", "export the bundle again")
    if not is_own_runner(bundle):
        _log.warning("%s is not the runner of edgespa %s; it is run nevertheless", runner, __version__)
