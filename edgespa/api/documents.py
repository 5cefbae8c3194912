"""What each command prints with ``--json``: its type, from which docs/reference/json.md and the JSON schemas are made.

What a command prints as a model of its own is that model; what it puts together has its type here. A key that is no
longer there, or means something else, is a new `VERSION`; a new key is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict  # not that of typing: pydantic needs what Python 3.12 has

from edgespa.api.documents_of_devices import (
    AgentWritten,
    Card,
    DeviceListed,
    Latencies,
    Packed,
    ProfiledThere,
    Pulled,
    Pushed,
    RemovedThere,
    ShippedThere,
    Signed,
    StatusThere,
    SwitchedThere,
    Unpacked,
    Verified,
)
from edgespa.api.documents_of_models import (
    Compressed,
    Described,
    Difference,
    Family,
    Inspected,
    NamedSpec,
    Searched,
    SpecChecked,
    Sweep,
    TaskMade,
)
from edgespa.bundle import Manifest
from edgespa.device.board import Device
from edgespa.device.inventory import Inventory
from edgespa.device.measure.results import Profile
from edgespa.device.provision.pulling import PullSetUp
from edgespa.device.provision.setup import SetUp
from edgespa.device.shipment.depot import Published
from edgespa.findings.dataset import Health
from edgespa.findings.evaluation import Details

VERSION = 1
_CLOSED = with_config(ConfigDict(extra="forbid"))


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
