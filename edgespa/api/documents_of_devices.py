"""What commands on bundles and devices print with ``--json``; see `edgespa.api.documents`."""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # not that of typing: pydantic needs what Python 3.12 has

from edgespa.api.latency_results import TableFigures
from edgespa.bundle import Quality
from edgespa.device.board import Device
from edgespa.device.measure.quality import DeviceQuality
from edgespa.device.measure.results import Check, Profile
from edgespa.device.shipment.results import DeviceStatus, Removed, Shipped, Switched
from edgespa.exporting.layer_errors import LayerError

_CLOSED = with_config(ConfigDict(extra="forbid"))


@_CLOSED
class Problem(TypedDict):
    """What went wrong on a device."""

    message: str
    hint: str | None


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
