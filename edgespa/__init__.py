"""edgespa: small, fast, proved-correct per-task vision models for edge devices.

    import edgespa as es

    task = es.prune(model, density=0.5, input_shape=(1, 3, 224, 224), output="cut.spa")
    bundle = es.export(task, output="cut", formats=("onnx",))
    es.profile(bundle)

What is listed here is the public interface; what may change is said in docs/reference/stability.md. Importing it loads
neither torch nor any other library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgespa.api.results import (
        Bundle,
        Inspection,
        Profile,
        Result,
        Rollback,
        Shipping,
        Status,
        TaskFile,
        Verification,
    )
    from edgespa.api.verbs import (
        adapt,
        export,
        inspect,
        open_bundle,
        open_task,
        profile,
        prune,
        rollback,
        ship,
        status,
        verify,
    )
    from edgespa.errors import EdgespaError

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "EdgespaError",
    "Inspection",
    "Profile",
    "Result",
    "Rollback",
    "Shipping",
    "Status",
    "TaskFile",
    "Verification",
    "adapt",
    "export",
    "inspect",
    "open_bundle",
    "open_task",
    "profile",
    "prune",
    "rollback",
    "ship",
    "status",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kind = "results" if name[0].isupper() else "verbs"
    place = "edgespa.errors" if name == "EdgespaError" else f"edgespa.api.{kind}"
    return getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
