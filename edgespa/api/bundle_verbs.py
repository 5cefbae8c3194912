"""The public calls on bundles; see `edgespa.api.verbs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.arguments import (
    data_of,
    devices_of,
    file_of,
    options_of,
    path_of,
    several,
    told,
)
from edgespa.api.early import require_signers
from edgespa.api.results import Bundle, Verification
from edgespa.api.shell import checked
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Labels, Tell
    from edgespa.api.options import DataOptions


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
