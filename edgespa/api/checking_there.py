"""``edgespa verify --device`` as one call: digests here, the self-check there, and how well a data set is answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.checking import check_bundle
from edgespa.api.results import Verification
from edgespa.bundle import open_bundle
from edgespa.device.board import Device
from edgespa.device.inventory import read_facts, runtime_python
from edgespa.device.link.reach import connect
from edgespa.device.measure.answering import asked_of
from edgespa.device.measure.site import prepare
from edgespa.device.shipment.ship import self_check
from edgespa.errors import DeviceError

if TYPE_CHECKING:
    from edgespa.api.options import DataOptions, Progress


def check_there(
    bundle: Path,
    device: Device,
    *,
    evaluation: str | None = None,
    options: DataOptions | None = None,
    signers: Path | None = None,
    identity: str | None = None,
    revoked: Path | None = None,
    runtimes: Sequence[str] = (),
    threads: int = 1,
    timeout_s: float = 600.0,
    fresh: bool = False,
    progress: Progress,
) -> Verification:
    """Check a bundle on a device.

    Args:
        bundle: Its folder, or a packed file.
        device: Its profile.
        evaluation: Test data that all files answer there, and here.
        options: Which part of them, and whose classes.
        signers: Who may have signed the bundle; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        runtimes: Of the device, used for ``evaluation`` beside the usual ones.
        threads: Of the runtimes.
        timeout_s: Of one batch.
        fresh: What an interrupted run has left is not taken over.
        progress: Told ``(done, total, text)``.

    Raises:
        BundleError: It is damaged or incomplete.
        SignatureError: It is not signed by one of the signers.
        DeviceError: The device cannot be reached, or no file can run there.
    """
    given = {"signers": signers, "identity": identity, "revoked": revoked}
    found = check_bundle(bundle, **given, run=False)  # type: ignore[arg-type]  # its own keywords
    with open_bundle(bundle, **given) as opened, connect(device) as connection:  # type: ignore[arg-type]
        facts = read_facts(connection)
        python = runtime_python(connection, facts)
        name = opened.manifest.task
        site = prepare(
            connection,
            python,
            opened.folder,
            opened.manifest,
            name,
            lambda done, total: progress(done, total, f"{device.name}: send the bundle"),
        )
        progress(0, None, f"{device.name}: self-check")
        checks = self_check(connection, site.folder, python, threads=threads)
        quality = None
        if evaluation is not None:
            from edgespa.api.options import DataOptions
            from edgespa.api.quality_there import quality_there

            listed = site.list_variants()
            asked = asked_of(listed, runtimes, threads)
            if not asked:
                why = "; ".join(f"{each.name}: {each.reason}" for each in listed if each.reason)
                raise DeviceError(
                    f"{device.name}: no file can run there: {why}", f"edgespa devices setup {device.asked}"
                )
            quality = quality_there(
                bundle,
                opened,
                site,
                facts,
                asked,
                evaluation,
                options or DataOptions(),
                threads=threads,
                timeout_s=timeout_s,
                fresh=fresh,
                progress=progress,
            )
    ran = [check for check in checks if check.status != "not run"]
    passed = bool(ran) and all(check.status == "passed" for check in ran)
    return dataclasses.replace(found, run=True, variants=checks, passed=passed, there=quality)
