"""The card of a task file on a hub: what it adds to which base, made of nothing but its header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgespa.exporting.card_head import OTHER, PIPELINES, base_on_hub, head_of, one_line, require_names, written
from edgespa.objectives.measured import measured
from edgespa.tasks.task import Header

_MOST_CLASSES = 20


def task_card(
    name: str,
    header: Header,
    *,
    base: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """The card of a task file, with its head in YAML.

    Args:
        name: Of the file.
        header: Of it.
        base: The name of the file with its base's tensors, where that lies beside it.
        license: Of the base's weights.
        base_model: The base, ``ORG/NAME`` on the hub; None for what the header says, if it says a repository.
        datasets: What it was trained on, likewise.

    Raises:
        ConfigError: A name cannot be one on the hub.
    """
    require_names(base_model, datasets)
    spec, weights = str(header.base.get("spec")), header.base.get("weights")
    pipeline = PIPELINES.get(_learns(header)) if header.preprocess is not None else None
    density = header.figures.channel_density
    values = head_of(
        license=license,
        base=base_model or (base_on_hub(spec) if weights is None else None),
        relation="adapter",
        datasets=datasets,
        pipeline=pipeline,
        tags=["edgespa", "edgespa-task", *(["pruned"] if density < 1 else []), "edge"],
    )
    numbers = dict(header.metrics)
    metrics = [
        {
            "type": each.measure.name,
            "value": float(f"{each.value:.6g}"),
            "name": one_line(each.name),
        }
        for each in measured(numbers)
    ]
    title = name.rpartition(".")[0] or name
    if metrics:
        data = {"type": "data", "name": one_line(_data(header) or "recorded when it was made")}
        result = {"task": {"type": pipeline or OTHER}, "dataset": data, "metrics": metrics}
        values["model-index"] = [{"name": one_line(title), "results": [result]}]
    return written(values) + "\n" + "\n".join(_body(title, name, header, spec, base, license)) + "\n"


def _learns(header: Header) -> str:
    config = header.provenance.get("config")
    found = config.get("objective") if isinstance(config, dict) else None
    return found if isinstance(found, str) else "classes"


def _data(header: Header) -> str | None:
    config: Any = header.provenance
    found = config.get("data")
    return Path(found).name if isinstance(found, str) else None


def _body(title: str, name: str, header: Header, spec: str, base: str | None, license: str | None) -> Iterator[str]:
    from edgespa.exporting.card import as_code, as_text

    figures = header.figures
    yield f"# {as_text(title)}"
    yield ""
    yield "A task file of edgespa: what one task adds to its base, a pretrained network. It is merged into the base's"
    yield "weights, and exported, on your machine."
    yield ""
    yield f"- base: `{as_code(_last(spec))}`, digest `{as_code(header.digest)}`"
    yield f"- its weights: `{as_code(base)}` beside this file" if base else "- its weights do not lie here"
    known = as_text(license) if license else "not recorded; whatever it is, it applies to this file"
    yield f"- licence of the base: {known}"
    yield f"- channels kept: {figures.channel_density:.1%}"
    yield f"- parameters, merged: {figures.parameters:,} of {figures.base_parameters:,}"
    yield f"- MACs: {figures.macs:,} of {figures.base_macs:,}"
    numbers = dict(header.metrics)
    yield from (f"- {as_text(each.name)}: {as_text(str(each))}" for each in measured(numbers))
    if header.classes:
        shown = ", ".join(as_text(each) for each in header.classes[:_MOST_CLASSES])
        more = ", ..." if len(header.classes) > _MOST_CLASSES else ""
        yield f"- classes, {len(header.classes)}: {shown}{more}"
    yield ""
    yield "```sh"
    yield f"edgespa export {as_code(name)} --output=bundle"
    yield "```"


def _last(spec: str) -> str:
    """A spec without the folders of the machine that it was typed on."""
    return spec.rpartition("/")[2] if spec.startswith(("/", "~")) else spec
