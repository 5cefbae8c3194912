"""What the commands do, each as one call that a script could make: specs and paths in, files out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import JsonValue

from edgespa.adapt import AdaptConfig, adapt
from edgespa.adapt.learn import evaluated
from edgespa.adapt.teacher import load_teacher
from edgespa.base import Base
from edgespa.bundle import Base as BaseEntry
from edgespa.bundle import BundleWriter, Compaction, Kind, Manifest, Signer, sha256_file
from edgespa.calibration import find_spec
from edgespa.config import Preprocess
from edgespa.data import ImageData, Prepared, load_data, prepare
from edgespa.errors import AdapterError, ConfigError
from edgespa.evaluate import MEASURES, quality
from edgespa.export.bundle import ExportConfig, Origin, export
from edgespa.files import refuse_existing
from edgespa.graph.program import Program
from edgespa.graph.proof import LIMIT, prove
from edgespa.graph.surgery import compact
from edgespa.inputs import InputSizes, as_inputs
from edgespa.interface import output_tensors
from edgespa.latency import LatencyFitting
from edgespa.processes import Processes
from edgespa.prune import PruneConfig, prune
from edgespa.stopwatch import LatencyBudget
from edgespa.task import Task, is_task_file

Progress = Callable[[float, float | None, str], None]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """How the user's data become inputs.

    Attributes:
        mean: Subtracted from pixels in [0, 1], per channel; None for zero.
        std: Divided by, per channel; None for one.
        limit: Use a seeded, class-balanced part of each data set.
        seed: Of that part.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    limit: int | None = None
    seed: int = 0

    def load(self, spec: str, *, labelled: bool = True) -> ImageData:
        """A data set, or the images of a named calibration spec, limited as asked.

        Raises:
            DataError: If it cannot be read, or is smaller than the limit.
        """
        if (found := find_spec(spec)) is not None:
            return found.load(self.limit, labelled=labelled)
        data = load_data(spec, labelled=labelled)
        return data.limit(min(self.limit, len(data)), self.seed) if self.limit else data

    def with_calibration(self, text: str | None) -> DataOptions:
        """The options with mean and std of a named calibration spec, if it has some and none are given."""
        found = find_spec(text) if text is not None else None
        if found is None or found.spec.mean is None or self.mean is not None or self.std is not None:
            return self
        return dataclasses.replace(self, mean=found.spec.mean, std=found.spec.std)

    def preprocess(self, inputs: InputSizes, recorded: Preprocess | None = None) -> Preprocess:
        """From image to input, for a model's input sizes; what a task file records need not be said again.

        Raises:
            ConfigError: If the model does not take images alone, or mean and std do not fit its channels.
        """
        sizes = as_inputs(inputs)
        if len(sizes) > 1:
            raise ConfigError(
                f"the model has {len(sizes)} inputs ({'; '.join(map(str, sizes))}), images can feed one only",
                "leave out what needs images, or name a factory that wraps the model in a module whose forward takes "
                "the images and supplies the other inputs",
            )
        input_shape = sizes[0].shape
        if recorded is not None and self.mean is None and self.std is None:
            return recorded
        if len(input_shape) != 4 or sizes[0].dtype not in (None, "float32"):
            raise ConfigError(
                f"the model's input of {sizes[0]} is not an image",
                "give a model that takes N,C,H,W in the type of its weights",
            )
        _, channels, height, width = input_shape
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        for name, values in (("--mean", mean), ("--std", std)):
            if len(values) not in (1, channels):
                raise ConfigError(
                    f"{name} has {len(values)} values, the model's input has {channels} channels",
                    f"give one value, or {channels}",
                )
        return Preprocess(
            height=height,
            width=width,
            channels=channels,
            mean=mean * channels if len(mean) == 1 else mean,
            std=std * channels if len(std) == 1 else std,
        )


def adapt_to_file(
    model: str | None,
    data: str,
    output: Path,
    config: AdaptConfig,
    *,
    input_shape: InputSizes | None = None,
    weights: str | None = None,
    options: DataOptions | None = None,
    evaluation: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    distill: str | None = None,
    start: Path | None = None,
    log_file: Path | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
    latency: LatencyBudget | None = None,
) -> Task:
    """``edgespa adapt``: learn a task and write its task file.

    The state after each epoch lies beside the output, with the suffix ``.resume``, until the task file is written.

    Args:
        model: A model spec; None for the base of ``start``.
        data: Training data.
        output: The task file.
        config: How to adapt.
        input_shape: Sizes of the model's inputs.
        weights: Its weight file.
        options: How images become inputs.
        evaluation: Test data; the accuracy on it is recorded and never used to choose anything.
        overwrite: Replace a task file that is there.
        resume: Go on with an interrupted run.
        distill: Whose outputs are distilled: ``base``, or a task file of the same base.
        start: A task file to start from: of one that ``edgespa prune`` made the units and blocks are gone, and its
            weights are the frozen ones; one that was adapted is trained further.
        log_file: Gets a JSON document a line for each pruning step and each epoch.
        progress: Told ``(done, total, text)``.
        processes: Those that share the training; by default those that were launched. The main one writes.
        latency: Find the density by it, as a fraction of the MACs; that of the configuration does not count.

    Returns:
        The task, as written.
    """
    options = options or DataOptions(seed=config.seed)
    refuse_existing(output, overwrite)
    processes = processes or Processes.start(config.mixed_precision)
    begin = Task.load(start) if start is not None else None
    base = _base_of(model, input_shape, weights, begin, start)
    preprocess = options.preprocess(base.input_sizes, begin.header.preprocess if begin is not None else None)
    train = options.load(data)
    test = options.load(evaluation) if evaluation else None
    _same_classes(train, test)
    with LatencyFitting.of(latency, base, prepare(train, preprocess), preprocess, progress) as fitting:
        if latency is not None:
            config = fitting.for_adapting(config, begin is not None, processes)
        task = adapt(
            base,
            train,
            preprocess,
            config,
            output.absolute().parent,
            checkpoint=checkpoint_path(output),
            resume=resume,
            teacher=load_teacher(distill, base) if distill else None,
            start=begin,
            log_file=log_file,
            progress=progress,
            processes=processes,
        )
        if processes.is_main:
            task = fitting.recorded(task)
    if test is not None:
        value = evaluated(task.program(base), prepare(test, preprocess), processes, progress)
        task = task.with_metrics(**{f"test_{MEASURES[test.kind]}": value, "test_images": float(len(test))})
    if processes.is_main:
        task.save(output)
        checkpoint_path(output).unlink(missing_ok=True)
    return task


def _base_of(
    model: str | None, input_shape: InputSizes | None, weights: str | None, start: Task | None, path: Path | None
) -> Base:
    if start is not None and path is not None and (model is None or input_shape is None):
        return start.open_base(path.absolute().parent, model, weights)
    if model is None:
        raise ConfigError("no model is named", "name a MODEL, or a pruned task to start from with --from")
    return Base.open(model, input_shape, weights)


def checkpoint_path(output: Path) -> Path:
    """Where the state of an unfinished adaptation lies."""
    return output.with_name(output.name + ".resume")


def prune_to_file(
    model: str,
    output: Path,
    config: PruneConfig,
    *,
    input_shape: InputSizes | None = None,
    weights: str | None = None,
    options: DataOptions | None = None,
    calibration: str | None = None,
    held_out: str | None = None,
    evaluation: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    latency: LatencyBudget | None = None,
) -> Task:
    """``edgespa prune``: remove units without training and write a task file.

    The state of a front-to-back pass lies beside the output, with the suffix ``.resume``, until the task file is
    written.

    Args:
        model: A model spec.
        output: The task file.
        config: How to prune.
        input_shape: Sizes of the model's inputs.
        weights: Its weight file.
        options: How images become inputs; without images, mean and std are recorded if given.
        calibration: Images that units are chosen by, and new weights fitted on; labels are not looked at, but by
            act-grad.
        held_out: Labelled images, for the allocation ``equal-accuracy``.
        evaluation: Test data; the accuracy on it is recorded and never used to choose anything.
        overwrite: Replace a task file that is there.
        resume: Go on with an interrupted run.
        progress: Told ``(done, total, text)``.
        latency: Find the density by it; that of the configuration does not count.
    """
    options = (options or DataOptions(seed=config.seed)).with_calibration(calibration)
    refuse_existing(output, overwrite)
    if is_task_file(model):
        raise ConfigError(
            f"{config.method} removes channels of a model, and {model} is a task file",
            f"remove its channels while it is trained: edgespa adapt --from {model} --density {config.density:g}; or "
            "whole blocks: --method sls",
        )
    base = Base.open(model, input_shape, weights)
    images = calibration is not None or held_out is not None or evaluation is not None
    given = images or options.mean is not None or options.std is not None
    preprocess = options.preprocess(base.input_sizes) if given else None

    def prepared(spec: str | None, labelled: bool) -> Prepared | None:
        if spec is None or preprocess is None:
            return None
        return prepare(options.load(spec, labelled=labelled), preprocess)

    test = prepared(evaluation, True)
    data = prepared(calibration, config.how.needs_labels)
    with LatencyFitting.of(latency, base, data, preprocess, progress) as fitting:
        task = prune(
            base,
            config,
            output.absolute().parent,
            preprocess,
            data=data,
            held_out=prepared(held_out, True),
            checkpoint=checkpoint_path(output),
            resume=resume,
            progress=progress,
            choose_density=fitting.density if latency is not None else None,
        )
        task = fitting.recorded(task)
    if test is not None:
        value = quality(task.program(base), test, progress=progress)
        task = task.with_metrics(**{f"test_{MEASURES[test.kind]}": value, "test_images": float(len(test))})
    task.save(output)
    checkpoint_path(output).unlink(missing_ok=True)
    return task


def export_bundle(
    model: str,
    output: Path,
    config: ExportConfig,
    *,
    input_shape: InputSizes | None = None,
    base: str | None = None,
    weights: str | None = None,
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
        options: How images become inputs; a task file records mean and std.
        calibration: Images for int8.
        evaluation: Labelled images to measure accuracy on.
        overwrite: Replace a bundle that is there.
        sign_key: An OpenSSH key to sign the bundle with.
        license: Of the base's weights; it is recorded.
        progress: Told ``(done, total, text)``.
    """
    options = options or DataOptions()
    BundleWriter(output, overwrite=overwrite)  # refuses an output that is there before any work is done
    signer = Signer.open(sign_key) if sign_key is not None else None
    if is_task_file(model):
        program, origin, shape = _from_task(Path(model), base, weights, options)
    else:
        program, origin, shape = _from_model(model, input_shape, weights, options)
    prepared: dict[str, Prepared] = {}
    for spec in dict.fromkeys(each for each in (calibration, evaluation) if each):
        # Refuses models that do not take images. What a task records comes before what a calibration spec says.
        preprocess = origin.preprocess or options.with_calibration(calibration).preprocess(shape)
        origin = dataclasses.replace(origin, preprocess=preprocess)
        data = options.load(spec, labelled=spec == evaluation)
        if spec == evaluation:
            origin = _with_classes(origin, program, data)
        prepared[spec] = prepare(data, preprocess)
    if license is not None:
        origin = dataclasses.replace(origin, base=origin.base.model_copy(update={"license": license}))
    return export(
        program,
        origin,
        config,
        output,
        calibration=prepared.get(calibration) if calibration else None,
        evaluation=prepared.get(evaluation) if evaluation else None,
        overwrite=overwrite,
        sign=signer,
        progress=progress,
    )


def _from_task(
    path: Path, base_spec: str | None, weights: str | None, options: DataOptions
) -> tuple[Program, Origin, InputSizes]:
    """A task's program, after the proofs that masked = compacted and merged = unmerged."""
    task = Task.load(path)
    base = task.open_base(path.absolute().parent, base_spec, weights)
    preprocess = None
    if task.header.preprocess is not None or options.mean is not None or options.std is not None:
        preprocess = options.preprocess(base.input_sizes, task.header.preprocess)
    program, origin = origin_of_task(task, base, path)
    return program, dataclasses.replace(origin, preprocess=preprocess), base.input_sizes


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
        task=path.stem,
        base=BaseEntry(spec=base.spec, digest=base.digest, weights=base.weights),
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
        learns=_kind(header.provenance.get("learns")),
        provenance={
            "task_file_sha256": sha256_file(path),
            "task": {**header.provenance, "metrics": dict(header.metrics)},
            "proof": proof,
            "torch": torch.__version__,
        },
    )
    return task.program(base), origin


def _kind(learns: JsonValue) -> Kind:
    return "multi-label" if learns == "multi-label" else "regression" if learns == "regression" else "classes"


def _from_model(
    model: str, input_shape: InputSizes | None, weights: str | None, options: DataOptions
) -> tuple[Program, Origin, InputSizes]:
    base = Base.open(model, input_shape, weights)
    cost = base.whole_cost
    known = options.mean is not None or options.std is not None
    origin = Origin(
        task=Path(model.partition(":")[0]).stem + (f" {model.rpartition(':')[2]}" if ":" in model else ""),
        base=BaseEntry(spec=base.spec, digest=base.digest, weights=base.weights),
        compaction=Compaction(
            parameters=cost.parameters,
            macs=cost.macs,
            base_parameters=cost.parameters,
            base_macs=cost.macs,
            base_size_bytes=cost.size_bytes,
        ),
        preprocess=options.preprocess(base.input_sizes) if known else None,
        provenance={"torch": torch.__version__},
    )
    return base.program, origin, base.input_sizes


def check_task(task: Task, base: Base) -> dict[str, JsonValue]:
    """Prove on random inputs that a task's masked, compacted and merged programs are one.

    Args:
        task: The task.
        base: Its base, from `Task.open_base`.

    Returns:
        The figures, for the manifest.

    Raises:
        GraphError: If masked and compacted programs differ.
        AdapterError: If merged and unmerged programs differ.
    """
    inputs = base.program.example_inputs()
    compacted = compact(base.program, base.groups, task.kept)
    proof = prove(base.program, base.groups, task.kept, compacted, inputs)
    proof.require()
    adapted = task.adapted(base)
    adapted.set_training(False)
    with torch.no_grad():
        before = output_tensors(adapted(*inputs))
        after = output_tensors(adapted.merged()(*inputs))
    merge_error = max(
        float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in zip(before, after, strict=True)
    )
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


def _with_classes(origin: Origin, program: Program, data: ImageData) -> Origin:
    if origin.classes and tuple(data.classes) != origin.classes:
        raise ConfigError(
            f"{data.name} has the classes {_some(data.classes)}, the task was trained on {_some(origin.classes)}",
            "evaluate on data of the same task",
        )
    if origin.classes and origin.learns != data.kind:
        raise ConfigError(
            f"{data.name} is {data.kind} data, the task was trained on {origin.learns} data", "give data of one kind"
        )
    if origin.classes:
        return origin
    with torch.no_grad():
        logits = output_tensors(program(*program.example_inputs()))[0]
    if logits.dim() != 2 or logits.shape[1] != len(data.classes):
        raise ConfigError(
            f"the model's output has the shape {tuple(logits.shape)}, {data.name} has {len(data.classes)} classes",
            "evaluate on data of the model's own classes, or leave out --eval-data",
        )
    return dataclasses.replace(origin, classes=tuple(data.classes), learns=data.kind)


def _same_classes(train: ImageData, test: ImageData | None) -> None:
    if test is not None and test.kind != train.kind:
        raise ConfigError(
            f"{train.name} is {train.kind} data, {test.name} is {test.kind} data", "give data of one kind"
        )
    if test is not None and tuple(test.classes) != tuple(train.classes):
        raise ConfigError(
            f"{train.name} has the classes {_some(train.classes)}, {test.name} has {_some(test.classes)}",
            "give --eval-data with the same classes",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
