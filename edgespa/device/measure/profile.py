"""Profiles: what the files of a bundle cost where they run.

`profile` runs edgespa's own ``run.py`` on a device, a fresh process for every measurement, so that load time, first run
and peak memory are those of a device that starts the model. Rounds alternate between variants (and, with
``against``, between two bundles), because a machine drifts: only what was measured side by side is compared. What was
throttled, slowed down or swapping meanwhile is said to be: `edgespa.device.measure.judge`.
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from edgespa import __version__
from edgespa.bundle import MANIFEST, Manifest, verify_files
from edgespa.device.board import LOCAL, Device, load_device
from edgespa.device.host import Conditions, Facts
from edgespa.device.inventory import read_facts, runtime_python, try_providers
from edgespa.device.link.payload import Payload
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.device.measure.answers import is_own_runner, look_at_runner, run_selfcheck
from edgespa.device.measure.estimate import estimate_bundle
from edgespa.device.measure.results import Check, Estimate, Measurement, Profile, Proved, Ratio, Skipped, VariantProfile
from edgespa.device.measure.saved import Journal, Key, read_profiles, save_profile
from edgespa.device.measure.site import Site, cool_down, prepare
from edgespa.device.providers import CPU, for_format, full_name
from edgespa.device.runner.engines import provider_arithmetics
from edgespa.device.runner.runtimes import RUNTIMES
from edgespa.errors import ConfigError, DeviceError, UnreachableError
from edgespa.system.quiet import NOTE
from edgespa.system.started import extras_of

__all__ = ["Settings", "is_own_runner", "profile", "profile_local", "read_profiles", "run_selfcheck", "save_profile"]

Progress = Callable[[int, int, str], None]
"""Called with what is done, the total, and what comes next in words."""

LOCK = "measure"
FLOAT = "fp32"
ARITHMETICS = (FLOAT, "bf16", "fp16")
"""In which layers in float32 may be computed."""
ALL = "all"
"""The runtimes that are there."""
_Where = tuple[str | None, str | None, str | None]
"""A runtime, a provider of it, and in which numbers it computes; None for the runner's own choice."""
_log = logging.getLogger(__name__)
_MIN_SAMPLE_S, _SAMPLES = 1.0, 300


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        variants: Names to measure; None means every one whose runtime is there. A name must be in the bundle; of a
            bundle to compare with those are measured that it has.
        threads: Numbers of threads, each measured by itself.
        runtimes: Each measured by itself, by the names of their packages; ``all`` that are there; none for the usual
            one of each format.
        arithmetics: In which numbers float32 is computed: ``fp32``, ``bf16``, ``fp16``, as far as a runtime can there;
            none for all where ``runtimes`` are named, else for float32.
        providers: What computes, each measured by itself, see `edgespa.device.providers`; none for the CPU.
        runs: At most so many inferences per process; None means 200, or no limit where a time is given.
        seconds: Stop after so long per process (and at least 10 inferences).
        duration: Likewise, and the sensors are read meanwhile.
        cooldown: Before each process, wait until the device is as cool as at the beginning, at most so many seconds.
        rounds: How often every measurement is repeated, in a fresh process.
        trust: The bundles' own run.py measures them, whoever wrote it.
        by_layer: What each operator of a file takes, too, in a session of its own behind the runs.
    """

    variants: Sequence[str] | None = None
    threads: Sequence[int] = (1,)
    runtimes: Sequence[str] = ()
    arithmetics: Sequence[str] = ()
    providers: Sequence[str] = ()
    runs: int | None = None
    seconds: float | None = None
    duration: float | None = None
    cooldown: float | None = None
    rounds: int = 1
    trust: bool = False
    by_layer: bool = False

    def check(self) -> None:
        """Refuse numbers that are out of range.

        Raises:
            ConfigError: One is.
        """
        for name, smallest in (("rounds", self.rounds), ("threads", min(self.threads, default=0)), ("runs", self.runs)):
            if smallest is not None and smallest < 1:
                raise ConfigError(f"{name} must be at least 1, not {smallest}")
        for name in ("seconds", "duration", "cooldown"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be positive, not {value}")
        if self.seconds is not None and self.duration is not None:
            raise ConfigError("seconds and duration exclude each other", "duration reads the sensors meanwhile")
        for_format("onnx", self.providers)
        known = [each.name for each in RUNTIMES]
        if unknown := [name for name in self.runtimes if name not in (ALL, *known)]:
            raise ConfigError(f"there is no runtime '{unknown[0]}'", f"write one of {', '.join(known)}, or {ALL}")
        if unknown := [name for name in self.arithmetics if name not in ARITHMETICS]:
            raise ConfigError(f"there is no arithmetic '{unknown[0]}'", f"write one of {', '.join(ARITHMETICS)}")

    def options(self) -> list[str]:
        """Of the runner, the same for all measurements."""
        seconds = self.duration if self.duration is not None else self.seconds
        options = [] if self.runs is None else ["--runs", str(self.runs)]
        options += [] if seconds is None else ["--seconds", str(seconds)]
        return options + (["--by-layer"] if self.by_layer else [])

    @property
    def sample_s(self) -> float | None:
        """How often the sensors are read while a process runs."""
        return None if self.duration is None else max(_MIN_SAMPLE_S, self.duration / _SAMPLES)


@dataclass(frozen=True)
class _Step:
    """One measurement: which bundle (0, or 1 for what it is compared with), and how."""

    side: int
    variant: str
    threads: int
    runtime: str | None
    provider: str | None
    arithmetic: str | None

    @property
    def how(self) -> tuple[str, int, str | None, str | None, str | None]:
        return self.variant, self.threads, self.runtime, self.provider, self.arithmetic

    @property
    def is_extra(self) -> bool:
        """Whether it is one more way beside the usual one: the others are measured also where it fails."""
        return self.runtime is not None or self.arithmetic is not None

    def words(self, name: str) -> str:
        more = "".join(f", {each}" for each in (self.runtime, self.provider, self.arithmetic) if each)
        return f"{name}: {self.variant}, {self.threads} thread{'s' if self.threads > 1 else ''}{more}"


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
    """Measure the variants of a bundle on this machine: `profile` with the most usual settings."""
    settings = Settings(variants=variants, threads=threads, runs=runs, seconds=seconds, rounds=rounds)
    settings.check()
    with connect(load_device(LOCAL)) as connection:
        return profile(bundle, connection, settings, against=against, progress=progress)


def profile(
    bundle: Path,
    connection: Connection,
    settings: Settings | None = None,
    *,
    against: Path | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Profile:
    """Measure the variants of a bundle on a device.

    Args:
        bundle: The bundle's folder; its digests are checked first.
        connection: To the device.
        settings: What is measured, and how.
        against: A second bundle to compare with, measured in alternation in the same rounds.
        progress: Told of each process.
        journal: Keeps each measurement; what it has of an earlier run is taken over. None: nothing is kept.

    Raises:
        BundleError: A bundle is damaged, or has no such variant.
        ConfigError: A number is out of range.
        DeviceError: A variant cannot run, no runtime is there, or somebody else measures there.
        UnreachableError: The device cannot be reached, or the connection broke.
    """
    settings = settings or Settings()
    settings.check()
    if against is not None and bundle.resolve() == against.resolve():
        raise ConfigError(f"{bundle} cannot be compared with itself", "give another bundle as baseline")
    folders = [Path(os.path.abspath(each)) for each in (bundle, against) if each is not None]
    manifests = [verify_files(folder) for folder in folders]
    for folder in folders if settings.trust else ():
        look_at_runner(folder)
    for variant in settings.variants or ():
        manifests[0].variant(variant)
    if connection.device.is_local:
        return _profile(folders, manifests, connection, settings, progress, journal or Journal(None))
    with connection.lock(LOCK, "another edgespa measures there"):  # two at once would measure each other
        return _profile(folders, manifests, connection, settings, progress, journal or Journal(None))


def _profile(
    folders: Sequence[Path],
    manifests: Sequence[Manifest],
    connection: Connection,
    settings: Settings,
    progress: Progress | None,
    journal: Journal,
) -> Profile:
    facts = read_facts(connection)
    names = _display_names(folders)
    python = runtime_python(connection, facts)
    tell = progress or (lambda done, total, text: None)
    sites = [
        prepare(connection, python, folder, manifest, name, partial(_tell_sending, tell, name), trusted=settings.trust)
        for folder, manifest, name in zip(folders, manifests, names, strict=True)
    ]
    plan, skipped = _plan(sites, manifests, settings, _unusable(connection, python, settings.providers))
    measured: dict[_Step, list[Measurement]] = {step: [] for step in plan}
    in_order: list[Measurement] = []
    failed: dict[_Step, str] = {}
    total = settings.rounds * len(plan)
    earlier = _earlier(journal, plan, settings, connection.device, facts, folders)
    for round_ in range(settings.rounds):
        # Every other round backwards, so that a steady drift falls on both sides of each comparison.
        for step in plan if round_ % 2 == 0 else plan[::-1]:
            what = step.words(names[step.side])
            key: Key = (round_, step.side, *step.how)
            if key in earlier:
                in_order.append(earlier[key])
                measured[step].append(earlier[key])
                continue
            if any(other.how == step.how for other in failed):
                continue
            tell(len(in_order), total, what)
            if settings.cooldown and in_order:
                cool_down(connection, _state(in_order[0].before).temperature_c, settings.cooldown)
            try:
                in_order.append(_measure(sites[step.side], step, settings, what))
            except UnreachableError:
                raise
            except DeviceError as error:
                if not step.is_extra:
                    raise
                failed[step] = error.message
                continue
            measured[step].append(in_order[-1])
            journal.add(key, in_order[-1])
    if not in_order:
        raise DeviceError(
            f"{names[0]}: nothing could be measured: {next(iter(failed.values()))}", "try another --runtime"
        )
    tell(total, total, "done")
    skipped += [
        Skipped(bundle=names[step.side], variant=step.variant, reason=reason) for step, reason in failed.items()
    ]
    measured = {step: rounds for step, rounds in measured.items() if not any(other.how == step.how for other in failed)}
    results = sorted(measured, key=partial(_order, plan))
    return Profile(
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        device=connection.device.name,
        emulated=connection.device.emulated,
        host=facts.host(),
        before=_state(in_order[0].before),
        after=_state(in_order[-1].after),
        rounds=settings.rounds,
        bundle=names[0],
        against=names[1] if len(names) > 1 else None,
        results=tuple(VariantProfile.of(names[step.side], measured[step]) for step in results),
        ratios=_ratios(measured),
        skipped=tuple(skipped),
        estimates=_estimates(connection.device, facts, folders[0], manifests[0], settings),
        bytes_sent=sum(site.sent.bytes_sent for site in sites),
        proofs=_proofs(sites[0], measured, tell) if settings.runtimes or settings.providers else (),
    )


def _earlier(
    journal: Journal,
    plan: Sequence[_Step],
    settings: Settings,
    device: Device,
    facts: Facts,
    folders: Sequence[Path],
) -> dict[Key, Measurement]:
    """What an interrupted run has measured of the same; of what is compared, only where both sides were."""
    digests = [Payload.of(folder / MANIFEST).sha256 for folder in folders]
    runtimes = facts.environment.get("key") if facts.environment else None
    question = [__version__, device.name, device.host, facts.host().model_dump(), runtimes, digests, vars(settings)]
    keys: list[Key] = [(round_, step.side, *step.how) for round_ in range(settings.rounds) for step in plan]
    found = journal.open(question, keys)
    wanted = set(keys)
    whole = {
        key: value
        for key, value in found.items()
        if (other := (key[0], 1 - key[1], *key[2:])) not in wanted or other in found
    }
    if whole:
        _log.log(NOTE, "%s: %d of %d measurements of an interrupted run are taken over; --again measures all anew",
                 device.name, len(whole), len(keys))  # fmt: skip
    return whole


def _state(found: Conditions | None) -> Conditions:
    """The state that a measurement of `Site.measure` always has."""
    assert found is not None
    return found


def _estimates(
    device: Device, facts: Facts, bundle: Path, manifest: Manifest, settings: Settings
) -> tuple[Estimate, ...]:
    """None for a machine that is another one than its profile says."""
    if device.machine not in (None, facts.machine):
        _log.warning("%s: the machine is %s, its profile says %s", device.name, facts.machine, device.machine)
        return ()
    return estimate_bundle(device, bundle, manifest, settings.threads)


def _measure(site: Site, step: _Step, settings: Settings, what: str) -> Measurement:
    options = ["--variant", step.variant, "--threads", str(step.threads)]
    options += ["--runtime", step.runtime] if step.runtime else []
    options += ["--provider", step.provider] if step.provider else []
    options += ["--arithmetic", step.arithmetic] if step.arithmetic else []
    seconds = settings.duration or settings.seconds or 0.0
    return site.measure([*options, *settings.options()], what, seconds=seconds, sample_s=settings.sample_s)


def _proofs(site: Site, measured: Mapping[_Step, Sequence[Measurement]], tell: Progress) -> tuple[Proved, ...]:
    """The self-check of each variant in each way that it was measured in."""
    found: dict[tuple[str, str, str, str | None], Proved] = {}
    for step, rounds in measured.items():
        name, provider, numbers = rounds[0].runtime.partition(" ")[0], rounds[0].provider, rounds[0].arithmetic
        key = step.variant, name, provider, numbers
        if step.side or key in found:
            continue
        what = f"{site.name}: self-check of {step.variant} in {name}"
        tell(len(measured), len(measured), what)
        options = ["--arithmetic", step.arithmetic] if step.arithmetic else []
        options += ["--provider", step.provider] if step.provider else []
        try:
            check = site.check(["--variant", step.variant, "--runtime", name, *options], what)
        except UnreachableError:
            raise
        except DeviceError as error:  # what was measured is not lost by it
            check = Check(name=step.variant, status="failed", runtime=None, failures=(error.message,))
        found[key] = Proved(
            variant=step.variant,
            runtime=name,
            arithmetic=numbers,
            provider=provider,
            holds=check.status == "passed",
            component_error=check.component_error,
            failures=check.failures,
        )
    return tuple(found.values())


def _unusable(connection: Connection, python: Sequence[str], asked: Sequence[str]) -> dict[str, str]:
    """The providers that are asked for and do not compute there, and why: each is tried, for a list proves nothing."""
    wanted = [name for name in dict.fromkeys(full_name(each) for each in asked) if name != CPU]
    if not wanted:
        return {}
    tried = {each.provider: each for each in try_providers(connection, python) if each.runtime == "onnxruntime"}
    reasons = {name: tried[name].error if name in tried else "its runtime has no such provider" for name in wanted}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _plan(
    sites: Sequence[Site], manifests: Sequence[Manifest], settings: Settings, unusable: Mapping[str, str]
) -> tuple[list[_Step], list[Skipped]]:
    """What is measured in a round, in order, and what is left out."""
    chosen: list[dict[str, tuple[_Where, ...]]] = []
    skipped: list[Skipped] = []
    for side, (site, manifest) in enumerate(zip(sites, manifests, strict=True)):
        wanted = settings.variants
        if wanted is not None and side:
            there = {variant.name for variant in manifest.variants}
            wanted = [name for name in wanted if name in there]
        found, missing = _runnable(site, wanted, settings, unusable)
        chosen.append(found)
        skipped += missing
    if not chosen[0]:
        where = "here" if sites[0].connection.device.is_local else f"on {sites[0].connection.device.name}"
        install = (
            f"pip install 'edgespa[{extras_of([each.variant for each in skipped], settings.runtimes)}]'"
            if sites[0].connection.device.is_local
            else f"edgespa devices setup {sites[0].connection.device.asked}"
        )
        raise DeviceError(f"{sites[0].name}: no variant can run {where}: {skipped[0].reason}", install)
    order = dict.fromkeys(name for found in chosen for name in found)
    # Bundles innermost: what is compared is measured back to back.
    plan = [
        _Step(side, variant, count, *where)
        for count in dict.fromkeys(settings.threads)
        for variant in order
        for where in dict.fromkeys(each for found in chosen for each in found.get(variant, ()))
        for side, found in enumerate(chosen)
        if where in found.get(variant, ())
    ]
    return plan, skipped


def _runnable(
    site: Site, wanted: Sequence[str] | None, settings: Settings, unusable: Mapping[str, str]
) -> tuple[dict[str, tuple[_Where, ...]], list[Skipped]]:
    """The variants to measure with their runtimes and providers, and those that are left out."""
    found: dict[str, tuple[_Where, ...]] = {}
    missing = []
    providers = settings.providers
    for row in site.list_variants():
        if wanted is not None and row.name not in wanted:
            continue
        asked = for_format(row.format, providers)
        fitting = tuple(each for each in asked if each not in unusable)
        reason = None if asked else f"none of the providers {', '.join(providers)} runs {row.format} files"
        failing = [f"{each}: {unusable[each]}" for each in asked if each is not None and each in unusable]
        others = [each for each in row.others if each in settings.runtimes or ALL in settings.runtimes]
        usual = row.runtime is not None and _is_asked(row.runtime, settings.runtimes)
        if row.runtime is None:
            reason = row.reason or "its runtime is not installed"
        elif not usual and not others:
            reason = f"none of the runtimes {', '.join(settings.runtimes)} is there for {row.format} files"
        elif failing and not fitting:
            reason = "; ".join(failing)
        elif failing:
            missing += [Skipped(bundle=site.name, variant=row.name, reason=each) for each in failing]
        if reason is None:
            name = row.runtime.partition(" ")[0] if row.runtime else ""
            ways: list[_Where] = []
            in_float = row.precision != "int8"
            for each in fitting if usual else ():
                there = row.arithmetics.get(name, ()) if each in (None, CPU) else provider_arithmetics(each)
                ways += [(None, each, numbers) for numbers in _numbers(there if in_float else (), settings)]
            for each in others:
                there = row.arithmetics.get(each, ())
                ways += [(each, None, numbers) for numbers in _numbers(there if in_float else (), settings)]
            found[row.name] = tuple(ways)
        elif wanted is not None:
            where = "here" if site.connection.device.is_local else f"on {site.connection.device.name}"
            raise DeviceError(f"{site.name}: {row.name} cannot run {where}: {reason}", "install its runtime")
        else:
            missing.append(Skipped(bundle=site.name, variant=row.name, reason=reason))
    return found, missing


def _numbers(there: Sequence[str], settings: Settings) -> list[str | None]:
    """What to have float32 computed in, of what a runtime can beside it; None is float32."""
    asked = settings.arithmetics or (ARITHMETICS if settings.runtimes or settings.providers else ARITHMETICS[:1])
    return [None if each == FLOAT else each for each in asked if each == FLOAT or each in there]


def _is_asked(runtime: str, asked: Sequence[str]) -> bool:
    """Whether the usual runtime, by its name and version, is to be measured."""
    return not asked or ALL in asked or runtime.partition(" ")[0] in asked


def _place(plan: Sequence[_Step], variant: str) -> int:
    return next(i for i, step in enumerate(plan) if step.variant == variant)


def _order(plan: Sequence[_Step], step: _Step) -> tuple[int, int, int, str, str, str]:
    """Of results: as the manifests have the variants."""
    where = str(step.runtime), str(step.provider), step.arithmetic or ""
    return (step.side, _place(plan, step.variant), step.threads, *where)


def _tell_sending(tell: Progress, name: str, done: int, total: int) -> None:
    tell(done, total, f"{name}: sending")


def _display_names(folders: Sequence[Path]) -> list[str]:
    names = [folder.name for folder in folders]
    if len(set(names)) < len(folders):  # a/bundle and b/bundle
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return names if len(set(names)) == len(folders) else [str(folder) for folder in folders]


def _ratios(measured: dict[_Step, list[Measurement]]) -> tuple[Ratio, ...]:
    others = {step.how: rounds for step, rounds in measured.items() if step.side}
    found = []
    for step, rounds in measured.items():
        if step.side == 0 and step.how in others:
            values = [here.p50_ms / there.p50_ms for here, there in zip(rounds, others[step.how], strict=True)]
            found.append(
                Ratio(
                    variant=step.variant,
                    threads=step.threads,
                    runtime=step.runtime,
                    provider=step.provider,
                    arithmetic=step.arithmetic,
                    ratio=statistics.median(values),
                    low=min(values),
                    high=max(values),
                )
            )
    return tuple(found)
