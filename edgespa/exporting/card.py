"""The model card: README.md of a bundle, made of nothing but its manifest, its labels and its profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from edgespa.adapters.kinds import FULL, KINDS
from edgespa.bundle import Manifest, TensorSpec
from edgespa.bundle.variant import FOR_PYTORCH
from edgespa.exporting.card_head import card_head
from edgespa.objectives.measured import measured, others
from edgespa.objectives.measures import measure_named
from edgespa.pixels.words import steps

if TYPE_CHECKING:
    from edgespa.device.measure.results import Profile, VariantProfile

_MOST_CLASSES = 20
_SPACES = {
    "classes": "one of several classes",
    "multi-label": "any of several labels",
    "regression": "numbers",
    "segmentation": "a class for each pixel",
}
_PACKAGES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert", "ncnn": "ncnn", "executorch": "executorch torch"}
_ONWARD = {
    "pt2": '`torch.export.load("{file}").module()`: the exported program, in evaluation form',
    "python": "`{file}`: its source, of ordinary layers; `build()` gives the network with its weights, and it trains",
}
# Of how a task was made: what a reader wants to know, with the words for it.
_HOW = {
    "method": "method",
    "adapter": "adapter",
    "rank": "rank",
    "density": "asked density",
    "criterion": "criterion",
    "schedule": "schedule",
    "reweight": "new weights for readers",
    "allocation": "budget per layer",
    "epochs": "epochs",
    "seed": "seed",
}


def whole_card(
    manifest: Manifest,
    classes: Sequence[str],
    profiles: Sequence[Profile] = (),
    *,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """The card as a hub takes it: `model_card` below its head in YAML.

    Args:
        manifest: Of the bundle; its ``files`` and ``seal`` are not looked at.
        classes: The names of the outputs; empty where they are not known.
        profiles: What was measured on devices.
        base_model: See `edgespa.exporting.card_head.card_head`.
        datasets: Likewise.

    Raises:
        ConfigError: A name cannot be one on the hub.
    """
    head = card_head(manifest, profiles, base_model=base_model, datasets=datasets)
    return f"{head}\n{model_card(manifest, classes, profiles)}"


def model_card(manifest: Manifest, classes: Sequence[str], profiles: Sequence[Profile] = ()) -> str:
    """What the bundle is, from what it was made and how, what it measures, and how it is run, in Markdown.

    Args:
        manifest: Of the bundle; its ``files`` and ``seal`` are not looked at.
        classes: The names of the outputs; empty where they are not known.
        profiles: What was measured on devices.
    """
    sections = {
        "": _what(manifest, classes),
        "Base and licence": _base(manifest),
        "How it was made": _made(manifest),
        "Size": _size(manifest),
        "Files": _files(manifest),
        "Latency": _latency(profiles),
        "Input and output": _in_and_out(manifest, classes),
        "Run": _run(manifest),
    }
    lines = [f"# {as_text(manifest.task)}", ""]
    for title, content in sections.items():
        body = list(content)
        if body:
            lines += [*([f"## {title}", ""] if title else []), *body, ""]
    return "\n".join(lines)


def _what(manifest: Manifest, classes: Sequence[str]) -> Iterator[str]:
    seen = "from an image" if manifest.preprocessing is not None else "from its input"
    count = f" ({len(classes)})" if classes else ""
    first = manifest.outputs[0].shape
    if manifest.decoding is not None:
        yield f"Finds things of {len(classes) or 'several'} classes {seen}, each with a box and a score."
    elif manifest.learns == "heatmaps":
        yield f"Tells where {len(classes) or 'several'} key points lie, {seen}."
    elif manifest.learns in _SPACES and (len(first) == 2 or first[2:] == (1, 1) or manifest.learns == "segmentation"):
        yield f"Tells {_SPACES[manifest.learns]}{count} {seen}."
    else:
        yield f"Gives {', '.join(f'`{as_code(each.name)}`' for each in manifest.outputs)} {seen}; see below."
    yield "Every file below was run and compared with the program that it was made from, by edgespa"
    yield f"{manifest.edgespa_version} on {manifest.created}."


def _base(manifest: Manifest) -> Iterator[str]:
    base = manifest.base
    yield f"- made from `{as_code(base.spec)}`" + (
        f" with the weights `{as_code(base.weights)}`" if base.weights else ""
    )
    yield f"- digest of the base: `{as_code(base.digest)}`"
    if base.license is not None:
        yield f"- licence of the base, which applies to these files: {as_text(base.license)}"
    else:
        yield "- licence of the base: not recorded; whatever it is, it applies to these files"


def _made(manifest: Manifest) -> Iterator[str]:
    task = manifest.provenance.get("task")
    if not isinstance(task, dict):
        yield "Converted as it is: nothing was removed or trained."
        return
    config = task.get("config")
    known: dict[str, JsonValue] = {**(config if isinstance(config, dict) else {}), "method": task.get("method")}
    if not _has_rank(known.get("adapter")):
        known.pop("rank", None)
    if known.get("density") is not None and isinstance(known.get("budget"), str):
        known["density"] = f"{_short(known['density'])} of the {_written(str(known['budget']))}"
    for key, words in _HOW.items():
        if known.get(key) is not None:
            yield f"- {words}: {as_text(_short(known[key]))}"
    for key, words in (("data", "data"), ("teacher", "distilled from")):
        if isinstance(task.get(key), str):
            yield f"- {words}: {as_text(str(task[key]))}"
    metrics = task.get("metrics")
    if isinstance(metrics, dict) and metrics:
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        for found in measured(numbers):
            yield f"- {found.name}, recorded then: {found}"
        if rest := others(numbers):
            yield "- recorded then: " + ", ".join(f"{as_text(name)} {_short(value)}" for name, value in rest.items())
    proof = manifest.provenance.get("proof")
    if isinstance(proof, dict):
        yield from _proof(proof)


def _has_rank(adapter: JsonValue) -> bool:
    """Whether adapters of a kind have an inner size; of one that is not known here, it is taken to."""
    kind = KINDS.get(str(adapter))
    return adapter not in (None, FULL) and (kind is None or "rank" in kind.defaults)


def _written(budget: str) -> str:
    return {"macs": "MACs"}.get(budget, budget)


def _proof(proof: Mapping[str, JsonValue]) -> Iterator[str]:
    for key, words in (
        ("masked_compacted_output_error", "removed = zeroed, relative error of the output"),
        ("merged_unmerged_error", "merged = unmerged, relative error of the output"),
    ):
        if isinstance(proof.get(key), int | float):
            yield f"- {words}: {_short(proof[key])}"


def _size(manifest: Manifest) -> Iterator[str]:
    cost = manifest.compaction
    yield from _row("", "this model", "base", "density")
    yield from _row("---", "---", "---", "---")
    for words, here, there, density in (
        ("parameters", cost.parameters, cost.base_parameters, cost.parameter_density),
        ("MACs", cost.macs, cost.base_macs, cost.mac_density),
    ):
        yield from _row(words, f"{here:,}", f"{there:,}", f"{density:.1%}")
    if cost.channel_density is not None:
        yield from _row("channels", "", "", f"{cost.channel_density:.1%}")
    if cost.task_size_bytes is not None:
        base = f"{cost.base_size_bytes:,}" if cost.base_size_bytes is not None else ""
        yield from _row("bytes of the task file beside its base", f"{cost.task_size_bytes:,}", base, "")


def _files(manifest: Manifest) -> Iterator[str]:
    agreed = next((each.agreement for each in manifest.variants if each.agreement), None)
    measure = [as_text(manifest.measure.title)] if any(each.accuracy for each in manifest.variants) else []
    same = [f"same {agreed.what}"] if agreed else []
    heads = ("variant", "file", "bytes", *measure, "error", "correlation", *same, "proved in")
    yield from _row(*heads)
    yield from _row(*["---"] * len(heads))
    for variant in manifest.variants:
        parity = variant.parity
        yield from _row(
            variant.name,
            variant.file,
            f"{variant.size_bytes:,}",
            *(["-" if variant.accuracy is None else variant.accuracy.figure] if measure else []),
            "-" if parity.component_error is None else f"{parity.component_error:.1e}",
            "-" if parity.correlation is None else f"{parity.correlation:.6f}",
            *(["-" if variant.agreement is None else f"{variant.agreement.value:.1%}"] if same else []),
            variant.runtime,
        )
    yield ""
    for inputs in dict.fromkeys(variant.parity.inputs for variant in manifest.variants):
        yield f"Error and correlation are those of the component of the outputs that is worst, on {as_text(inputs)}:"
        yield "its error against its own spread over them, and its correlation with the program's."
    if agreed is not None:
        yield f"How often a file decides as the program does: on {agreed.count:,} samples of {as_text(agreed.data)}."
    if isinstance(weak := manifest.provenance.get("weak_proof"), str):
        yield f"These figures say little: {as_text(weak)}."
    yield ""
    for missing in _list(manifest.provenance.get("left_out")):
        yield f"- There is no `{as_code(str(missing.get('variant')))}`: {as_text(str(missing.get('reason')))}."
    for variant in manifest.variants:
        limits = ", ".join(f"{metric.replace('_', ' ')} {limit:g}" for metric, limit in variant.parity.bound.items())
        at = f"is worst at `{as_code(variant.parity.worst)}` and " if variant.parity.worst else ""
        yield f"- `{variant.name}` {at}must keep: {limits}."
        for proof in variant.proofs:
            what = f"`{variant.name}` in {as_text(proof.runtime)}, {proof.arithmetic}, on {as_text(proof.machine)}"
            figure = "" if proof.component_error is None else f", error {proof.component_error:.1e}"
            yield (
                f"- {what}: holds{figure}."
                if proof.holds
                else f"- {what}: DOES NOT HOLD: {as_text('; '.join(proof.failures))}."
            )
        if variant.max_loss is not None and (lost := manifest.lost(variant)) is not None:
            of = f"{max(lost, 0.0):.3g} of {as_text(manifest.measure.title)}"
            yield f"- `{variant.name}` was chosen by what it loses: {of}, of at most {variant.max_loss:g}."
    if manifest.reference_accuracy is not None:
        data = manifest.reference_accuracy
        others = "".join(
            f", {as_text(measure_named(name).title)} {measure_named(name).figure(value)}"
            for name, value in data.others.items()
        )
        of = f"on {as_text(data.data)}, {data.count:,} samples"
        yield ""
        yield f"Test {as_text(data.of.title)} is {of}; the program itself has {data.figure}{others}."


def _list(value: JsonValue) -> list[dict[str, JsonValue]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


_HERE = "local"


def _latency(profiles: Sequence[Profile]) -> Iterator[str]:
    if not profiles:
        yield "Not measured yet: `edgespa profile` measures, and `edgespa card` puts what it found here."
        return
    heads = ("device", "variant", "threads", "p50 ms", "p90 ms", "peak memory MiB", "when", "runtime")
    yield from _row(*heads)
    yield from _row(*["---"] * len(heads))
    doubts = []
    for profile in sorted(profiles, key=lambda each: each.created):
        device = profile.host.cpu_model or profile.host.machine
        if profile.device not in (_HERE, device):
            device = f"{profile.device} ({device})"
        device += ", emulated: its times mean nothing" if profile.emulated else ""
        for result in profile.results:
            if result.bundle == profile.bundle:
                provider = (result.provider or "CPU").removesuffix("ExecutionProvider")
                what = result.variant if provider.startswith("CPU") else f"{result.variant}, {provider}"
                doubts += [f"{device}: {what}, {result.on_threads}: {doubt}" for doubt in result.doubts]
                yield from _row(
                    device,
                    what,
                    str(result.threads) + (f" on cores {result.cores}" if result.cores else ""),
                    f"{result.p50_ms:.3g}",
                    f"{result.p90_ms:.3g}",
                    "-" if result.peak_kib is None else f"{result.peak_kib / 1024:.0f}",
                    profile.created[:10],
                    _runtime(result),
                )
    yield ""
    yield "One inference, batch 1, in a process of its own; figures of different days are not a comparison."
    if doubts:
        yield ""
        yield "Not clean, so not to be relied on:"
        yield ""
        for doubt in dict.fromkeys(doubts):
            yield f"- {as_text(doubt)}"


def _runtime(result: VariantProfile) -> str:
    """What ran it, and in which numbers where those are not the file's."""
    numbers = [] if result.arithmetic in (None, "fp32") else [str(result.arithmetic)]
    return ", ".join([result.runtime or "-", *numbers])


def _in_and_out(manifest: Manifest, classes: Sequence[str]) -> Iterator[str]:
    for spec in manifest.inputs:
        yield f"- in: {_spec(spec)}"
    for spec in manifest.outputs:
        yield f"- out: {_spec(spec)}"
    if manifest.sizes:
        yield f"- other sizes, `run.py --size`: {', '.join(each.name for each in manifest.sizes)}"
    how = manifest.preprocessing
    if how is not None:
        first, *rest = steps(how)
        yield f"- an image is {first}"
        yield from (f"- it is {each}" for each in rest)
    inside = [variant.name for variant in manifest.variants if variant.preprocess is not None]
    if inside:
        yield f"- taken as pixels, for they normalise by themselves: {', '.join(inside)}"
    for variant in manifest.variants:
        own = [spec for spec, program in zip(variant.inputs, manifest.inputs, strict=True) if spec != program]
        if own:
            yield f"- `{variant.name}` itself takes {'; '.join(_spec(spec) for spec in own)}"
    if classes:
        shown = ", ".join(as_text(name) for name in classes[:_MOST_CLASSES])
        more = ", ..." if len(classes) > _MOST_CLASSES else ""
        yield f"- names of the outputs (`labels.txt`), {len(classes)}: {shown}{more}"
    yield ""
    if any(each.format not in FOR_PYTORCH for each in manifest.variants):
        yield "`run.py` does all of this."


def _run(manifest: Manifest) -> Iterator[str]:
    onward = [each for each in manifest.variants if each.format in FOR_PYTORCH]
    if onward:
        yield "To go on from in PyTorch, which needs no edgespa; nothing runs these on devices:"
        yield ""
        yield from (f"- {_ONWARD[each.format].format(file=as_code(each.file))}" for each in onward)
        yield ""
    packages = dict.fromkeys(_PACKAGES[each.format] for each in manifest.variants if each.format in _PACKAGES)
    if not packages:
        return
    image = manifest.preprocessing is not None
    yield "```sh"
    yield f"pip install numpy {' '.join(packages)}" + (" pillow" if image else "")
    yield "python run.py --selfcheck --variant all    # is it still what was proved?"
    yield f"python run.py --input {'photo.jpg' if image else 'input.npy'}"
    yield "python run.py --bench"
    yield "```"


def _row(*cells: str) -> Iterator[str]:
    yield "| " + " | ".join(cell if cell == "---" else as_text(cell) for cell in cells) + " |"


def _spec(spec: TensorSpec) -> str:
    shape = " x ".join(str(size) for size in spec.shape) or "a single number"
    return f"`{as_code(spec.name)}`: {as_text(spec.dtype)}, {as_text(shape)}" + (
        f" ({spec.layout})" if spec.layout != "other" else ""
    )


def _short(value: JsonValue) -> str:
    if isinstance(value, float):
        return f"{value + 0.0:.4g}"  # a difference of nothing may be minus zero
    return value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def as_text(text: str) -> str:
    """Names come from elsewhere: what Markdown would take for its own is kept from it."""
    plain = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in "\\`*[]<>|#" else sign for sign in plain)


def as_code(text: str) -> str:
    """The same between backticks, where only they end it, and in a table, where a bar does."""
    return " ".join(text.split()).replace("`", "'").replace("|", "/")


__all__ = ["model_card", "whole_card"]
