"""A bundle where it is measured: the runner there, and what it says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgespa.bundle import MANIFEST, SIGNATURE, Manifest
from edgespa.device.host import Clock, Conditions, Usage
from edgespa.device.inventory import broken_runtimes, try_providers
from edgespa.device.link.payload import Payload, Sending, Sent
from edgespa.device.link.transport import Connection
from edgespa.device.measure.answers import Ended, decode, parse_answer
from edgespa.device.measure.judge import doubts, is_steady, spread, stalls, unknowns
from edgespa.device.measure.results import Check, Listed, Measurement
from edgespa.device.ours import runner_command
from edgespa.device.runner.runtimes import RUNTIMES, runtimes_of

KEPT_BUNDLES = 8
"""So many bundles that were measured last stay on a device."""

LONGEST_S = 3600.0
"""Of one process, beside the time that was asked for."""

LIST_S = 300.0
"""Of listing what can run: runtimes are imported for it."""

COOL_C = 2.0
"""As cool as before: at most so many degrees above."""

STALL_S = 60.0
"""A process that computes nothing for so long hangs."""

_LOOK_S = 2.0


@dataclass(frozen=True)
class Site:
    """A bundle that lies ready on a device.

    Attributes:
        connection: To the device.
        python: The Python with the runtimes, as the beginning of an argument list.
        folder: Of the bundle, there.
        name: Of the bundle, in results.
        sent: What went over for it.
        manifest: Its manifest.
        trusted: Its own run.py measures it, not edgespa's.
    """

    connection: Connection
    python: Sequence[str]
    folder: str
    name: str
    sent: Sent
    manifest: Manifest
    trusted: bool = False

    def list_variants(self) -> tuple[Listed, ...]:
        """Which variants can run there."""
        done = self._execute(self._argv([]), timeout_s=LIST_S)
        ended = Ended(int(done["status"]), str(done["stdout"]), done["stderr"], self._by_hand([]), done["killed"])
        if ended.status < 0 and not ended.killed:
            return self._list_without_what_crashes()
        answer = decode(ended, "variants", f"{self.name}: list of variants")
        return tuple(parse_answer(Listed, each, self.name) for each in answer["variants"])

    def _list_without_what_crashes(self) -> tuple[Listed, ...]:
        """The same where the import of a runtime ends the runner: each runtime is tried in a process of its own."""
        providers = try_providers(self.connection, self.python)
        working = {each.runtime: f"{each.runtime} {each.version}" for each in providers if each.works}
        failing = {each.runtime: f"{each.runtime} {each.version}: {each.error}" for each in broken_runtimes(providers)}
        rows = []
        for variant in self.manifest.variants:
            names = [each.name for each in runtimes_of(variant.format)]
            runtime = next((working[name] for name in names if name in working), None)
            reasons = [failing[name] for name in names if name in failing]
            rows.append(
                Listed(
                    **{key: getattr(variant, key) for key in ("name", "file", "format", "precision", "size_bytes")},
                    runtime=runtime,
                    reason=None if runtime else "; ".join(reasons) or "its runtime is not installed",
                    others=tuple(
                        each.name
                        for each in RUNTIMES
                        if each.kind == variant.format and not each.usual and each.name in working
                    ),
                )
            )
        return tuple(rows)

    def measure(self, options: Sequence[str], what: str, *, seconds: float, sample_s: float | None) -> Measurement:
        """One measurement, in a fresh process.

        Args:
            options: Of the runner.
            what: Is measured, for messages.
            seconds: It may take beside its start.
            sample_s: Read the sensors so often meanwhile; None for before and after only.

        Raises:
            DeviceError: It did not answer, or the connection broke.
        """
        done = self._execute(
            self._argv(["--bench", *options]), timeout_s=LONGEST_S + seconds, more={"sample_s": sample_s}
        )
        by_hand = self._by_hand(["--bench", *options])
        ended = Ended(int(done["status"]), str(done["stdout"]), str(done["stderr"]), by_hand, done["killed"])
        measured = parse_answer(Measurement, decode(ended, "variant", what), self.name)
        before, after = Conditions.of(done["before"]), Conditions.of(done["after"])
        samples = tuple(Conditions.of(each) for each in done["samples"])
        states = [before, *samples, after]
        clock = Clock.parse(done["clock"], "the device's clock") if done["clock"] else None
        usage = Usage.parse(done["usage"], "the device's cores")
        found = [*doubts(states, threads=measured.threads, clock=clock, usage=usage)]
        waited = stalls(measured.mean_ms, measured.p50_ms, measured.runs)
        apart = spread(measured.p50_ms, measured.p90_ms, measured.runs)
        found += [each for each in (waited, apart) if each is not None]
        if measured.major_faults:
            found.append(f"{measured.major_faults} pages were read from the disk while it ran: too little memory")
        return measured.model_copy(
            update={
                "before": before,
                "after": after,
                "samples": samples,
                "doubts": tuple(found),
                "unknown": unknowns(states, clock=clock, usage=usage),
                "clock": clock,
                "usage": usage,
                "steady": is_steady(measured.pieces_ms),
            }
        )

    def check(self, options: Sequence[str], what: str) -> Check:
        """The self-check of one variant there.

        Args:
            options: Of the runner.
            what: Is checked, for messages.

        Raises:
            DeviceError: It did not answer, or the connection broke.
        """
        options = ["--selfcheck", *options]
        done = self._execute(self._argv(options), timeout_s=LONGEST_S)
        ended = Ended(
            int(done["status"]), str(done["stdout"]), str(done["stderr"]), self._by_hand(options), done["killed"]
        )
        (found,) = decode(ended, "selfcheck", what, statuses=(0, 1))["selfcheck"]
        return parse_answer(Check, found, self.name)

    def _execute(self, argv: Sequence[str], *, timeout_s: float, more: Mapping[str, Any] | None = None) -> Any:
        """Run something there, in the environment that a service has too; here in that of this process."""
        request = {"argv": list(argv), "timeout_s": timeout_s, "stall_s": STALL_S, **(more or {})}
        request["small"] = not self.connection.device.is_local
        return self.connection.ask("execute", request, hold=True, timeout_s=timeout_s + 60)

    def _argv(self, options: Sequence[str]) -> list[str]:
        return runner_command(self.python, self.folder, options, trusted=self.trusted)[0]

    def _by_hand(self, options: Sequence[str]) -> str:
        where = "" if self.connection.device.is_local else f"on {self.connection.device.name}: "
        python = "python" if self.connection.device.is_local else self.python[0]
        return where + runner_command([python], self.folder, options)[1]


def prepare(
    connection: Connection,
    python: Sequence[str],
    bundle: Path,
    manifest: Manifest,
    name: str,
    progress: Sending | None,
    *,
    trusted: bool = False,
) -> Site:
    """Have a bundle on a device: on this machine as it lies there, on another from the cache.

    Args:
        connection: To the device.
        python: The one with the runtimes.
        bundle: Its folder here, whose files have been checked.
        manifest: Its manifest.
        name: In results.
        progress: Told what is sent.
        trusted: Its own run.py is to measure it.
    """
    if connection.device.is_local:
        return Site(connection, python, str(bundle), name, Sent(0, 0, 0.0), manifest, trusted)
    files = payloads(bundle, manifest)
    folder, sent = connection.deliver(f"bundles/{files[MANIFEST].sha256[:32]}", files, progress)
    if sent.bytes_sent:
        connection.ask("sweep", {"folder": "bundles", "keep": KEPT_BUNDLES})
    return Site(connection, python, folder, name, sent, manifest, trusted)


def payloads(bundle: Path, manifest: Manifest) -> dict[str, Payload]:
    """All files of a bundle, its manifest and signature among them, by their paths in it."""
    files = {entry.path: Payload(bundle / entry.path, entry.sha256, entry.size_bytes) for entry in manifest.files}
    for name in (MANIFEST, SIGNATURE):
        if (bundle / name).is_file():
            files[name] = Payload.of(bundle / name)
    return files


def cool_down(connection: Connection, start: Mapping[str, float], most_s: float) -> float:
    """Wait until a device is as cool as it was, or for the whole time where it does not say how warm it is.

    Args:
        connection: To the device.
        start: Degrees Celsius by thermal zone, when it was cool.
        most_s: Longest wait in seconds.

    Returns:
        Seconds that were waited.
    """
    began = time.monotonic()
    while (waited := time.monotonic() - began) < most_s:
        now = Conditions.of(connection.ask("conditions")).temperature_c if start else {}
        if start and all(now.get(zone, 0.0) <= value + COOL_C for zone, value in start.items()):
            break
        time.sleep(min(_LOOK_S, most_s - waited))
    return time.monotonic() - began
