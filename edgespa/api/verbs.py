"""The public calls: what each command does, for programs and notebooks.

Everything behind the model, bundle or task is given by its name. What the command line takes as text may be text here
too; besides, a model may be a ``torch.nn.Module``, data a ``Dataset``, a ``DataLoader`` or arrays, sizes an example
input, a path a ``Path``, and a result of one call goes into the next. Nothing is printed but a progress bar, on a
terminal and in a notebook: ``progress=False`` draws none, ``progress=callback`` is told ``(done, total, text)``.

Whatever goes wrong is raised as an `edgespa.errors.EdgespaError`, whose ``message`` says what, and ``hint`` what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.arguments import (
    base_of,
    budget_of,
    data_if_any,
    data_of,
    file_of,
    given_in,
    model_of,
    options_of,
    parted,
    sizes_of,
    text_of,
    told,
)
from edgespa.api.results import Bundle, Inspection, TaskFile
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Model, Sizes, Tell, Values


def inspect(
    model: Model,
    *,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    base: Model | None = None,
    trust: bool = False,
) -> Inspection:
    """Look what can be removed from a model, and what cannot and why; of a task file also what it has removed.

    Args:
        model: A module, a model spec as on the command line (``timm:resnet18``, ``net.py:build``, ``net.pt2``), or a
            task file.
        input_shape: Sizes of its input, the batch first, (1, 3, 224, 224); or an example input. A tuple of either for
            several inputs. May be left out for a task file, a ``.pt2`` program, and models of libraries.
        weights: Weight file of the model.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.

    Raises:
        ModelError: The model cannot be found, built, loaded or traced.
        TaskFileError: The task file is damaged.
    """
    from edgespa.tasks.base import Base
    from edgespa.tasks.inspection import describe, describe_task
    from edgespa.tasks.task import Task, is_task_file

    spec, own = model_of(model)
    if is_task_file(spec):
        path = Path(spec)
        task = Task.load(path)
        opened = task.open_base(path.absolute().parent, base_of(base, own), text_of(weights), trust=trust)
        return Inspection.of(describe_task(task, opened, path), opened)
    opened = Base.open(spec, sizes_of(input_shape), text_of(weights))
    return Inspection.of(describe(opened), opened)


def adapt(
    model: Model | None = None,
    *,
    data: Data,
    output: str | Path,
    eval_data: Data | None = None,
    start: str | Path | TaskFile | None = None,
    distill: str | Path | TaskFile | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    trust: bool = False,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    class_offset: int | None = None,
    latency_ms: float | None = None,
    device: str = "local",
    log_file: str | Path | None = None,
    resume: bool = False,
    fresh: bool = False,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> TaskFile:
    """Learn a task on a frozen model while pruning it, and write a task file.

    Args:
        model: See `inspect`; None for the base of ``start``.
        data: Training data: a folder, zip or ``.npz``, a ``Dataset`` or ``DataLoader`` of (image, label), or (images,
            labels) as arrays: uint8 [N, H, W, C], or float32 [N, C, H, W] that go to the model as they are.
        output: The task file, ``fruit.spa``. The state of an unfinished training lies beside it.
        eval_data: Test data; the accuracy on it is recorded and never used to choose anything.
        start: A task file to start from.
        distill: ``"base"``, or a task of the same base, whose outputs are learned from too.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        trust: The base that ``start`` names may be run if it is code.
        mean: Subtracted from pixels in 0..1, one number or one per channel; default: what the model's library records.
        std: Divided by, likewise.
        limit: Use a seeded, class-balanced part of each data set.
        labels: A file with the class name of each output, a line each.
        class_offset: Class k is output k + this.
        latency_ms: Find the density by it, on ``device``.
        device: Where.
        log_file: Gets a JSON document a line for each pruning step and epoch.
        resume: Go on with an interrupted run.
        fresh: Start anew where there is the state of an interrupted run, and give it up.
        overwrite: Replace a task file that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.adaptation.config.AdaptConfig`: ``density``, ``rank``, ``epochs``, ...; and of
            `edgespa.config.PixelSettings`, for how an image becomes an input: ``resize``, ``resize_to``, ``padding``,
            ``interpolation``, ``antialias``, ``scale``, ``channel_order``. Those are recorded, as mean and std are, and
            by default what the model's library records.

    Raises:
        ConfigError: A setting is not known or not allowed; it names the nearest one.
        DataError: The data cannot be read.
        ModelError: The model cannot be found, built, loaded or traced.
    """
    from edgespa.adaptation.config import AdaptConfig
    from edgespa.api.tasks import adapt_to_file

    spec, _ = model_of(model) if model is not None else (None, None)
    begin = start.path if isinstance(start, TaskFile) else file_of(start)
    if spec is None and isinstance(start, TaskFile):
        spec = start.given
    pixels, rest = parted(settings)
    config = AdaptConfig.parse(rest, "adapt")
    path = Path(output)
    with told("adapt", progress) as report:
        task = adapt_to_file(
            spec,
            data_of(data),
            path,
            config,
            input_shape=sizes_of(input_shape),
            weights=text_of(weights),
            trust=trust,
            options=options_of(mean, std, limit, config.seed, labels, class_offset, pixels),
            evaluation=data_if_any(eval_data),
            overwrite=overwrite,
            resume=resume,
            fresh=fresh,
            distill=None if distill is None else str(distill.path if isinstance(distill, TaskFile) else distill),
            start=begin,
            log_file=file_of(log_file),
            progress=report,
            latency=budget_of(latency_ms, device),
        )
    return TaskFile.of(task, path, given_in(spec))


def prune(
    model: Model,
    *,
    output: str | Path,
    density: float | None = None,
    calibration: Data | None = None,
    eval_data: Data | None = None,
    held_out: Data | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    class_offset: int | None = None,
    latency_ms: float | None = None,
    device: str = "local",
    resume: bool = False,
    fresh: bool = False,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> TaskFile:
    """Remove units of a model without training, and write a task file.

    Args:
        model: See `inspect`; no task file.
        output: The task file.
        density: Fraction to keep, of channels, parameters or MACs (``budget``); or give ``latency_ms``.
        calibration: Images that units are chosen by, and new weights fitted on; see ``data`` of `adapt`.
        eval_data: Test data; the accuracy before and after is recorded and never used to choose anything.
        held_out: Labelled images, for ``allocation="equal-accuracy"``.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        mean: See `adapt`.
        std: See `adapt`.
        limit: See `adapt`.
        labels: See `adapt`.
        class_offset: See `adapt`.
        latency_ms: Find the density by it, on ``device``.
        device: Where.
        resume: Go on with an interrupted run.
        fresh: Start anew where there is the state of an interrupted run, and give it up.
        overwrite: Replace a task file that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.pruning.PruneConfig`: ``method``, ``budget``, ``allocation``, ``round_to``, ...;
            and of `edgespa.config.PixelSettings`, see `adapt`.

    Raises:
        ConfigError: A setting is not known or not allowed; it names the nearest one.
        DataError: The data cannot be read.
        ModelError: The model cannot be found, built, loaded or traced.
    """
    from edgespa.api.tasks import prune_to_file
    from edgespa.pruning import PruneConfig

    if (density is None) == (latency_ms is None):
        raise ConfigError("what is to be kept is not said", "give density=0.5, or latency_ms=X: one of them")
    spec, _ = model_of(model)
    pixels, rest = parted({**settings, "density": density if density is not None else 1.0})
    config = PruneConfig.parse(rest, "prune")
    path = Path(output)
    with told("prune", progress) as report:
        task = prune_to_file(
            spec,
            path,
            config,
            input_shape=sizes_of(input_shape),
            weights=text_of(weights),
            options=options_of(mean, std, limit, config.seed, labels, class_offset, pixels),
            calibration=data_if_any(calibration),
            held_out=data_if_any(held_out),
            evaluation=data_if_any(eval_data),
            overwrite=overwrite,
            resume=resume,
            fresh=fresh,
            progress=report,
            latency=budget_of(latency_ms, device),
        )
    return TaskFile.of(task, path, given_in(spec))


def export(
    model: Model,
    *,
    output: str | Path,
    calibration: Data | None = None,
    eval_data: Data | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    base: Model | None = None,
    trust: bool = False,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    labels: str | Path | None = None,
    class_offset: int | None = None,
    sign_key: str | Path | None = None,
    license: str | None = None,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> Bundle:
    """Compact, merge, convert and prove a model or a task, and write a bundle.

    Args:
        model: See `inspect`; mostly a task file, or what `adapt` and `prune` gave.
        output: The bundle, a folder.
        calibration: Images for int8, labels not needed; see ``data`` of `adapt`.
        eval_data: Labelled images to measure accuracy on.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.
        mean: See `adapt`; a task file records it.
        std: See `adapt`.
        limit: See `adapt`.
        labels: See `adapt`.
        class_offset: See `adapt`.
        sign_key: An OpenSSH key to sign the bundle with.
        license: Of the base's weights, for the model card.
        overwrite: Replace a bundle that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.exporting.config.ExportConfig`: ``formats=("onnx",)``, ``precisions=("fp32",
            "int8")``, ``int8_tolerance``, ``onnx_runtime``, ``strict``, ...; and of `edgespa.config.PixelSettings`, see
            `adapt`.

    Raises:
        ConfigError: A setting is not known or not allowed; it names the nearest one.
        ExportError: No file can be written.
        ParityError: No file computes what the program computes.
    """
    from edgespa.api.bundles import export_bundle
    from edgespa.exporting.config import ExportConfig

    spec, own = model_of(model)
    pixels, rest = parted(settings)
    config = ExportConfig.parse(rest, "export")
    path = Path(output)
    with told("export", progress) as report:
        manifest = export_bundle(
            spec,
            path,
            config,
            input_shape=sizes_of(input_shape),
            base=base_of(base, own),
            weights=text_of(weights),
            trust=trust,
            options=options_of(mean, std, limit, config.seed, labels, class_offset, pixels),
            calibration=data_if_any(calibration),
            evaluation=data_if_any(eval_data),
            overwrite=overwrite,
            sign_key=file_of(sign_key),
            license=license,
            progress=report,
        )
    return Bundle(path, manifest)


def open_task(path: str | Path) -> TaskFile:
    """Read a task file; its base is not opened, and nothing of it is run.

    Args:
        path: The file.

    Raises:
        TaskFileError: It is damaged, or no task file.
    """
    from edgespa.tasks.task import Task

    return TaskFile.of(Task.load(Path(path)), Path(path))
