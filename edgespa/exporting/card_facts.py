"""What a model card says, as values: where a bundle comes from, under which licence, and what made and measured it.

For programs that keep an inventory of models (an AI bill of materials). Made of the manifest and the profiles alone, in
one order, so the same bundle gives the same bytes. What is not recorded is null, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgespa.bundle import Manifest, Quality
from edgespa.exporting.card_head import base_on_hub, license_words

if TYPE_CHECKING:
    from edgespa.device.measure.results import Profile

FACTS_VERSION = 1
# Of how a task was made: what a reader wants to know; curves and histories stay in the bundle's manifest.
_HOW = ("method", "learns", "teacher", "towards", "config", "lr", "metrics")


def card_facts(manifest: Manifest, classes: Sequence[str], profiles: Sequence[Profile] = ()) -> dict[str, Any]:
    """What `model_card` says, for programs.

    Args:
        manifest: Of the bundle.
        classes: The names of the outputs; empty where they are not known.
        profiles: What was measured on devices.

    Returns:
        Plain values: ``name``, ``learns``, ``created``, ``seal``, ``classes``, ``base``, ``data``, ``how``, ``tools``,
        ``size``, ``files`` (with digests), ``quality``, ``latency``; ``schema_version`` says which form it is.
    """
    base = manifest.base
    task = manifest.provenance.get("task")
    return {
        "schema_version": FACTS_VERSION,
        "name": manifest.task,
        "learns": manifest.learns,
        "created": manifest.created,
        "seal": manifest.seal,
        "classes": list(classes),
        "base": {
            "spec": base.spec,
            "weights": base.weights,
            "digest": base.digest,
            "license": base.license,
            "license_on_hub": license_words(base.license)["license"] if base.license else None,
            "on_hub": base_on_hub(base.spec) if base.weights is None else None,
        },
        "data": list(_data(manifest)),
        "how": _how(task),
        "task_file_sha256": manifest.provenance.get("task_file_sha256"),
        "tools": list(_tools(manifest)),
        "size": manifest.compaction.model_dump(mode="json"),
        "files": [entry.model_dump(mode="json") for entry in manifest.files],
        "quality": list(_quality(manifest)),
        "latency": list(_latency(profiles)),
    }


def facts_text(facts: Mapping[str, Any]) -> str:
    """The facts as a file has them: JSON, two spaces, one order."""
    return json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _data(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Each set of data once per use; a bundle records names, and no licences of data."""
    seen = set()
    for use, name, count in _named(manifest):
        if (use, name) not in seen:
            seen.add((use, name))
            yield {"use": use, "name": name, "samples": count, "license": None}


def _named(manifest: Manifest) -> Iterator[tuple[str, str, int | None]]:
    """Use, name and samples of what was looked at, beginning with the last training."""
    step = manifest.provenance.get("task")
    while isinstance(step, dict):
        if isinstance(step.get("data"), str):
            yield "training", str(step["data"]), None
        seen = step.get("calibration")
        if isinstance(seen, dict) and isinstance(seen.get("data"), str):
            count = seen.get("images")
            yield "calibration", str(seen["data"]), count if isinstance(count, int) else None
        step = step.get("start")  # the task that it began with
    for quality in (manifest.reference_accuracy, *(each.accuracy for each in manifest.variants)):
        if quality is not None:
            yield "evaluation", quality.data, quality.count
    for variant in manifest.variants:
        if variant.agreement is not None:
            yield "comparison", variant.agreement.data, variant.agreement.count


def _how(task: object) -> dict[str, Any] | None:
    return {key: task[key] for key in _HOW if key in task} if isinstance(task, dict) else None


def _tools(manifest: Manifest) -> Iterator[dict[str, Any]]:
    yield {"name": "edgespa", "version": manifest.edgespa_version, "use": "export"}
    for values, use in ((manifest.provenance, "export"), (manifest.provenance.get("task"), "training")):
        if isinstance(values, dict) and isinstance(version := values.get("torch"), str):
            yield {"name": "torch", "version": version, "use": use}
    for variant in manifest.variants:
        for runtime in dict.fromkeys((variant.runtime, *(each.runtime for each in variant.proofs))):
            name, _, version = runtime.rpartition(" ")
            yield {"name": name or runtime, "version": version if name else None, "use": f"proof of {variant.name}"}


def _quality(manifest: Manifest) -> Iterator[dict[str, Any]]:
    if manifest.reference_accuracy is not None:
        yield _figures(None, manifest.reference_accuracy)
    for variant in manifest.variants:
        if variant.accuracy is not None:
            yield _figures(variant.name, variant.accuracy)


def _figures(variant: str | None, quality: Quality) -> dict[str, Any]:
    return {
        "variant": variant,
        "measure": quality.measure,
        "value": quality.value,
        "others": dict(quality.others),
        "samples": quality.count,
        "data": quality.data,
    }


def _latency(profiles: Sequence[Profile]) -> Iterator[dict[str, Any]]:
    for profile in sorted(profiles, key=lambda each: each.created):
        for result in profile.results:
            if result.bundle == profile.bundle:
                yield {
                    "device": profile.device,
                    "cpu": profile.host.cpu_model or profile.host.machine,
                    "emulated": profile.emulated,
                    "variant": result.variant,
                    "runtime": result.runtime,
                    "threads": result.threads,
                    "cores": result.cores,
                    "p50_ms": result.p50_ms,
                    "p90_ms": result.p90_ms,
                    "peak_kib": result.peak_kib,
                    "clean": result.clean,
                    "when": profile.created,
                }
