"""The public calls on bundles and devices; see `edgespa.api.verbs`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.arguments import base_of, devices_of, errors_of, file_of, path_of, text_of, told
from edgespa.api.device_results import Rollback, Shipping, Status
from edgespa.api.results import Bundle, Profile, TaskFile, Verification

if TYPE_CHECKING:
    from edgespa.api.arguments import Model, Tell


def verify(
    bundle: str | Path | Bundle,
    *,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    run: bool = True,
    pythons: Sequence[str | Path] = (),
    threads: int = 1,
) -> Verification:
    """Check that a bundle is what was exported: sizes, digests, signature, and its files by recorded inputs.

    No code of the bundle is run, and torch is not needed. What fails is told by ``passed`` and the checks; what is
    damaged or signed by others is raised.

    Args:
        bundle: Its folder, a packed file, or what `export` gave.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        run: Run its files.
        pythons: Environments whose runtimes are tried too, ``ENV/bin/python``.
        threads: Of the runtime.

    Raises:
        BundleError: It is damaged or incomplete.
        SignatureError: It is not signed by one of the signers.
    """
    from edgespa.api.checking import check_bundle

    return check_bundle(
        path_of(bundle),
        signers=file_of(signers),
        identity=identity,
        revoked=file_of(revoked),
        run=run,
        pythons=[Path(each) for each in pythons],
        threads=threads,
    )


def profile(
    bundle: str | Path | Bundle,
    *,
    device: str = "local",
    against: str | Path | Bundle | None = None,
    variants: Sequence[str] | None = None,
    threads: int | Sequence[int] = 1,
    providers: Sequence[str] = (),
    runs: int | None = None,
    seconds: float | None = None,
    duration: float | None = None,
    cooldown: float | None = None,
    rounds: int | None = None,
    signers: str | Path | None = None,
    identity: str | None = None,
    revoked: str | Path | None = None,
    trust: bool = False,
    again: bool = False,
    save: bool = True,
    progress: Tell = None,
) -> Profile:
    """Measure latency and memory of a bundle's files on a device, each in processes of their own.

    Args:
        bundle: Its folder, a packed file, or what `export` gave.
        device: Where, a name as of ``edgespa devices``.
        against: Another bundle, measured in alternation, for ratios.
        variants: Names of files; None for all.
        threads: One number, or several, each measured by itself.
        providers: What computes; none for the CPU.
        runs: At most so many inferences per process.
        seconds: Stop after so long per process.
        duration: Likewise, and the sensors are read meanwhile.
        cooldown: Wait until the device is as cool as at the beginning, at most so many seconds.
        rounds: Repeat all in fresh processes; default: 1, and 3 with ``against``.
        signers: Who may have signed the bundles; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        trust: Measure by a bundle's own run.py, whoever wrote it.
        again: Measure all anew, also what an interrupted run of the same has left.
        save: Write the profile into ``BUNDLE/profiles/``, where that is a folder.
        progress: See `edgespa.api.verbs`.

    Raises:
        DeviceError: It cannot be reached, or nothing can run there.
        BundleError: The bundle is damaged.
    """
    from edgespa.bundle import open_bundle
    from edgespa.device import load_device
    from edgespa.device.link.reach import connect
    from edgespa.device.measure.profile import Settings, save_profile
    from edgespa.device.measure.profile import profile as measure
    from edgespa.device.measure.saved import Journal, journal_folder

    settings = Settings(
        variants=variants,
        threads=(threads,) if isinstance(threads, int) else tuple(threads),
        providers=providers,
        runs=runs,
        seconds=seconds,
        duration=duration,
        cooldown=cooldown,
        rounds=rounds or (3 if against is not None else 1),
        trust=trust,
    )
    settings.check()
    path = path_of(bundle)
    journal = Journal(journal_folder(), fresh=again)
    with contextlib.ExitStack() as stack:
        opening = partial(open_bundle, signers=file_of(signers), identity=identity, revoked=file_of(revoked))
        opened = stack.enter_context(opening(path))
        other = stack.enter_context(opening(path_of(against))).folder if against is not None else None
        report = stack.enter_context(told("profile", progress))
        connection = stack.enter_context(connect(load_device(device)))
        found = measure(opened.folder, connection, settings, against=other, progress=report, journal=journal)
    journal.forget()
    return Profile(path, found, save_profile(found, path) if save and path.is_dir() else None)


def ship(
    source: str | Path | Bundle | TaskFile,
    *,
    device: str | Sequence[str],
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
    progress: Tell = None,
) -> Shipping:
    """Send a bundle or a task to devices, check it there, and use it from now on.

    Whatever fails before it is in use leaves the old version in use.

    Args:
        source: A bundle, as a folder or packed, or a task file; or what `export`, `adapt` and `prune` gave.
        device: Where, a name as of ``edgespa devices``, or several.
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
        progress: See `edgespa.api.verbs`.

    Returns:
        What is in use now. With several devices, what failed on some is in ``errors``.

    Raises:
        DeviceError: It failed on the only device.
        BundleError: The bundle is damaged.
        TaskFileError: The task file is damaged.
    """
    from edgespa.api.devices import ship_to
    from edgespa.api.shipping import TaskOptions

    own = source.given if isinstance(source, TaskFile) else None
    key = file_of(sign_key)
    with told("ship", progress) as report:
        delivered = ship_to(
            devices_of(device),
            [path_of(source)],
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
            progress=report,
        )
    return Shipping(errors_of(delivered.outcomes), tuple(each for done in delivered.shipped.values() for each in done))


def rollback(task: str, *, device: str | Sequence[str], to: str | None = None, threads: int = 1) -> Rollback:
    """Use an earlier version of a task on devices again, after its digests and its self-check.

    Args:
        task: The task's name there.
        device: Where, or several.
        to: A version, or its number; None for the one before that in use.
        threads: Of the runtime, for the self-check.

    Raises:
        DeviceError: It failed on the only device; what is in use stays.
    """
    from edgespa.api.devices import roll_back_on

    outcomes = roll_back_on(devices_of(device), task, to=to, threads=threads)
    return Rollback(errors_of(outcomes), tuple(each.result for each in outcomes if each.result is not None))


def status(device: str | Sequence[str] | None = None, *, selfcheck: bool = False, timeout_s: float = 30) -> Status:
    """What is on devices, and whether it is as it was shipped.

    Args:
        device: Where, or several; None for your own profiles and this machine.
        selfcheck: Run the recorded inputs through what is in use, too.
        timeout_s: Give a device up that has not answered for so long.

    Returns:
        What those that answered have; why others did not is in ``errors``.
    """
    from edgespa.api.devices import known_devices, status_of

    outcomes = status_of(
        known_devices() if device is None else devices_of(device), selfcheck=selfcheck, timeout_s=timeout_s
    )
    errors = {each.device.name: each.error for each in outcomes if each.error is not None}
    return Status(errors, tuple(each.result for each in outcomes if each.result is not None))


def open_bundle(
    path: str | Path,
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

    with opening(Path(path), signers=file_of(signers), identity=identity, revoked=file_of(revoked)) as opened:
        return Bundle(Path(path), opened.manifest, opened.signed.identity if opened.signed is not None else None)
