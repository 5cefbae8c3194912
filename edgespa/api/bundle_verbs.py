"""The public calls on bundles and devices; see `edgespa.api.verbs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from edgespa.api.arguments import (
    base_of,
    data_of,
    devices_of,
    errors_of,
    file_of,
    options_of,
    path_of,
    several,
    text_of,
    told,
)
from edgespa.api.device_results import Profiles, Removal, Rollback, Shipping, Status
from edgespa.api.early import require_signers
from edgespa.api.results import Bundle, Profile, Verification
from edgespa.api.rollout_verbs import roll_out_of, shipping_of
from edgespa.api.shell import checked
from edgespa.api.task_results import TaskFile
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Labels, Model, Tell
    from edgespa.api.options import DataOptions
    from edgespa.device.fleet import Outcome

T = TypeVar("T")


def verify(
    bundle: str | Path | Bundle,
    *,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    run: bool = True,
    pythons: Sequence[str | Path] = (),
    runtimes: Sequence[str] = (),
    threads: int = 1,
    timeout_s: float = 600.0,
    memory_mib: int | None = None,
    by_layer: bool = False,
    device: str | None = None,
    eval_data: Data | None = None,
    eval_limit: int | None = None,
    labels: Labels | None = None,
    class_offset: int | None = None,
    skip_bad_files: bool = False,
    seed: int = 0,
    fresh: bool = False,
    progress: Tell = None,
) -> Verification:
    """Check that a bundle is what was exported: sizes, digests, signature, and its files by recorded inputs.

    No code of the bundle is run, and torch is needed for ``eval_data`` alone. What fails is told by ``passed`` and the
    checks; what is damaged or signed by others is raised.

    Args:
        bundle: Its folder, a packed file, or what `export` gave.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        run: Run its files.
        pythons: Environments whose runtimes are tried too, ``ENV/bin/python``.
        runtimes: Run the files in these too, in each environment: ``openvino``, say.
        threads: Of the runtime.
        timeout_s: End what runs the files after so long.
        memory_mib: It may allocate so much; None for 2 GiB and what sizes of files and tensors explain, at most 10 GiB.
        by_layer: How far each layer of the smaller files is from the float32 file of their format.
        device: Run its files there, a name as of ``edgespa devices``, and not here.
        eval_data: With ``device``: test data that every file answers there and here; see ``data`` of `adapt`. What was
            answered is kept at once: after an interruption the same call goes on.
        eval_limit: Use a seeded, class-balanced part of ``eval_data``.
        labels: See `adapt`.
        class_offset: See `adapt`.
        skip_bad_files: See `adapt`.
        seed: Of ``eval_limit``.
        fresh: What an interrupted run has left is not taken over.
        progress: See `edgespa.api.verbs`.

    Raises:
        BundleError: It is damaged or incomplete.
        SignatureError: It is not signed by one of the signers.
        DeviceError: The device cannot be reached, or no file can run there.
    """
    require_signers(signers, identity, revoked)
    if eval_data is not None and device is None:
        raise ConfigError("eval_data is of files on a device", "give a device; here a bundle is evaluated by: evaluate")
    if device is not None and (pythons or by_layer or memory_mib is not None or not run):
        raise ConfigError(
            "with a device the files run there: pythons, memory_mib, by_layer and run=False are of this machine",
            "leave them out, or the device",
        )
    if not run and (pythons or runtimes or by_layer):
        raise ConfigError(
            "run=False runs nothing in any of the pythons or runtimes either, nor layer by layer", "give one of them"
        )
    path = path_of(bundle)
    if device is not None:
        return _verified_there(
            path,
            device,
            None if eval_data is None else data_of(eval_data),
            options_of_data(eval_limit, labels, class_offset, skip_bad_files, seed) if eval_data is not None else None,
            signers=file_of(signers),
            identity=identity,
            revoked=file_of(revoked),
            runtimes=several(runtimes),
            threads=threads,
            timeout_s=timeout_s,
            fresh=fresh,
            tell=progress,
        )
    checked(path)
    from edgespa.api.checking import check_bundle

    return check_bundle(
        path,
        signers=file_of(signers),
        identity=identity,
        revoked=file_of(revoked),
        run=run,
        pythons=[Path(each) for each in several(pythons)],
        runtimes=several(runtimes),
        threads=threads,
        timeout_s=timeout_s,
        memory_mib=memory_mib,
        by_layer=by_layer,
    )


def options_of_data(
    eval_limit: int | None, labels: Labels | None, class_offset: int | None, skip_bad_files: bool, seed: int
) -> DataOptions:
    """Which part of test data, and whose classes; how an image becomes an input is what the bundle says.

    Args:
        eval_limit: So many samples.
        labels: Names of the outputs, or their file.
        class_offset: Of the classes.
        skip_bad_files: Leave out what cannot be used.
        seed: Of the part.
    """
    from edgespa.config import PixelSettings

    given = (None, None, None, seed, labels, class_offset, None, PixelSettings(), eval_limit, skip_bad_files)
    return options_of(*given)


def _verified_there(
    path: Path, device: str, evaluation: str | None, options: DataOptions | None, *, tell: Tell, **how: Any
) -> Verification:
    (target,) = devices_of(device)
    checked(path)
    if evaluation is not None:
        from edgespa.api.early import require_there

        require_there(data={"--eval-data": evaluation})
    from edgespa.api.checking_there import check_there

    with told("verify", tell) as report:
        return check_there(path, target, evaluation=evaluation, options=options, progress=report, **how)


@overload
def profile(
    bundle: str | Path | Bundle,
    *,
    device: str = ...,
    group: tuple[()] = ...,
    against: str | Path | Bundle | None = ...,
    variants: Sequence[str] | None = ...,
    threads: int | Sequence[int] = ...,
    tune: bool = ...,
    runtimes: Sequence[str] | None = ...,
    arithmetics: Sequence[str] = ...,
    providers: Sequence[str] = ...,
    pick: str | None = ...,
    runs: int | None = ...,
    seconds: float | None = ...,
    duration: float | None = ...,
    cooldown: float | None = ...,
    rounds: int | None = ...,
    signers: str | Path | None = ...,
    identity: str | None = ...,
    revoked: str | Path | None = ...,
    trust: bool = ...,
    power_mode: str | None = ...,
    fixed_clocks: bool = ...,
    by_layer: bool = ...,
    again: bool = ...,
    save: bool = ...,
    progress: Tell = ...,
) -> Profile: ...


@overload
def profile(
    bundle: str | Path | Bundle,
    *,
    device: Sequence[str] = ...,
    group: str | Sequence[str] = ...,
    against: str | Path | Bundle | None = ...,
    variants: Sequence[str] | None = ...,
    threads: int | Sequence[int] = ...,
    tune: bool = ...,
    runtimes: Sequence[str] | None = ...,
    arithmetics: Sequence[str] = ...,
    providers: Sequence[str] = ...,
    pick: str | None = ...,
    runs: int | None = ...,
    seconds: float | None = ...,
    duration: float | None = ...,
    cooldown: float | None = ...,
    rounds: int | None = ...,
    signers: str | Path | None = ...,
    identity: str | None = ...,
    revoked: str | Path | None = ...,
    trust: bool = ...,
    power_mode: str | None = ...,
    fixed_clocks: bool = ...,
    by_layer: bool = ...,
    again: bool = ...,
    save: bool = ...,
    progress: Tell = ...,
) -> Profiles: ...


def profile(
    bundle: str | Path | Bundle,
    *,
    device: str | Sequence[str] = "local",
    group: str | Sequence[str] = (),
    against: str | Path | Bundle | None = None,
    variants: Sequence[str] | None = None,
    threads: int | Sequence[int] = 1,
    tune: bool = False,
    runtimes: Sequence[str] | None = None,
    arithmetics: Sequence[str] = (),
    providers: Sequence[str] = (),
    pick: str | None = None,
    runs: int | None = None,
    seconds: float | None = None,
    duration: float | None = None,
    cooldown: float | None = None,
    rounds: int | None = None,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    trust: bool = False,
    power_mode: str | None = None,
    fixed_clocks: bool = False,
    by_layer: bool = False,
    again: bool = False,
    save: bool = True,
    progress: Tell = None,
) -> Profile | Profiles:
    """Measure latency and memory of a bundle's files on a device, each in processes of their own.

    Args:
        bundle: Its folder, a packed file, or what `export` gave.
        device: Where, a name as of ``edgespa devices``; or several, measured at once.
        group: Where, in place of this machine, or too: the devices whose profiles have that tag; or several.
        against: Another bundle, measured in alternation, for ratios.
        variants: Names of files; None for all.
        threads: One number, or several, each measured by itself.
        tune: In their place as many threads as the device has cores, a half of that, and so on down to one; and where
            some of its cores are faster, on those alone, too. The fastest is written into the bundle, as by ``pick``.
        runtimes: Each measured by itself: ``openvino`` beside the usual one of a format, say; None for all that are
            there, or for the usual ones where ``providers`` are asked for; ``()`` for the usual ones.
        arithmetics: What float32 is computed in: ``fp32``, ``bf16``, ``fp16``; none for all that a runtime can.
        providers: What computes; none for the CPU.
        pick: ``fastest`` writes into the bundle what ``run.py`` takes by itself from now on: the fastest file and
            runtime of those measured whose recorded outputs come out on the device. Of one device, into a folder.
        runs: At most so many inferences per process.
        seconds: Stop after so long per process.
        duration: Likewise, and the sensors are read meanwhile.
        cooldown: Wait until the device is as cool as at the beginning, at most so many seconds.
        rounds: Repeat all in fresh processes; default: 1, and 3 with ``against``.
        signers: Who may have signed the bundles; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: Measure by a bundle's own run.py, whoever wrote it.
        power_mode: Refuse to measure a Jetson that is in another one: ``MAXN``, ``15W``.
        fixed_clocks: Refuse to measure unless the clocks of its cores are held, as jetson_clocks holds them.
        by_layer: What each operator takes, too, where the runtime tells it: ONNX Runtime does.
        again: Measure all anew, also what an interrupted run of the same has left.
        save: Write the profile into ``BUNDLE/profiles/``, where that is a folder.
        progress: See `edgespa.api.verbs`.

    Returns:
        Of one device its profile; of several all of them, and in ``errors`` what failed on some. Each measurement is
        kept at once: after an interruption the same call goes on with the rest, within a day.

    Raises:
        DeviceError: The only device cannot be reached, or nothing can run there.
        BundleError: The bundle is damaged.
    """
    require_signers(signers, identity, revoked)
    from edgespa.api.profiling import profile_on
    from edgespa.device.measure.settings import ALL, Settings

    settings = Settings(
        variants=None if variants is None else several(variants),
        threads=several(threads),
        tune=tune,
        runtimes=several(runtimes) if runtimes is not None else () if providers else (ALL,),
        arithmetics=several(arithmetics),
        providers=several(providers),
        runs=runs,
        seconds=seconds,
        duration=duration,
        cooldown=cooldown,
        rounds=rounds or (3 if against is not None else 1),
        trust=trust,
        power_mode=power_mode,
        fixed_clocks=fixed_clocks,
        by_layer=by_layer,
    )
    settings.check()
    if tune and several(threads) != (1,):
        raise ConfigError("tune tries numbers of threads itself", "leave out threads, or tune")
    pick = "fastest" if tune else pick
    groups = several(group)
    named = () if groups and device in ("local", ("local",)) else device
    targets = devices_of(named, groups)
    if pick is not None:
        if pick != "fastest" or len(targets) > 1 or not Path(path_of(bundle)).is_dir():
            raise ConfigError(
                f"{'tune' if tune else 'pick'} writes into one folder what is fastest on one device",
                "give one device, a bundle that is a folder, and " + ("no pick" if tune else "pick='fastest'"),
            )
        if not settings.runtimes:
            settings = dataclasses.replace(settings, runtimes=(ALL,))
    path, other = path_of(bundle), None if against is None else path_of(against)
    checked(path, *([] if other is None else [other]))
    with told("measuring", progress) as report:
        measured = profile_on(
            targets,
            path,
            settings,
            against=other,
            signers=file_of(signers),
            identity=identity,
            revoked=file_of(revoked),
            again=again,
            save=save,
            pick=pick is not None,
            progress=report,
        )
    alone = isinstance(device, str) and not groups
    errors = errors_of(measured.outcomes, device if alone else None)
    found = tuple(each.result for each in measured.outcomes if each.result is not None)
    return found[0] if alone else Profiles(errors, found, measured.kept, outcomes=measured.outcomes)


def ship(
    source: str | Path | Bundle | TaskFile | Sequence[str | Path | Bundle | TaskFile],
    *,
    device: str | Sequence[str] = (),
    group: str | Sequence[str] = (),
    task: str | None = None,
    keep: int = 3,
    with_base: bool = False,
    base: Model | None = None,
    weights: str | Path | None = None,
    sign_key: str | Path | None = None,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    trust: bool = False,
    volatile: bool = False,
    threads: int = 1,
    waves: str | None = None,
    abort_above: float | None = None,
    take_back: bool = False,
    watch_s: float | None = None,
    health_command: str | None = None,
    health_every_s: float | None = None,
    health_timeout_s: float = 60.0,
    max_latency_ms: float | None = None,
    wait_for_lock_s: float = 0.0,
    progress: Tell = None,
) -> Shipping:
    """Send a bundle or a task to devices, check it there, and use it from now on.

    Whatever fails before it is in use leaves the old version in use.

    Args:
        source: A bundle, as a folder or packed, or a task file; or what `export`, `adapt` and `prune` gave. Or several.
        device: Where, a name as of ``edgespa devices``, or several.
        group: Where too: the devices whose profiles have that tag; or several. What is shipped to all of a group is
            what it is to have from now on, see `catch_up`.
        task: Its name there; default: the bundle's.
        keep: Versions that stay there.
        with_base: With a task file: send its base too, to devices that lack it.
        base: Of a task file: its base, if it is not where it was.
        weights: Of a task file: the weights of its base.
        sign_key: Sign what is made of a task file with this OpenSSH key.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: Run code of the maker: what a task file names as its base, a bundle's own run.py for the check there.
        volatile: Also to a device whose writes are gone after a reboot.
        threads: Of the runtime, for the self-check.
        waves: Up to how many devices each wave reaches, ``1,10%,100%``; devices that have it already are left out.
        abort_above: The share of a wave's devices, 0 to 1, that may fail, be unreachable or go back; with ``waves`` 0.
        take_back: When that is exceeded, take back the devices of that wave that are well, too.
        watch_s: Watch each device for so long after the switch. Whatever fails meanwhile has it go back by itself, also
            when this process has ended: its self-check, and what the next ones ask for.
        health_command: That the device's shell runs in each round; it ends with 0 where all is well.
        health_every_s: Between two rounds; None for a quarter of the window, at most 30 s.
        health_timeout_s: That the command may take.
        max_latency_ms: The most that an inference may take there, as a median; None for what the bundle says itself,
            see ``max_latency_ms`` of `edgespa.exporting.config.ExportConfig`.
        wait_for_lock_s: For an application there that holds the update lock of the task.
        progress: See `edgespa.api.verbs`.

    Returns:
        What is in use now. Where devices are given as a list, what failed on some is in ``errors``.

    Raises:
        DeviceError: It failed on the device, which was given by itself.
        BundleError: The bundle is damaged.
        TaskFileError: The task file is damaged.
    """
    require_signers(signers, identity, revoked)
    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    if not sources:
        raise ConfigError("nothing is to be shipped", "name a bundle or a task file")
    if task is not None and len(sources) > 1:
        raise ConfigError("task names one task, and several are shipped", "ship them one by one")
    asked = (watch_s, health_command, health_every_s, health_timeout_s, max_latency_ms, wait_for_lock_s)
    how = roll_out_of(asked, waves, abort_above, take_back, several(group))
    targets = devices_of(device, group)
    paths, key = [path_of(each) for each in sources], file_of(sign_key)
    checked(*paths)
    from edgespa.api.devices import ship_to
    from edgespa.api.shipping import TaskOptions

    own = next((each.given for each in sources if isinstance(each, TaskFile)), None)
    with told("ship", progress) as report:
        delivered = ship_to(
            targets,
            paths,
            task=task,
            signers=file_of(signers),
            identity=identity,
            revoked=file_of(revoked),
            options=TaskOptions(base_of(base, own), text_of(weights), key, trust=trust),
            keep=keep,
            with_base=with_base,
            volatile=volatile,
            threads=threads,
            trust=trust,
            wait_for_lock_s=wait_for_lock_s,
            how=how,
            progress=report,
        )
    errors = errors_of(delivered.outcomes, None if several(group) else device)
    return shipping_of(delivered, targets, errors)


def rollback(
    task: str,
    *,
    device: str | Sequence[str] = (),
    group: str | Sequence[str] = (),
    to: str | None = None,
    threads: int = 1,
    wait_for_lock_s: float = 0.0,
) -> Rollback:
    """Use an earlier version of a task on devices again, after its digests and its self-check.

    Args:
        task: The task's name there.
        device: Where, or several.
        group: Where too: the devices whose profiles have that tag; or several.
        to: A version, or its number; None for the one before that in use.
        threads: Of the runtime, for the self-check.
        wait_for_lock_s: For an application there that holds the update lock of the task.

    Raises:
        DeviceError: It failed on the device, which was given by itself; what is in use stays.
    """
    targets = devices_of(device, group)
    checked()
    from edgespa.api.devices import roll_back_on

    outcomes = roll_back_on(targets, task, to=to, threads=threads, wait_for_lock_s=wait_for_lock_s)
    return Rollback(errors_of(outcomes, None if several(group) else device), _results(outcomes), outcomes=outcomes)


def remove(task: str, *, device: str | Sequence[str] = (), group: str | Sequence[str] = ()) -> Removal:
    """Take a task off devices, with all its versions, the one in use too; nothing is asked.

    Args:
        task: The task's name there.
        device: Where, or several.
        group: Where too: the devices whose profiles have that tag, which are not to have it any more; or several.

    Raises:
        DeviceError: It failed on the device, which was given by itself.
    """
    from edgespa.device.shipment.ship import task_name

    name, targets = task_name(task), devices_of(device, group)
    checked()
    from edgespa.api.devices import remove_from
    from edgespa.device.shipment.wanted import want_no_more

    for each in several(group):
        want_no_more(each, name)
    outcomes = remove_from(targets, name)
    return Removal(errors_of(outcomes, None if several(group) else device), _results(outcomes), outcomes=outcomes)


def _results(outcomes: Sequence[Outcome[T]]) -> tuple[T, ...]:
    return tuple(each.result for each in outcomes if each.result is not None)


def status(
    device: str | Sequence[str] | None = None,
    *,
    group: str | Sequence[str] = (),
    selfcheck: bool = False,
    timeout_s: float = 30,
    progress: Tell = None,
) -> Status:
    """What is on devices, and whether it is as it was shipped.

    Args:
        device: Where, or several; None for your own profiles and this machine, unless a group is given.
        group: Where too: the devices whose profiles have that tag; or several.
        selfcheck: Run the recorded inputs through what is in use, too.
        timeout_s: Give a device up that has not answered for so long.
        progress: See `edgespa.api.verbs`.

    Returns:
        What those that answered have; why others did not is in ``errors``.
    """
    from edgespa.api.devices import Awaited, known_devices, status_of

    every = device is None and not several(group)
    targets = known_devices() if every else devices_of(device or (), group)
    with told("asking", progress) as report:
        awaited = Awaited([each.name for each in targets], report)
        outcomes = status_of(targets, selfcheck=selfcheck, timeout_s=timeout_s, done=awaited)
    return Status(errors_of(outcomes, None), _results(outcomes), outcomes=outcomes)


def open_bundle(
    path: str | Path | Bundle,
    *,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
) -> Bundle:
    """Check every file of a bundle against its manifest, and read that; nothing is run.

    Args:
        path: Its folder, or a packed file.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.

    Raises:
        BundleError: It is damaged or incomplete.
        SignatureError: It is not signed by one of the signers.
    """
    from edgespa.bundle import open_bundle as opening

    place = path_of(path)
    with opening(place, signers=file_of(signers), identity=identity, revoked=file_of(revoked)) as opened:
        return Bundle(place, opened.manifest, opened.signed.identity if opened.signed is not None else None)
