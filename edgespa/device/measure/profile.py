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
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from edgespa import __version__
from edgespa.bundle import MANIFEST, Manifest, verify_files
from edgespa.device.board import LOCAL, Device, load_device
from edgespa.device.host import Conditions, Facts
from edgespa.device.inventory import read_facts, runtime_python
from edgespa.device.link.payload import Payload
from edgespa.device.link.reach import connect
from edgespa.device.link.transport import Connection
from edgespa.device.measure.answers import look_at_runner
from edgespa.device.measure.estimate import estimate_bundle
from edgespa.device.measure.plan import Step, order, plan_of, unusable_providers
from edgespa.device.measure.results import Check, Estimate, Measurement, Profile, Proved, Ratio, Skipped, VariantProfile
from edgespa.device.measure.saved import Journal, Key
from edgespa.device.measure.settings import FLOAT, Settings
from edgespa.device.measure.site import Site, cool_down, prepare
from edgespa.errors import ConfigError, DeviceError, UnreachableError
from edgespa.system.quiet import NOTE

Progress = Callable[[int, int, str], None]
"""Called with what is done, the total, and what comes next in words."""

LOCK = "measure"
_log = logging.getLogger(__name__)


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
    _require_state(connection, settings)
    names = _display_names(folders)
    python = runtime_python(connection, facts)
    tell = progress or (lambda done, total, text: None)
    sites = [
        prepare(connection, python, folder, manifest, name, partial(_tell_sending, tell, name), trusted=settings.trust)
        for folder, manifest, name in zip(folders, manifests, names, strict=True)
    ]
    ways = settings.ways(facts.affinity or facts.logical_cores, facts.fast_cores)
    plan, skipped = plan_of(
        sites, manifests, settings, unusable_providers(connection, python, settings.providers), ways
    )
    measured: dict[Step, list[Measurement]] = {step: [] for step in plan}
    in_order: list[Measurement] = []
    failed: dict[Step, str] = {}
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
    results = sorted(measured, key=partial(order, plan))
    prove = bool(settings.runtimes or settings.providers)
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
        estimates=_estimates(connection.device, facts, folders[0], manifests[0], [count for count, _ in ways]),
        bytes_sent=sum(site.sent.bytes_sent for site in sites),
        proofs=_proofs(sites[0], manifests[0], facts.machine, measured, tell) if prove else (),
    )


def _require_state(connection: Connection, settings: Settings) -> None:
    """Refuse to measure a device in another state than was asked for.

    Raises:
        DeviceError: It is in another one, or does not say.
    """
    if settings.power_mode is None and not settings.fixed_clocks:
        return
    state, where = Conditions.of(connection.ask("conditions")), connection.where
    if settings.power_mode is not None and (state.power_mode or "").casefold() != settings.power_mode.casefold():
        now = f"its power mode is {state.power_mode}" if state.power_mode else "it says no power mode, as a Jetson does"
        raise DeviceError(
            f"{where}: {now}, and {settings.power_mode} is asked for",
            "there, as root: nvpmodel -p --verbose lists the modes, nvpmodel -m NUMBER chooses one",
        )
    if settings.fixed_clocks and not state.fixed_clocks:
        now = "are not held" if state.fixed_clocks is False else "cannot be read"
        raise DeviceError(
            f"{where}: the clocks of its cores {now}, and fixed ones are asked for",
            "there, as root: jetson_clocks; on other boards: cpupower frequency-set --governor performance",
        )


def failures_of(manifest: Manifest, variant: str, runtime: str, arithmetic: str, machine: str) -> tuple[str, ...]:
    """What a file did not keep when it was exported, in that runtime and arithmetic, on a machine of that kind."""
    return tuple(
        f"where it was exported: {failure}"
        for proof in manifest.variant(variant).proofs
        if (proof.runtime.partition(" ")[0], proof.arithmetic, proof.machine) == (runtime, arithmetic, machine)
        for failure in proof.failures
    )


def _earlier(
    journal: Journal,
    plan: Sequence[Step],
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
    device: Device, facts: Facts, bundle: Path, manifest: Manifest, threads: Sequence[int]
) -> tuple[Estimate, ...]:
    """None for a machine that is another one than its profile says."""
    if device.machine not in (None, facts.machine):
        _log.warning("%s: the machine is %s, its profile says %s", device.name, facts.machine, device.machine)
        return ()
    return estimate_bundle(device, bundle, manifest, tuple(dict.fromkeys(threads)))


def _measure(site: Site, step: Step, settings: Settings, what: str) -> Measurement:
    options = ["--variant", step.variant, "--threads", str(step.threads)]
    options += ["--runtime", step.runtime] if step.runtime else []
    options += ["--provider", step.provider] if step.provider else []
    options += ["--arithmetic", step.arithmetic] if step.arithmetic else []
    options += ["--cores", step.cores] if step.cores else []
    seconds = settings.duration or settings.seconds or 0.0
    return site.measure([*options, *settings.options()], what, seconds=seconds, sample_s=settings.sample_s)


def _proofs(
    site: Site, manifest: Manifest, machine: str, measured: Mapping[Step, Sequence[Measurement]], tell: Progress
) -> tuple[Proved, ...]:
    """The self-check of each variant in each way that it was measured in.

    What failed on more samples where the bundle was made, does not hold on a machine of that kind either.
    """
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
        on_cpu = str(provider).startswith("CPU")  # in the words of each runtime
        before = failures_of(manifest, step.variant, name, numbers or FLOAT, machine) if on_cpu else ()
        found[key] = Proved(
            variant=step.variant,
            runtime=name,
            arithmetic=numbers,
            provider=provider,
            holds=check.status == "passed" and not before,
            component_error=check.component_error,
            failures=(*check.failures, *before),
        )
    return tuple(found.values())


def _tell_sending(tell: Progress, name: str, done: int, total: int) -> None:
    tell(done, total, f"{name}: sending")


def _display_names(folders: Sequence[Path]) -> list[str]:
    names = [folder.name for folder in folders]
    if len(set(names)) < len(folders):  # a/bundle and b/bundle
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return names if len(set(names)) == len(folders) else [str(folder) for folder in folders]


def _ratios(measured: dict[Step, list[Measurement]]) -> tuple[Ratio, ...]:
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
                    cores=step.cores,
                    ratio=statistics.median(values),
                    low=min(values),
                    high=max(values),
                )
            )
    return tuple(found)
