"""What a page is made of: bundles, tasks, profiles, logs and the rest, read already and as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from edgespa.bundle import Manifest, Variant
from edgespa.device.measure.results import Profile, VariantProfile
from edgespa.findings.dataset import Health
from edgespa.findings.evaluation import Details
from edgespa.reports.page.parts import Picture
from edgespa.trials.record import Search
from edgespa.trials.swept import SweepRecord


@dataclasses.dataclass(frozen=True)
class Subject:
    """Whatever a page is about.

    Attributes:
        name: On the page; no two have the same.
        link: Relative to the page.
    """

    name: str
    link: str

    def beside(self, path: str) -> str:
        """The link to what lies in the same folder, below it; of a path that may be anybody's.

        Args:
            path: From that folder.
        """
        head, slash, _ = self.link.rpartition("/")
        return f"{head}{slash}{quote(path)}"


@dataclasses.dataclass(frozen=True)
class NamedLayer:
    """An operator that a runtime told of.

    Attributes:
        layer: The module whose weights it has, or as the runtime calls it.
        macs: Multiply-accumulates of a sample; 0 where that is not known.
        remark: What it costs that need not be, and what would help.
    """

    layer: str
    macs: int = 0
    remark: str | None = None


@dataclasses.dataclass(frozen=True)
class FoundBundle(Subject):
    """A bundle whose files are as its manifest says.

    Attributes:
        manifest: Its manifest.
        profiles: Those in it.
        signed: By whom, or what is to be said of its signature.
        packed: It is one file, so its files have no links.
        folder: The name that its profiles know it by.
        examples: What its files say of some inputs.
        remarks: What could not be shown, and why.
        layers: By variant and the name of an operator, what that is; of those that a profile tells of.
    """

    manifest: Manifest
    profiles: tuple[Profile, ...] = ()
    signed: str = ""
    packed: bool = False
    folder: str = ""
    examples: tuple[Picture, ...] = ()
    examples_of: str = ""
    remarks: tuple[str, ...] = ()
    layers: Mapping[str, Mapping[str, NamedLayer]] = dataclasses.field(default_factory=dict)

    @property
    def modules(self) -> Sequence[Mapping[str, Any]]:
        """What each module has and had; nothing where an older edgespa did not say."""
        return modules_in(self.manifest.provenance.get("modules"))

    @property
    def training(self) -> Mapping[str, Any]:
        """How its task was made; nothing for a plain conversion."""
        task = self.manifest.provenance.get("task")
        return task if isinstance(task, dict) else {}


@dataclasses.dataclass(frozen=True)
class FoundTask(Subject):
    """A task file.

    Attributes:
        size_bytes: Of the file.
        header: What it says.
        kept: By channel group: units kept, and all.
        modules: As of `FoundBundle`, where its base could be opened.
    """

    size_bytes: int
    header: Mapping[str, Any]
    kept: Mapping[str, tuple[int, int]]
    modules: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True)
class FoundProfile(Subject):
    """A profile that lies by itself."""

    profile: Profile


@dataclasses.dataclass(frozen=True)
class FoundLog(Subject):
    """A training log: its events in their order."""

    events: tuple[Mapping[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class FoundText(Subject):
    """A recipe: its text."""

    text: str


@dataclasses.dataclass(frozen=True)
class FoundDepth(Subject):
    """What `prune --method sls --plot FILE.json` saw: see `edgespa.reports.depth_plot.depth_json`."""

    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class FoundEvaluation(Subject):
    """What `edgespa evaluate --output` wrote."""

    details: Details


@dataclasses.dataclass(frozen=True)
class FoundHealth(Subject):
    """What `edgespa data --output` wrote."""

    health: Health


@dataclasses.dataclass(frozen=True)
class FoundSearch(Subject):
    """The record of a search."""

    search: Search


@dataclasses.dataclass(frozen=True)
class FoundSweep(Subject):
    """The record of a sweep."""

    sweep: SweepRecord


@dataclasses.dataclass(frozen=True)
class Found:
    """Everything.

    Attributes:
        notes: What was given and is not shown, and why.
    """

    bundles: tuple[FoundBundle, ...] = ()
    tasks: tuple[FoundTask, ...] = ()
    profiles: tuple[FoundProfile, ...] = ()
    logs: tuple[FoundLog, ...] = ()
    recipes: tuple[FoundText, ...] = ()
    depths: tuple[FoundDepth, ...] = ()
    evaluations: tuple[FoundEvaluation, ...] = ()
    healths: tuple[FoundHealth, ...] = ()
    searches: tuple[FoundSearch, ...] = ()
    sweeps: tuple[FoundSweep, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Timed:
    """A file of a bundle as it was measured in one way.

    Attributes:
        device: Where.
        bundle: By its name on the page.
        variant: The file; None of a bundle that is not there.
        manifest: Of its bundle, likewise.
        result: The measurement.
        holds: Whether its outputs come out there; None where that was not looked at.
        profile: That it is of.
        layers: By the name of an operator, what that is.
    """

    device: str
    bundle: str
    variant: Variant | None
    manifest: Manifest | None
    result: VariantProfile
    holds: bool | None
    profile: Profile
    layers: Mapping[str, NamedLayer] = dataclasses.field(default_factory=dict)

    @property
    def way(self) -> str:
        """Where and how: the device, the runtime with its numbers and provider, threads."""
        result = self.result
        plain = result.arithmetic in (None, "fp32")
        provider = (result.provider or "").removesuffix("ExecutionProvider")
        words = [
            self.device + (" (emulated)" if self.profile.emulated else ""),
            (result.runtime or "runtime not told") + ("" if plain else f" {result.arithmetic}"),
            *([provider] if provider not in ("", "CPU", "XNNPACK") else []),
            result.on_threads,
        ]
        return ", ".join(words)


def timings(found: Found) -> list[Timed]:
    """All measurements, of bundles' own profiles and of those that lie by themselves; none twice."""
    by_folder: dict[str, list[FoundBundle]] = {}
    for bundle in found.bundles:
        by_folder.setdefault(bundle.folder, []).append(bundle)
    owned: list[tuple[Profile, FoundBundle | None]] = []
    owned += [(profile, bundle) for bundle in found.bundles for profile in bundle.profiles]
    owned += [(each.profile, None) for each in found.profiles]
    rows: dict[tuple[Any, ...], Timed] = {}
    for profile, owner in owned:
        for result in profile.results:
            likely = by_folder.get(result.bundle, [])
            own = owner if result.bundle == profile.bundle else None
            if own is None and len(likely) == 1:
                own = likely[0]
            way = (result.variant, result.runtime, result.provider, result.arithmetic)
            key = (profile.created, profile.device, result.bundle, result.threads, result.cores, *way)
            rows.setdefault(key, _timed(profile, result, own))
    return list(rows.values())


def _timed(profile: Profile, result: VariantProfile, bundle: FoundBundle | None) -> Timed:
    manifest = None if bundle is None else bundle.manifest
    variants = () if manifest is None else manifest.variants
    way = (result.variant, result.runtime, result.provider, result.arithmetic)
    proofs = [
        each.holds
        for each in profile.proofs
        if result.bundle == profile.bundle and (each.variant, each.runtime, each.provider, each.arithmetic) == way
    ]
    return Timed(
        profile.device,
        result.bundle if bundle is None else bundle.name,
        next((each for each in variants if each.name == result.variant), None),
        manifest,
        result,
        all(proofs) if proofs else None,
        profile,
        {} if bundle is None else bundle.layers.get(result.variant, {}),
    )


def modules_in(value: Any) -> Sequence[Mapping[str, Any]]:
    """Rows of `edgespa.tasks.modules.describe_modules`, of a file that may be anybody's: what reads odd is left out."""
    numbers = ("parameters", "base_parameters", "macs", "base_macs")
    rows = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    return [
        each
        for each in rows
        if isinstance(each.get("module"), str)
        and all(isinstance(each.get(key), int) and each[key] >= 0 for key in numbers)
        and all(each.get(key) is None or isinstance(each[key], int) for key in ("channels", "base_channels"))
    ]
