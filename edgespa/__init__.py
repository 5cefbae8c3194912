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
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgespa.api.bundle_verbs import open_bundle, verify
    from edgespa.api.compress_results import Compression
    from edgespa.api.compress_verb import compress
    from edgespa.api.data_verb import check_data
    from edgespa.api.device_results import Profiles, Removal, Rollback, Shipping, Status
    from edgespa.api.device_verbs import remove, rollback, ship, status
    from edgespa.api.evaluate_verb import evaluate
    from edgespa.api.finding_results import DataCheck, Evaluation
    from edgespa.api.heal_verb import heal
    from edgespa.api.latencies import latencies
    from edgespa.api.latency_results import Latencies, Prediction
    from edgespa.api.profile_verb import profile
    from edgespa.api.publish_verb import Publication, publish
    from edgespa.api.registry_verbs import Pulled, Pushed, pull, push
    from edgespa.api.report_verb import Report, report
    from edgespa.api.results import Bundle, Inspection, Profile, Result, Verification
    from edgespa.api.rollout_verbs import catch_up
    from edgespa.api.search_results import SearchResult
    from edgespa.api.search_verb import search
    from edgespa.api.sweep_results import SweepResult
    from edgespa.api.sweep_verb import sweep
    from edgespa.api.task_results import TaskFile
    from edgespa.api.task_verbs import adapt, open_task, prune
    from edgespa.api.verbs import export, inspect
    from edgespa.errors import EdgespaError

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Compression",
    "DataCheck",
    "EdgespaError",
    "Evaluation",
    "Inspection",
    "Latencies",
    "Prediction",
    "Profile",
    "Profiles",
    "Publication",
    "Pulled",
    "Pushed",
    "Removal",
    "Report",
    "Result",
    "Rollback",
    "SearchResult",
    "Shipping",
    "Status",
    "SweepResult",
    "TaskFile",
    "Verification",
    "adapt",
    "catch_up",
    "check_data",
    "compress",
    "evaluate",
    "export",
    "heal",
    "inspect",
    "latencies",
    "open_bundle",
    "open_task",
    "profile",
    "prune",
    "publish",
    "pull",
    "push",
    "remove",
    "report",
    "rollback",
    "search",
    "ship",
    "status",
    "sweep",
    "verify",
]


_PLACES = MappingProxyType(
    {
        "errors": ("EdgespaError",),
        "api.results": ("Bundle", "Inspection", "Profile", "Result", "Verification"),
        "api.compress_results": ("Compression",),
        "api.compress_verb": ("compress",),
        "api.data_verb": ("check_data",),
        "api.evaluate_verb": ("evaluate",),
        "api.finding_results": ("DataCheck", "Evaluation"),
        "api.search_results": ("SearchResult",),
        "api.search_verb": ("search",),
        "api.sweep_results": ("SweepResult",),
        "api.sweep_verb": ("sweep",),
        "api.task_results": ("TaskFile",),
        "api.device_results": ("Profiles", "Removal", "Rollback", "Shipping", "Status"),
        "api.latencies": ("latencies",),
        "api.latency_results": ("Latencies", "Prediction"),
        "api.task_verbs": ("adapt", "open_task", "prune"),
        "api.heal_verb": ("heal",),
        "api.registry_verbs": ("Pulled", "Pushed", "pull", "push"),
        "api.report_verb": ("Report", "report"),
        "api.rollout_verbs": ("catch_up",),
        "api.publish_verb": ("Publication", "publish"),
        "api.verbs": ("export", "inspect"),
        "api.bundle_verbs": ("open_bundle", "verify"),
        "api.profile_verb": ("profile",),
        "api.device_verbs": ("remove", "rollback", "ship", "status"),
    }
)


def __getattr__(name: str) -> Any:
    place = next((place for place, names in _PLACES.items() if name in names), None)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgespa.{place}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
