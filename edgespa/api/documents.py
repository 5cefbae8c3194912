"""What each command prints with ``--json``: its type, from which docs/reference/json.md and the JSON schemas are made.

What a command prints as a model of its own is that model; what it puts together has its type here. A key that is no
longer there, or means something else, is a new `VERSION`; a new key is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import (
    Any,
    NotRequired,  # not those of typing: pydantic needs what Python 3.12 has
)

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from edgespa.api.compress_results import Round, Side
from edgespa.api.latency_results import TableFigures
from edgespa.bundle import Manifest, Quality
from edgespa.data.calibration import CalibrationSpec
from edgespa.device.board import Device
from edgespa.device.inventory import Inventory
from edgespa.device.measure.quality import DeviceQuality
from edgespa.device.measure.results import Check, Profile
from edgespa.device.provision.pulling import PullSetUp
from edgespa.device.provision.setup import SetUp
from edgespa.device.shipment.depot import Published
from edgespa.device.shipment.results import DeviceStatus, Removed, Shipped, Switched
from edgespa.exporting.layer_errors import LayerError
from edgespa.findings.dataset import Health
from edgespa.findings.evaluation import Details
from edgespa.objectives.measured import Measured
from edgespa.trials.record import Search

VERSION = 1
_CLOSED = with_config(ConfigDict(extra="forbid"))


@_CLOSED
class Problem(TypedDict):
    """What went wrong on a device."""

    message: str
    hint: str | None


@_CLOSED
class Totals(TypedDict):
    """Of a whole network."""

    parameters: int
    macs: int
    size_bytes: int


@_CLOSED
class Prunable(TypedDict):
    """What of it can be removed; shares are of all."""

    groups: int
    units: int
    channels: int
    all_channels: int
    channel_share: float
    parameter_share: float
    mac_share: float


@_CLOSED
class Group(TypedDict):
    """Units that share the same slots; of a task, which are kept."""

    name: str
    units: int
    channels_per_unit: int
    parameters: int
    macs: int
    slots: list[dict[str, Any]]
    kept: NotRequired[list[int]]


@_CLOSED
class Fixed(TypedDict):
    """Slots that may not shrink, and why."""

    tensor: str
    dim: int
    indices: list[int]
    reason: str
    cause: str
    kind: str


class Inspected(TypedDict):
    """What can be removed from a model, and what cannot and why; of a task file also what it removed."""

    model: str
    digest: str
    input_shape: list[int]
    inputs: list[str]
    totals: Totals
    prunable: Prunable
    groups: list[Group]
    blocks: list[Any]
    removed: list[Any]
    layers: list[dict[str, Any]]
    modules: list[dict[str, Any]]
    fixed: list[Fixed]
    task: NotRequired[dict[str, Any]]
    says: NotRequired[dict[str, Any]]


@_CLOSED
class DescribedFile(TypedDict):
    """A file of a bundle, and whether it says of itself what the bundle says of it."""

    variant: str
    file: str
    size_bytes: int
    says: str


@_CLOSED
class Described(TypedDict):
    """What a file that is no model to be opened, or a bundle, says of itself."""

    file: str
    kind: str
    size_bytes: int
    says: dict[str, Any]
    files: list[DescribedFile]


@_CLOSED
class TaskMade(TypedDict):
    """A task file, and what its task costs beside its base."""

    file: str
    size_bytes: int
    channel_density: float
    parameters: int
    base_parameters: int
    macs: int
    base_macs: int
    stored_parameters: int
    kept_blocks: str | None
    metrics: dict[str, float | None]
    classes: list[str]
    latency: dict[str, Any] | None
    foretold: list[dict[str, Any]]
    frozen: Any
    blocks: Any
    trained_whole: Any
    other_adapters: Any
    added_norms: int
    lr: Any
    lowered_lr_from: Any
    calibration: NotRequired[Any]
    reconstruction_error: NotRequired[Any]
    curves: NotRequired[Any]
    whole: NotRequired[Any]
    heads: NotRequired[Any]
    shapes: NotRequired[Any]
    depth: NotRequired[Any]


@_CLOSED
class Compressed(TypedDict):
    """A network that was made fast enough for a device."""

    bundle: str
    task: str | None
    device: str
    threads: int
    target_ms: float
    before: Side
    after: Side
    rounds: list[Round]
    lost: dict[str, float]
    speedup: float


@_CLOSED
class Verified(TypedDict):
    """What was checked of a bundle."""

    bundle: str
    task: str
    files: int
    size_bytes: int
    signature: dict[str, str | None]
    own_runner: bool
    run: bool
    variants: list[Check]
    recorded: dict[str, Quality]
    layers: dict[str, list[LayerError]]
    passed: bool
    there: DeviceQuality | None


@_CLOSED
class ProfiledThere(TypedDict):
    """One of several devices."""

    device: str
    profile: Profile | None
    error: Problem | None


@_CLOSED
class ShippedThere(TypedDict):
    """One device; ``state``: what it is at, ``wave``: which it was in, ``in_use``: task -> version seen in use last."""

    device: str
    state: str | None
    wave: int | None
    in_use: dict[str, str | None]
    shipped: list[Shipped]
    error: Problem | None


@_CLOSED
class RemovedThere(TypedDict):
    """One device, of ``ship --remove``."""

    device: str
    removed: Removed | None
    error: str | None


@_CLOSED
class SwitchedThere(TypedDict):
    """One device."""

    device: str
    switched: Switched | None
    error: str | None


@_CLOSED
class StatusThere(TypedDict):
    """One device."""

    device: str
    status: DeviceStatus | None
    error: Problem | None


@_CLOSED
class Entry(TypedDict):
    """A task file of a folder."""

    file: str
    size_bytes: int
    adapter: str | None
    channel_density: float
    parameter_density: float
    mac_density: float
    validation: Measured | None
    test: Measured | None
    alternative_bytes: int
    depth: str | None


@_CLOSED
class Family(TypedDict):
    """A base with its task files."""

    base: str
    digest: str
    base_bytes: int
    entries: list[Entry]
    shared_bytes: int
    separate_bytes: int
    break_even: int | None


@_CLOSED
class Difference(TypedDict):
    """How two task files differ, of ``tasks diff``."""

    fields: dict[str, list[Any]]
    units_both: int
    units_one: int
    units_other: int
    tensors: dict[str, float | None]
    equal: int
    unlike: int
    same: bool


class NamedSpec(CalibrationSpec):
    """A calibration set, by name or file."""

    name: str


@_CLOSED
class SpecChecked(TypedDict):
    """The images of a set; ``same`` where a digest is recorded."""

    name: str
    images: int
    classes: int | None
    fewest_of_a_class: int | None
    most_of_a_class: int | None
    digest: str
    same: bool | None


@_CLOSED
class DeviceListed(TypedDict):
    """A profile, or why it cannot be read."""

    name: str
    path: str | None
    problem: str | None
    device: NotRequired[Device]


@_CLOSED
class Latencies(TypedDict):
    """Latency tables of a device, and what they foretell."""

    device: str
    tables: list[TableFigures]
    predictions: list[dict[str, Any]]
    removed: list[str]


@_CLOSED
class Signed(TypedDict):
    """A bundle, and the fingerprint of the key."""

    bundle: str
    key: str


@_CLOSED
class AgentWritten(TypedDict):
    """The program that pulls, as a file."""

    path: str
    size_bytes: int


@_CLOSED
class Packed(TypedDict):
    """The packed file."""

    archive: str
    size_bytes: int
    sha256: str


@_CLOSED
class Pushed(TypedDict):
    """What was put on a hub or into a registry; what only one of them says is null of the other."""

    target: str
    kind: str
    digest: str
    files: int
    size_bytes: int
    sent: list[str] | None
    mounted: list[str] | None
    sent_bytes: int | None
    requests: int | None
    page: str | None
    private: bool | None


@_CLOSED
class Pulled(TypedDict):
    """What was fetched, and who signed it, where that was checked."""

    source: str
    kind: str
    path: str
    base: str | None
    digest: str
    files: int
    size_bytes: int
    signed_by: str | None
    is_signed: bool


@_CLOSED
class Unpacked(TypedDict):
    """The folder, and who signed it, where that was checked."""

    bundle: str
    task: str
    files: int
    size_bytes: int
    signed_by: str | None


@_CLOSED
class Card(TypedDict):
    """The model card as a text: Markdown, or with --format json a JSON document."""

    bundle: str
    card: str


@_CLOSED
class StepDone(TypedDict):
    """A step of a recipe: the document of its command; None where it was not done."""

    step: str
    command: str
    result: Any


@_CLOSED
class Run(TypedDict):
    """A recipe: whether all was done."""

    done: bool
    steps: list[StepDone]


@_CLOSED
class Checked(TypedDict):
    """Any command with ``--dry-run``: what would be done, as a recipe says it."""

    done: bool
    command: str
    asked: dict[str, Any]


@_CLOSED
class Started(TypedDict):
    """What was written: what was said, and what was found."""

    file: str
    given: dict[str, Any]
    found: dict[str, Any]


@_CLOSED
class Allowed(TypedDict):
    """What a project's file may ask for from now on, of ``init --trust``."""

    file: str
    allowed: list[dict[str, str]]


@_CLOSED
class Completion(TypedDict):
    """The script that lets a shell complete what edgespa takes."""

    shell: str
    script: str


@_CLOSED
class Demo(TypedDict):
    """Figures of the demo."""

    bundle: str
    unpruned: str
    base_accuracy: float
    base_images: int
    test_images: int
    figures: dict[str, Any]
    metrics: dict[str, float | None]
    variants: list[dict[str, Any]]
    seconds: float
    report: str | None


@_CLOSED
class Reported(TypedDict):
    """A page: what is in it, how many things of each kind, and what was there and is not shown."""

    path: str
    size_bytes: int
    sections: list[str]
    counts: dict[str, int]
    notes: list[str]


class Searched(Search):
    """A search, as far as it is: every trial and what became of it; in its folder."""

    folder: str
    page: str | None


@_CLOSED
class SweptTask(TypedDict):
    """A task of a sweep, or its base, as it is now."""

    name: str
    state: str
    why: str
    task: str | None
    task_bytes: int | None
    bundle: str | None
    quality: float | None
    measure: dict[str, Any] | None
    of: str | None
    files: list[dict[str, Any]]
    times: dict[str, dict[str, Any]]
    seconds: float
    error: str | None
    hint: str | None


@_CLOSED
class Sweep(TypedDict):
    """Many tasks over one base: what was made, what is as it was, what failed and what is left to do."""

    folder: str
    sweep: str
    base: SweptTask | None
    tasks: list[SweptTask]
    seconds: float
    done: bool
    dry: bool


DOCUMENTS: Mapping[str, Any] = MappingProxyType(
    {
        "init": Started | Allowed,
        "completion": Completion,
        "compress": Compressed,
        "search": Searched,
        "sweep": Sweep,
        "inspect": Inspected | Described,
        "data": Health,
        "adapt": TaskMade,
        "prune": TaskMade,
        "heal": TaskMade,
        "tasks": list[Family] | Difference,
        "calibration list": list[NamedSpec],
        "calibration show": NamedSpec,
        "calibration check": SpecChecked,
        "calibration make": NamedSpec,
        "export": Manifest,
        "evaluate": Details,
        "verify": Verified,
        "sign": Signed,
        "pack": Packed,
        "unpack": Unpacked,
        "push": Pushed,
        "pull": Pulled,
        "devices list": list[DeviceListed],
        "devices show": Device,
        "devices check": Inventory,
        "devices setup": SetUp,
        "devices latencies": Latencies,
        "devices pull": PullSetUp,
        "devices agent": AgentWritten,
        "profile": Profile | list[ProfiledThere],
        "ship": list[ShippedThere] | list[RemovedThere] | Published,
        "rollback": list[SwitchedThere],
        "status": list[StatusThere],
        "card": Card,
        "report": Reported,
        "run": Run,
        "demo": Demo,
    }
)
"""Command -> what it prints with ``--json``; with ``--dry-run`` it is `Checked`."""


def schema(command: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of what a command prints.

    Args:
        command: Which of `DOCUMENTS`.
    """
    found = TypeAdapter(DOCUMENTS[command]).json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"edgespa {command} --json",
        "version": VERSION,
        **{key: value for key, value in found.items() if key != "title"},
    }


def problems(command: str, document: Any) -> list[str]:
    """What in a document is not as its type says; nothing where all is.

    Args:
        command: Which of `DOCUMENTS`.
        document: As JSON gives it.
    """
    from pydantic import ValidationError

    try:
        TypeAdapter(DOCUMENTS[command]).validate_python(document)
    except ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return []
