"""The plan of a profile: which files are measured in which runtimes, in which order, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgespa.bundle import Manifest
from edgespa.bundle.variant import FOR_PYTORCH
from edgespa.device.inventory import try_providers
from edgespa.device.link.transport import Connection
from edgespa.device.measure.results import Listed, Skipped
from edgespa.device.measure.settings import ALL, ARITHMETICS, FLOAT, Settings
from edgespa.device.measure.site import Site
from edgespa.device.providers import CPU, for_format, full_name
from edgespa.device.runner.engines import provider_arithmetics
from edgespa.device.runner.runtimes import RUNTIMES, how_to_get, serves
from edgespa.errors import DeviceError
from edgespa.system.started import extras_of

_Where = tuple[str | None, str | None, str | None]
"""A runtime, a provider of it, and in which numbers it computes; None for the runner's own choice."""


@dataclass(frozen=True)
class Step:
    """One measurement: which bundle (0, or 1 for what it is compared with), and how."""

    side: int
    variant: str
    threads: int
    runtime: str | None
    provider: str | None
    arithmetic: str | None
    cores: str | None = None

    @property
    def how(self) -> tuple[str, int, str | None, str | None, str | None, str | None]:
        """All of it but the bundle."""
        return self.variant, self.threads, self.runtime, self.provider, self.arithmetic, self.cores

    @property
    def is_extra(self) -> bool:
        """Whether it is one more way beside the usual one: the others are measured also where it fails."""
        return self.runtime is not None or self.arithmetic is not None or self.cores is not None

    def words(self, name: str) -> str:
        """What is measured, for who waits, with the name of the bundle."""
        bound = f"cores {self.cores}" if self.cores else None
        more = "".join(f", {each}" for each in (bound, self.runtime, self.provider, self.arithmetic) if each)
        return f"{name}: {self.variant}, {self.threads} thread{'s' if self.threads > 1 else ''}{more}"


def plan_of(
    sites: Sequence[Site],
    manifests: Sequence[Manifest],
    settings: Settings,
    unusable: Mapping[str, str],
    ways: Sequence[tuple[int, str | None]],
) -> tuple[list[Step], list[Skipped]]:
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
        if all(each.variant.partition("-")[0] in FOR_PYTORCH for each in skipped):
            raise DeviceError(f"{sites[0].name}: {skipped[0].reason}", "export it with --format onnx or tflite too")
        where = "here" if sites[0].connection.device.is_local else f"on {sites[0].connection.device.name}"
        install = (
            f"pip install 'edgespa[{extras_of([each.variant for each in skipped], settings.runtimes)}]'"
            if sites[0].connection.device.is_local
            else f"edgespa devices setup {sites[0].connection.device.asked}"
        )
        if settings.runtimes and not any(serves(each) for each in settings.runtimes):
            install = how_to_get(settings.runtimes[0])
        raise DeviceError(f"{sites[0].name}: no variant can run {where}: {skipped[0].reason}", install)
    order = dict.fromkeys(name for found in chosen for name in found)
    # Bundles innermost: what is compared is measured back to back.
    plan = [
        Step(side, variant, count, *where, cores)
        for count, cores in ways
        for variant in order
        for where in dict.fromkeys(each for found in chosen for each in found.get(variant, ()))
        for side, found in enumerate(chosen)
        if where in found.get(variant, ()) and ((count, cores) == ways[0] or serves(where[0] or ""))
    ]  # programs of the machine take no threads: they are measured once
    return plan, skipped


def _runnable(
    site: Site, wanted: Sequence[str] | None, settings: Settings, unusable: Mapping[str, str]
) -> tuple[dict[str, tuple[_Where, ...]], list[Skipped]]:
    """The variants to measure with their runtimes and providers, and those that are left out."""
    found: dict[str, tuple[_Where, ...]] = {}
    rows = [row for row in site.list_variants() if wanted is None or row.name in wanted]
    missing = []
    providers = settings.providers
    for row in rows:
        asked = for_format(row.format, providers)
        fitting = tuple(each for each in asked if each not in unusable)
        reason = None if asked else f"none of the providers {', '.join(providers)} runs {row.format} files"
        failing = [f"{each}: {unusable[each]}" for each in asked if each is not None and each in unusable]
        others = [each for each in row.others if each in settings.runtimes or ALL in settings.runtimes]
        usual = row.runtime is not None and _is_asked(row.runtime, settings.runtimes)
        if row.runtime is None and not others:
            reason = row.reason or "its runtime is not installed"
        elif not usual and not others:
            reason = f"none of the runtimes {', '.join(settings.runtimes)} is there for {row.format} files"
        elif failing and not fitting:
            reason = "; ".join(failing)
        elif failing:
            missing += [Skipped(bundle=site.name, variant=row.name, reason=each) for each in failing]
        elif (
            row.runtime is None and ALL in settings.runtimes
        ):  # others have it, and the one that it is proved in is away
            missing.append(
                Skipped(bundle=site.name, variant=row.name, reason=row.reason or "its runtime is not installed")
            )
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
    return found, [*missing, *_absent_programs(site, rows, settings)]


def _absent_programs(site: Site, rows: Sequence[Listed], settings: Settings) -> list[Skipped]:
    """The programs that are asked for, or that a device of this kind may have, and are not there; how to get them."""
    found = []
    for each in RUNTIMES:
        expected = ALL in settings.runtimes and site.connection.device.takes_symmetric
        fitting = [row.name for row in rows if row.format == each.kind]
        there = any(each.name in row.others for row in rows)
        if each.program is not None and fitting and not there and (expected or each.name in settings.runtimes):
            reason = f"{each.name} is not there: {how_to_get(each.name)}"
            found.append(Skipped(bundle=site.name, variant=fitting[0], reason=reason))
    return found


def unusable_providers(connection: Connection, python: Sequence[str], asked: Sequence[str]) -> dict[str, str]:
    """The providers that are asked for and do not compute there, and why: each is tried, for a list proves nothing."""
    wanted = [name for name in dict.fromkeys(full_name(each) for each in asked) if name != CPU]
    if not wanted:
        return {}
    tried = {each.provider: each for each in try_providers(connection, python) if each.runtime == "onnxruntime"}
    reasons = {name: tried[name].error if name in tried else "its runtime has no such provider" for name in wanted}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _numbers(there: Sequence[str], settings: Settings) -> list[str | None]:
    """What to have float32 computed in, of what a runtime can beside it; None is float32."""
    asked = settings.arithmetics or (ARITHMETICS if settings.runtimes or settings.providers else ARITHMETICS[:1])
    return [None if each == FLOAT else each for each in asked if each == FLOAT or each in there]


def _is_asked(runtime: str, asked: Sequence[str]) -> bool:
    """Whether the usual runtime, by its name and version, is to be measured."""
    return not asked or ALL in asked or runtime.partition(" ")[0] in asked


def order(plan: Sequence[Step], step: Step) -> tuple[int, int, int, str, str, str, str]:
    """Of results: as the manifests have the variants."""
    where = str(step.runtime), str(step.provider), step.arithmetic or ""
    return (step.side, _place(plan, step.variant), step.threads, step.cores or "", *where)


def _place(plan: Sequence[Step], variant: str) -> int:
    return next(i for i, step in enumerate(plan) if step.variant == variant)
