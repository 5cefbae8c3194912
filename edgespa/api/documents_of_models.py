"""What commands on models and tasks print with ``--json``; see `edgespa.api.documents`."""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # not that of typing: pydantic needs what Python 3.12 has

from edgespa.api.compress_results import Round, Side
from edgespa.data.calibration import CalibrationSpec
from edgespa.objectives.measured import Measured
from edgespa.trials.record import Search

_CLOSED = with_config(ConfigDict(extra="forbid"))


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
