"""``edgespa export`` as one call: from a model or a task file to a bundle, after the proofs."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import torch
from pydantic import JsonValue

from edgespa.api.classes import as_learned
from edgespa.api.early import require_there
from edgespa.api.options import DataOptions, Progress, left_out_of, some
from edgespa.api.overlap import tell_overlap, tell_trained_on
from edgespa.api.quality import count_channels, count_outputs
from edgespa.api.sizes import ProgramOf, at_other_sizes
from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import BundleWriter, Compaction, Kind, Manifest, Signer, sha256_file
from edgespa.bundle.manifest import MAX_LINES
from edgespa.data import ImageData, Numbering, require_whole
from edgespa.data.tensors import prepare_for
from edgespa.errors import AdapterError, ConfigError, TaskFileError
from edgespa.exporting.bundle import ExportConfig, Origin, export, require_decodable, require_possible
from edgespa.graph.program import Program
from edgespa.graph.proof import LIMIT, largest_difference, prove
from edgespa.graph.surgery import compact
from edgespa.models.elsewhere import named
from edgespa.models.given import PREFIX, Given
from edgespa.models.inputs import InputSizes
from edgespa.models.interface import output_tensors
from edgespa.objectives.evaluate import objective_for, require_answers
from edgespa.objectives.kinds import OWN, objective_named
from edgespa.objectives.taught import taught
from edgespa.system.bounds import readable
from edgespa.system.files import require_folder_possible
from edgespa.tasks.base import Base
from edgespa.tasks.modules import describe_modules
from edgespa.tasks.task import Task, is_task_file

_SET, _TEST = "--calibration", "--eval-data"
_MOST_MODULES = 2000
_RECORDED = (
    "module", "operator", "channels", "base_channels", "parameters", "base_parameters", "macs", "base_macs",
)  # fmt: skip


def export_bundle(
    model: str,
    output: Path,
    config: ExportConfig,
    *,
    input_shape: InputSizes | None = None,
    base: str | None = None,
    weights: str | None = None,
    trust: bool = False,
    options: DataOptions | None = None,
    calibration: str | None = None,
    evaluation: str | None = None,
    overwrite: bool = False,
    sign_key: Path | None = None,
    license: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """``edgespa export``: compact, merge, convert, prove, and write a bundle.

    Args:
        model: A model spec, or a task file.
        output: The folder to make.
        config: What to export.
        input_shape: Sizes of the model's inputs; a task file records them.
        base: For a task file: its base, if it is not where it was.
        weights: Weight file of the model.
        trust: The base that a task file names may be run if it is code.
        options: How images become inputs; a task file records mean and std.
        calibration: Images for int8.
        evaluation: Labelled images to measure on, by the objective's measure.
        overwrite: Replace a bundle that is there.
        sign_key: An OpenSSH key to sign the bundle with.
        license: Of the base's weights; it is recorded.
        progress: Told ``(done, total, text)``.
    """
    options = options or DataOptions()
    require_there(model=model, weights=weights, data={"--calibration": calibration, "--eval-data": evaluation})
    BundleWriter(output, overwrite=overwrite)  # refuses an output that is there before any work is done
    require_folder_possible(output)
    require_possible(config, calibrated=calibration is not None, evaluated=evaluation is not None)
    signer = Signer.open(sign_key) if sign_key is not None else None
    program_of: ProgramOf
    if is_task_file(model):
        task = Task.load(Path(model))
        opened = task.open_base(Path(model).absolute().parent, base, weights, trust=trust)
        program_of = partial(origin_of_task, task, path=Path(model))
    else:
        opened, program_of = Base.open(model, input_shape, weights), _origin_of_base
    program, origin = program_of(opened)
    if options.objective is not None:  # one of the user's own may say how its boxes are read
        wanted = objective_named(options.objective)
        decoding = wanted.bound(opened.detector).decoding
        origin = dataclasses.replace(origin, decoding=decoding or origin.decoding)
        if not (is_task_file(model) or wanted.of_base):  # a task file records what it learned
            origin = dataclasses.replace(origin, learns=wanted.name)
    require_decodable(config, origin)
    outputs = count_outputs(program) if evaluation else None
    images = {}
    if calibration:
        images[_SET] = options.load(calibration, labelled=False)
    if evaluation:
        images[_TEST] = options.load(evaluation, outputs=outputs, measured=True)
    require_whole(images, progress)
    preprocess = options.preprocess_if_known(opened, images.values(), origin.preprocess, calibration=calibration)
    tensors = next((data.name for data in images.values() if data.preprocessed), None)
    if tensors is not None and config.preprocess == "in-graph":
        raise ConfigError(
            f"--preprocess in-graph is for pixels, and {tensors} gives tensors that are preprocessed",
            "give images, or leave out --preprocess in-graph",
        )
    known = options.known(opened, preprocess, images.values(), origin.preprocess)
    provenance = {**origin.provenance, **left_out_of(images)}
    origin = dataclasses.replace(origin, preprocess=known, provenance=provenance)
    if evaluation and images[_TEST].answered:
        origin, images[_TEST] = _with_classes(origin, outputs, images[_TEST])
    elif options.labels is not None:
        origin, count = _told_apart(origin, opened, program)
        origin = _named(origin, count, options.labels)
    prepared = {name: prepare_for(opened.program, data, preprocess) for name, data in images.items()}
    objective = None
    if evaluation:
        objective = objective_for(prepared[_TEST], opened.detector)
        prepared[_TEST] = taught(prepared[_TEST], objective, (opened.whole or opened).program)
        require_answers(program, prepared[_TEST], objective)
        tell_overlap(images[_TEST], {"--calibration": prepared[_SET]} if calibration else {})
        recorded = origin.provenance.get("task")
        tell_trained_on(images[_TEST], recorded.get("data") if isinstance(recorded, dict) else None)
    sizes = at_other_sizes(
        config.also_sizes,
        opened,
        origin,
        program_of,
        images.get(_SET, images.get(_TEST)),
        options.objective,
    )
    if license is not None:
        origin = dataclasses.replace(origin, base=origin.base.model_copy(update={"license": license}))
    return export(
        program,
        origin,
        config,
        output,
        calibration=prepared.get(_SET),
        evaluation=prepared.get(_TEST),
        objective=objective,
        sizes=sizes,
        overwrite=overwrite,
        sign=signer,
        progress=progress,
    )


def origin_of_task(task: Task, base: Base, path: Path) -> tuple[Program, Origin]:
    """A task's program, after the proofs that masked = compacted and merged = unmerged, and where it comes from.

    Args:
        task: The task.
        base: Its base.
        path: Its task file.
    """
    base = task.fit(base)
    proof = check_task(task, base)
    header, figures = task.header, task.header.figures
    origin = Origin(
        task=readable(path.stem),
        base=_base_entry(base),
        compaction=Compaction(
            parameters=figures.parameters,
            macs=figures.macs,
            base_parameters=figures.base_parameters,
            base_macs=figures.base_macs,
            channel_density=figures.channel_density,
            task_size_bytes=path.stat().st_size,
            base_size_bytes=base.whole_cost.size_bytes,
        ),
        preprocess=header.preprocess,
        classes=header.classes,
        learns=_kind(header.provenance.get("learns"), base),
        decoding=base.detector.decoding if base.detector is not None else None,
        skeleton=_skeleton(header.provenance.get("skeleton"), len(header.classes)),
        ranges=dict(header.int8.ranges) if header.int8 is not None else {},
        provenance={
            "task_file_sha256": sha256_file(path),
            "task": {**header.provenance, "metrics": dict(header.metrics)},
            "proof": proof,
            "modules": [
                {key: row[key] for key in _RECORDED} for row in describe_modules(base, task.kept)[:_MOST_MODULES]
            ],
            "torch": torch.__version__,
        },
    )
    return task.program(base), origin


def _base_entry(base: Base) -> BaseEntry:
    return BaseEntry(
        spec=named(base.spec), digest=base.digest, weights=None if base.weights is None else named(base.weights)
    )


def _skeleton(recorded: JsonValue, count: int) -> tuple[tuple[int, int], ...]:
    """Lines between key points; none of what a task file of somebody else says that there cannot be."""
    lines = recorded if isinstance(recorded, list) else []
    pairs = [tuple(each) for each in lines if isinstance(each, list) and len(each) == 2]
    whole = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int) and {a, b} <= set(range(count))]
    return tuple(whole[:MAX_LINES])


def _kind(learns: JsonValue, base: Base) -> Kind:
    """What is learned; the usual where an older edgespa did not say, or where it was what the base gives anyway."""
    of_base = [name for name, each in OWN.items() if each.of_base]
    usual = base.learns if base.detector is None else "detection"
    return learns if isinstance(learns, str) and learns not in of_base else usual


def _origin_of_base(base: Base) -> tuple[Program, Origin]:
    """A model as it is, and where it comes from."""
    cost = base.whole_cost
    origin = Origin(
        task=_name_of(base.spec),
        base=_base_entry(base),
        compaction=Compaction(
            parameters=cost.parameters,
            macs=cost.macs,
            base_parameters=cost.parameters,
            base_macs=cost.macs,
            base_size_bytes=cost.size_bytes,
        ),
        learns=_kind(None, base),
        decoding=base.detector.decoding if base.detector is not None else None,
        provenance={"torch": torch.__version__},
    )
    return base.program, origin


def _name_of(model: str) -> str:
    """What a model may be called: the words of its spec, or the class of what was given in Python."""
    if isinstance(model, Given):
        return readable(model.removeprefix(PREFIX))
    place, colon, name = model.partition(":")
    return readable(Path(place).stem + (f" {name.rpartition(':')[2]}" if colon else ""))


def check_task(task: Task, base: Base) -> dict[str, JsonValue]:
    """Prove on random inputs that a task's masked, compacted and merged programs are one.

    Args:
        task: The task.
        base: Its base, from `Task.open_base`.

    Returns:
        The figures, for the manifest.

    Raises:
        TaskFileError: If a tensor of the task is not finite.
        GraphError: If masked and compacted programs differ.
        AdapterError: If merged and unmerged programs differ.
    """
    for name, tensor in task.factors.flat().items():
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise TaskFileError(
                f"{name} of the task is not finite ({wrong} of {tensor.numel()} values)",
                "make the task again: what it was made of was no numbers, or its file is damaged",
            )
    inputs = base.program.example_inputs()
    compacted = compact(base.program, base.groups, task.kept)
    proof = prove(base.program, base.groups, task.kept, compacted, inputs)
    proof.require()
    adapted = task.adapted(base)
    adapted.set_training(False)
    with torch.no_grad():
        before = output_tensors(adapted(*inputs))
        after = output_tensors(adapted.merged()(*inputs))
    merge_error = largest_difference(before, after)
    if not merge_error <= LIMIT:
        raise AdapterError(
            f"merged and unmerged programs differ by {merge_error:.1e} (limit {LIMIT:.0e})", "train with a lower --lr"
        )
    return {
        "masked_compacted_output_error": proof.output_error,
        "masked_compacted_inner_error": proof.inner_error,
        "activations_compared": proof.nodes,
        "masked_compacted_precision": proof.precision,
        "merged_unmerged_error": merge_error,
    }


def _told_apart(origin: Origin, base: Base, program: Program) -> tuple[Origin, int | None]:
    """How many names there are for what a network gives; None where that is neither a list nor maps.

    Maps whose channels are named are those of classes, where nobody said what else they are.
    """
    outputs, channels = count_outputs(program), count_channels(program)
    if base.detector is not None:
        return origin, base.detector.classes
    if outputs is None and channels is not None:
        learns = "segmentation" if origin.learns == "classes" else origin.learns
        return dataclasses.replace(origin, learns=learns), channels
    return origin, outputs


def _named(origin: Origin, outputs: int | None, labels: Path | tuple[str, ...]) -> Origin:
    """With the names of a file, where there are no data whose classes they number.

    Raises:
        ConfigError: They are not one for each output, or not those of the task.
    """
    numbering = Numbering.of(labels, None)
    names, file = numbering.names, numbering.file
    if origin.classes and names != origin.classes:
        raise ConfigError(
            f"{file} has {some(names)}, the task was trained on {some(origin.classes)}",
            "leave out --labels: the task has its names",
        )
    if len(names) != outputs:
        what = "no list of outputs" if outputs is None else f"{outputs:,} outputs"
        raise ConfigError(f"{file} has {len(names):,} names, and the model {what}", "name every output")
    return dataclasses.replace(origin, classes=names)


def _with_classes(origin: Origin, outputs: int | None, data: ImageData) -> tuple[Origin, ImageData]:
    data = as_learned(data, origin.classes, origin.learns, outputs)
    if origin.classes:
        return origin, data
    return dataclasses.replace(origin, classes=tuple(data.classes), learns=data.kind), data
