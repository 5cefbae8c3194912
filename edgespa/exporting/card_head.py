"""The head of a model card, in YAML, as the Hugging Face hub takes it: what a search finds a model by.

The words are the hub's (github.com/huggingface/hub-docs, modelcard.md). It is made of the manifest and the profiles,
and of what neither can know: which repository on the hub is the base, and which are the data. YAML is written by a YAML
library, each text on one line; a name that could be taken for something else stands between quotation marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgespa.bundle import Manifest, Quality
from edgespa.errors import ConfigError
from edgespa.objectives.measures import measure_named
from edgespa.system.bounds import shown

if TYPE_CHECKING:
    from edgespa.device.measure.results import Profile, VariantProfile

PIPELINES = {
    "classes": "image-classification",
    "multi-label": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "heatmaps": "keypoint-detection",
    "image": "image-to-image",
    "embedding": "image-feature-extraction",
}
"""What a model of images learns -> what the hub calls it; it has no word for numbers."""
OTHER = "other"
# SPDX identifiers, in lower case, that are licences on the hub; `gpl` and the like say less than a licence does.
LICENSES = frozenset(
    {
        "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bsd",
        "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0",
        "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
        "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0",
        "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0",
        "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c", "ms-pl",
        "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense",
        "zlib", "pddl", "artistic-2.0", "afl-3.0", "bsl-1.0", "apple-amlr", "apple-ascl",
        "deepfloyd-if-license", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3",
    }
)  # fmt: skip
_SAME = {
    "gpl-3.0-only": "gpl-3.0", "gpl-3.0-or-later": "gpl-3.0", "gpl-2.0-only": "gpl-2.0", "gpl-2.0-or-later": "gpl-2.0",
    "agpl-3.0-only": "agpl-3.0", "agpl-3.0-or-later": "agpl-3.0", "lgpl-3.0-only": "lgpl-3.0",
    "lgpl-3.0-or-later": "lgpl-3.0", "lgpl-2.1-only": "lgpl-2.1", "lgpl-2.1-or-later": "lgpl-2.1",
}  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
_DATASET = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./ -]*")
_MOST_TEXT, _MOST_RESULTS = 200, 200
_HUGGINGFACE, _TIMM = re.compile(r"hf://(.+?)(?:@[^@]*)?(?:,.*)?"), re.compile(r"timm:([\w-]+\.[\w.-]+)(?:,.*)?")


def require_names(base_model: str | None, datasets: Sequence[str]) -> None:
    """Refuse what cannot be a repository on the hub.

    Raises:
        ConfigError: It names it.
    """
    if base_model is not None and not _ID.fullmatch(base_model):
        raise ConfigError(f"{shown(base_model)} is no model on the hub", "write ORG/NAME, as its page has it")
    for each in datasets:
        if not _DATASET.fullmatch(each):
            raise ConfigError(f"{shown(each)} is no data set on the hub", "write ORG/NAME, as its page has it")


def card_head(
    manifest: Manifest,
    profiles: Sequence[Profile] = (),
    *,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """The head of the card of a bundle, with the lines around it.

    Args:
        manifest: Of the bundle.
        profiles: What was measured on devices.
        base_model: The base, ``ORG/NAME`` on the hub; None for what the manifest says, if it says a repository.
        datasets: What it was trained on, likewise.

    Raises:
        ConfigError: A name cannot be one on the hub.
    """
    require_names(base_model, datasets)
    task = manifest.provenance.get("task")
    base = base_model or (base_on_hub(manifest.base.spec) if manifest.base.weights is None else None)
    pipeline = PIPELINES.get(manifest.learns) if manifest.preprocessing is not None else None
    if manifest.decoding is not None:
        pipeline = PIPELINES["detection"]
    values = head_of(
        license=manifest.base.license,
        base=base,
        relation="finetune" if isinstance(task, dict) else "quantized",
        datasets=datasets,
        pipeline=pipeline,
        tags=tuple(_tags(manifest, trained=isinstance(task, dict))),
    )
    if results := list(_results(manifest, profiles, pipeline or OTHER))[:_MOST_RESULTS]:
        values["model-index"] = [{"name": one_line(manifest.task), "results": results}]
    return written(values)


def head_of(
    *,
    license: str | None,
    base: str | None,
    relation: str,
    datasets: Sequence[str],
    pipeline: str | None,
    tags: Sequence[str],
) -> dict[str, Any]:
    """What all heads have, in the order in which the hub's own cards have it."""
    values: dict[str, Any] = {**license_words(license)}
    if base is not None:
        values |= {"base_model": base, "base_model_relation": relation}
    if datasets:
        values["datasets"] = list(dict.fromkeys(datasets))
    values["library_name"] = "edgespa"
    if pipeline is not None:
        values["pipeline_tag"] = pipeline
    values["tags"] = list(dict.fromkeys(tags))
    return values


def license_words(license: str | None) -> dict[str, str]:
    """How the hub is told a licence: by its own word for it, or by name.

    Args:
        license: An SPDX identifier or words; None if not known.
    """
    if license is None or not license.strip():
        return {"license": "unknown"}
    word = "-".join(license.lower().split())
    word = _SAME.get(word, word)
    return {"license": word} if word in LICENSES else {"license": OTHER, "license_name": one_line(license)}


def base_on_hub(spec: str) -> str | None:
    """The repository on the hub that a model spec names; None where it names none."""
    for pattern, before in ((_HUGGINGFACE, ""), (_TIMM, "timm/")):
        found = pattern.fullmatch(spec)
        if found is not None and _ID.fullmatch(name := f"{before}{found[1]}") and ".." not in name:
            return name
    return None


def _tags(manifest: Manifest, *, trained: bool) -> Iterator[str]:
    yield "edgespa"
    yield from (each.format for each in manifest.variants)
    yield from (each.precision for each in manifest.variants if each.precision != "fp32")
    density = manifest.compaction.channel_density
    if trained and (manifest.compaction.parameter_density < 1 or (density is not None and density < 1)):
        yield "pruned"
    yield "edge"


def _results(manifest: Manifest, profiles: Sequence[Profile], task: str) -> Iterator[dict[str, Any]]:
    """Quality by data, then latency by device; the files are told apart by the names of the metrics."""
    by_data: dict[str, list[dict[str, Any]]] = {}
    for variant in manifest.variants:
        if variant.accuracy is not None:
            by_data.setdefault(variant.accuracy.data, []).extend(_metrics(variant.accuracy, variant.name))
    for data, metrics in by_data.items():
        yield _result(task, "data", data, metrics)
    by_device: dict[str, list[dict[str, Any]]] = {}
    for profile in sorted(profiles, key=lambda each: each.created):
        for result in profile.results:
            # An emulator's times mean nothing, and a number that somebody finds by searching stands alone.
            if result.bundle == profile.bundle and not profile.emulated:
                metrics = by_device.setdefault(_device(profile, result), [])
                metrics[:] = [each for each in metrics if each["name"] != _latency(result)["name"]]
                metrics.append(_latency(result))
    for device, metrics in by_device.items():
        yield _result(task, "latency", device, metrics)


def _result(task: str, kind: str, name: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    return {"task": {"type": task}, "dataset": {"type": kind, "name": one_line(name)}, "metrics": metrics}


def _metrics(quality: Quality, name: str) -> Iterator[dict[str, Any]]:
    measures = [(quality.of, quality.value), *((measure_named(key), value) for key, value in quality.others.items())]
    for measure, value in measures:
        yield {"type": measure.name, "value": float(f"{value:.6g}"), "name": one_line(f"{measure.title} ({name})")}


def _device(profile: Profile, result: VariantProfile) -> str:
    device = profile.host.cpu_model or profile.host.machine
    if profile.device not in ("local", device):
        device = f"{device} ({profile.device})"
    provider = (result.provider or "CPU").removesuffix("ExecutionProvider")
    where = "" if provider.startswith("CPU") else f", {provider}"
    return f"{device}{where}, {result.on_threads}"


def _latency(result: VariantProfile) -> dict[str, Any]:
    # What one file takes in several runtimes or numbers is several results.
    how = [result.variant]
    if result.runtime is not None:
        how.append(result.runtime)
    if result.arithmetic not in (None, "fp32"):
        how.append(str(result.arithmetic))
    doubt = ", not clean" if result.clean is False else ""
    name = f"median latency in ms ({' in '.join(how)}{doubt})"
    return {"type": "latency", "value": float(f"{result.p50_ms:.4g}"), "name": one_line(name)}


def one_line(text: str) -> str:
    """A text without breaks and signs that cannot be shown, and not longer than a line."""
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return plain[:_MOST_TEXT] or "unnamed"


def written(values: Mapping[str, Any]) -> str:
    """Values as YAML, with the lines that a card has around them."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # it ships no types
        """Puts every text between quotation marks that is not plain in every version of YAML."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
            return super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> Any:
        style = None if _PLAIN.fullmatch(value) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    content = yaml.dump(dict(values), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{content}---\n"
