"""``edgespa verify`` as one call: digests, signature, then the self-check of every variant that can run here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from edgespa.api.results import Verification
from edgespa.bundle import Manifest, open_bundle
from edgespa.device.measure.answers import is_own_runner, run_selfcheck
from edgespa.device.measure.results import Check
from edgespa.errors import DeviceError
from edgespa.exporting.layer_errors import LayerError, layer_errors


def check_bundle(
    bundle: Path,
    *,
    signers: Path | None = None,
    identity: str | None = None,
    revoked: Path | None = None,
    run: bool = True,
    pythons: Sequence[Path] = (),
    runtimes: Sequence[str] = (),
    threads: int = 1,
    timeout_s: float = 600.0,
    memory_mib: int | None = None,
    by_layer: bool = False,
) -> Verification:
    """Check that a bundle is what was exported.

    Args:
        bundle: Its folder, or a packed file.
        signers: Who may have signed it; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        run: Run its files; none of its code is run.
        pythons: Environments whose runtimes are tried too, ``ENV/bin/python``.
        runtimes: Files are run in these too, wherever they run.
        threads: Of the runtime.
        timeout_s: End what runs the files after so long.
        memory_mib: It may allocate so much; None for what sizes of files and tensors explain.
        by_layer: Compare the layers of smaller files with those of the float32 file of their format.

    Raises:
        BundleError: It is damaged or incomplete.
        SignatureError: It is not signed by one of the signers.
        DeviceError: Nothing can be run in one of the environments.
    """
    with open_bundle(bundle, signers=signers, identity=identity, revoked=revoked) as opened:
        own = partial(run_selfcheck, threads=threads, timeout_s=timeout_s, memory_mib=memory_mib)
        checks = _checks(opened.folder, pythons, runtimes, own) if run else ()
        same_runner = is_own_runner(opened.folder)
        layers = _layers(opened.folder, opened.manifest, timeout_s) if by_layer else {}
    ran = [check for check in checks if check.status != "not run"]
    manifest, signed = opened.manifest, opened.signed
    return Verification(
        bundle=str(bundle),
        task=manifest.task,
        files=len(manifest.files),
        size_bytes=sum(entry.size_bytes for entry in manifest.files),
        signature={
            "status": "good" if signed else "not checked" if opened.is_signed else "absent",
            "identity": signed.identity if signed else None,
            "key": signed.key if signed else None,
        },
        own_runner=same_runner,
        run=run,
        variants=checks,
        recorded={each.name: each.accuracy for each in manifest.variants if each.accuracy is not None},
        layers=layers,
        passed=not run or (bool(ran) and all(check.status == "passed" for check in ran)),
    )


def _layers(folder: Path, manifest: Manifest, timeout_s: float) -> dict[str, tuple[LayerError, ...]]:
    found = {each.name: layer_errors(folder, manifest, each, timeout_s=timeout_s) for each in manifest.variants}
    return {name: rows for name, rows in found.items() if rows}


def _checks(
    folder: Path, pythons: Sequence[Path], runtimes: Sequence[str], run: Callable[..., tuple[Check, ...]]
) -> tuple[Check, ...]:
    """Of this environment and of others; what has run in one of them is not reported as not run."""
    here = run(folder)
    found: list[Check] = []
    for python, runtime in product((None, *pythons), (None, *runtimes)):
        if python is None and runtime is None:
            continue
        there = run(folder, python=python, runtime=runtime)
        ran = [check for check in there if check.status != "not run"]
        if not ran:
            where = " in ".join(str(each) for each in (runtime, python) if each is not None)
            reasons = "; ".join(dict.fromkeys(reason for check in there for reason in check.failures))
            raise DeviceError(f"{where}: no variant can be run there: {reasons}", "install a runtime in it")
        found += ran
    elsewhere = {check.name for check in found}
    return (*(check for check in here if check.status != "not run" or check.name not in elsewhere), *found)
