"""The public call that measures bundles; see `edgespa.api.verbs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from edgespa.api.arguments import (
    devices_of,
    errors_of,
    file_of,
    path_of,
    several,
    told,
)
from edgespa.api.device_results import Profiles
from edgespa.api.early import require_signers
from edgespa.api.results import Bundle, Profile
from edgespa.api.shell import checked
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Tell


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
