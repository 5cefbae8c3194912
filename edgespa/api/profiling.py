"""``edgespa profile`` as one call: a bundle measured on devices, all of them at once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgespa.api.results import Profile
from edgespa.bundle import Pick, open_bundle, picked
from edgespa.device.board import Device
from edgespa.device.fleet import Outcome, on_each
from edgespa.device.link.transport import Connection
from edgespa.device.measure.profile import profile
from edgespa.device.measure.results import Profile as MeasuredProfile
from edgespa.device.measure.saved import Journal, journal_folder, save_profile
from edgespa.device.measure.settings import Settings
from edgespa.errors import DeviceError

if TYPE_CHECKING:
    from edgespa.api.options import Progress


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came of measuring.

    Attributes:
        outcomes: One per device, in their order.
        kept: By the device that failed, how many measurements the same call need not make again.
    """

    outcomes: tuple[Outcome[Profile], ...]
    kept: Mapping[str, int]


def profile_on(
    devices: Sequence[Device],
    bundle: Path,
    settings: Settings,
    *,
    against: Path | None = None,
    signers: Path | None = None,
    identity: str | None = None,
    revoked: Path | None = None,
    again: bool = False,
    save: bool = True,
    pick: bool = False,
    progress: Progress,
) -> Measured:
    """Measure a bundle on devices, each measurement kept at once, and save what is whole beside it.

    Args:
        devices: Their profiles.
        bundle: A folder, or a packed file, which gets no profiles.
        settings: What is measured.
        against: Another bundle, measured in alternation.
        signers: Who may have signed them; None to ask nothing.
        identity: Which of them.
        revoked: Keys that count no more.
        again: What an interrupted run has left is not taken.
        save: Write the profiles into ``profiles/`` of the bundle.
        pick: Write the fastest that holds into the bundle's manifest.
        progress: Told ``(done, total, text)``.

    Raises:
        BundleError: A bundle is damaged.
        KeyboardInterrupt: It says what is kept; as the note of a `SystemExit` does.
    """
    journals = {device.name: Journal(journal_folder(), fresh=again) for device in devices}
    with contextlib.ExitStack() as stack:
        opening = partial(open_bundle, signers=signers, identity=identity, revoked=revoked)
        opened = stack.enter_context(opening(bundle))
        other = stack.enter_context(opening(against)).folder if against is not None else None

        def tell(connection: Connection) -> Callable[[float, float | None, str], None]:
            # Several devices take turns in one line.
            name = "" if len(devices) == 1 else f"{connection.device.name}: "
            return lambda done, total, text: progress(done, total, f"{name}{text}")

        def work(connection: Connection) -> Profile:
            journal = journals[connection.device.name]
            found = profile(
                opened.folder, connection, settings, against=other, progress=tell(connection), journal=journal
            )
            return Profile(bundle, found)

        try:
            outcomes = on_each(devices, work)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(kept_words(_counts(journals))) from error
        except SystemExit as error:
            error.add_note(kept_words(_counts(journals)) or "nothing was measured yet")
            raise
        outcomes = tuple(_saved(each, journals, save and not opened.packed) for each in outcomes)
        if pick and outcomes[0].result is not None:
            _pick(opened.folder, outcomes[0].result.measured)
    failed = {each.device.name: journals[each.device.name] for each in outcomes if each.error is not None}
    return Measured(outcomes, _counts(failed))


def _saved(outcome: Outcome[Profile], journals: Mapping[str, Journal], save: bool) -> Outcome[Profile]:
    """The outcome, its profile written: a folder that cannot be written costs no measurements."""
    found = outcome.result
    if found is None:
        return outcome
    if save:
        try:
            found = dataclasses.replace(found, saved=save_profile(found.measured, found.bundle))
        except DeviceError as error:
            return dataclasses.replace(outcome, result=dataclasses.replace(found, unsaved=error))
    journals[outcome.device.name].forget()
    return dataclasses.replace(outcome, result=found)


def _pick(folder: Path, measured: MeasuredProfile) -> None:
    fastest = measured.fastest
    if fastest is None:
        why = "started for each run, it serves no program"
        reasons = "; ".join(
            f"{each.variant} in {each.runtime}: {why if each.holds else ', '.join(each.failures)}"
            for each in measured.proofs
        )
        raise DeviceError(f"{measured.bundle}: nothing is picked, for nothing there is right and serves: {reasons}")
    picked(
        folder,
        Pick(
            device=measured.device,
            variant=fastest.variant,
            runtime=str(fastest.runtime),
            arithmetic=fastest.arithmetic or "fp32",
            provider=None if str(fastest.provider).startswith("CPU") else fastest.provider,
            threads=fastest.threads,
            cores=fastest.cores,
            latency_ms=fastest.p50_ms,
        ),
    )


def _counts(journals: Mapping[str, Journal]) -> dict[str, int]:
    return {name: journal.count for name, journal in journals.items() if journal.count}


def kept_words(kept: Mapping[str, int]) -> str:
    """What can be gone on with; empty where it is nothing.

    Args:
        kept: Measurements by device.
    """
    counts = ", ".join(f"{name}: {count}" for name, count in kept.items())
    return f"measurements kept: {counts}; the same command goes on with the rest" if kept else ""
