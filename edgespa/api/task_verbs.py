"""The public calls that make a task: by training, and without. See `edgespa.api.verbs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.arguments import (
    base_of,
    configured,
    data_if_any,
    data_of,
    file_of,
    file_of_names,
    given_in,
    latency_of,
    model_of,
    options_of,
    parted,
    path_of,
    require_of_method,
    sizes_of,
    text_of,
    told,
    weighed_by,
)
from edgespa.api.shell import checked, command_asked
from edgespa.api.task_results import TaskFile
from edgespa.errors import ConfigError

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Labels, Model, Sizes, Tell, Values


HEAL_STEPS = 1000


def adapt(
    model: Model | None = None,
    *,
    data: Data,
    output: str | Path,
    eval_data: Data | None = None,
    validation_data: Data | None = None,
    start: str | Path | TaskFile | None = None,
    distill: str | Path | TaskFile | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    trust: bool = False,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    eval_limit: int | None = None,
    labels: Labels | None = None,
    class_offset: int | None = None,
    objective: str | None = None,
    skip_bad_files: bool = False,
    latency_ms: float | None = None,
    device: str = "local",
    threads: int = 1,
    variant: str = "onnx-fp32",
    log_file: str | Path | None = None,
    tensorboard: str | Path | None = None,
    mlflow: str | None = None,
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
            labels) as arrays: uint8 [N, H, W, C], or float32 [N, C, H, W] that go to the model as they are. Of a model
            that takes no image (inputs, label), inputs being an array, several in a tuple, or a dict by their names.
        output: The task file, ``fruit.spa``. The state of an unfinished training lies beside it.
        eval_data: Test data; what is measured on it is recorded and never used to choose anything.
        validation_data: Data that the best epoch is chosen on; None for a part of ``data``, see ``validation`` and
            ``hold_out``.
        start: A task file to start from.
        distill: ``"base"``, or a task of the same base, whose outputs are learned from too.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        trust: The base that ``start`` names may be run if it is code.
        mean: Subtracted from pixels in 0..1, one number or one per channel; default: what the model's library records.
        std: Divided by, likewise.
        limit: Use a seeded, class-balanced part of what is trained or calibrated on, or chosen by.
        eval_limit: Use such a part of ``eval_data``.
        labels: The class name of each output, or a file with them, a line each.
        class_offset: Class k is output k + this.
        objective: What is learned: ``"classes"``, ``"multi-label"``, ``"regression"``, ``"segmentation"``,
            ``"heatmaps"``, ``"image"``; without labels ``"match"`` and ``"embedding"``; or your own,
            ``"file.py:factory"`` or ``"package.module:factory"``; that of the data's kind where nothing is said.
        skip_bad_files: Leave out images and annotations that cannot be used, and say which, instead of ending there.
        latency_ms: In place of ``density``, what one inference may take on ``device``: each pruning step keeps what
            scores most within its time, by the device's latency table, which is made if it is absent.
        device: Where.
        threads: With how many.
        variant: Of what file: ``onnx-fp32``, ``tflite-int8``, ...
        log_file: Gets a JSON document a line for each pruning step and epoch.
        tensorboard: A folder, such as ``runs``: the same figures go into event files below it, for TensorBoard.
        mlflow: The tracking URI of MLflow, ``http://HOST:5000`` or ``sqlite:///FILE.db``: they go into a run there.
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
    from edgespa.adaptation.tracking import Trackers, require_trackers
    from edgespa.api.early import require_log_possible, require_outputs_possible, require_there
    from edgespa.distributed.ranks import is_main

    spec, _ = model_of(model) if model is not None else (None, None)
    begin = start.path if isinstance(start, TaskFile) else file_of(start)
    if spec is None and isinstance(start, TaskFile):
        spec = start.given
    teacher = None if distill is None else str(distill.path if isinstance(distill, TaskFile) else distill)
    train, test, own = data_of(data), data_if_any(eval_data), data_if_any(validation_data)
    path, log = Path(output), file_of(log_file)
    weighing = weighed_by(settings)
    require_there(
        model=spec,
        weights=text_of(weights),
        data={"--data": train, "--eval-data": test, "--validation-data": own},
        tasks={"--from": begin, "--distill": None if teacher == "base" else teacher},
        files={"--labels": file_of_names(labels), "--class-weights": weighing},
    )
    if is_main():
        require_outputs_possible(path, overwrite=overwrite, resume=resume, fresh=fresh)
        require_log_possible(log)
    require_trackers(events := file_of(tensorboard), mlflow)
    asked, budget = latency_of(latency_ms, device, threads, variant, settings)

    from edgespa.adaptation.config import AdaptConfig
    from edgespa.api.tasks import adapt_to_file
    from edgespa.distributed.launch import said_once
    from edgespa.distributed.processes import Processes
    from edgespa.objectives.class_weights import read_weights

    if weighing is not None:
        asked["class_weights"] = read_weights(weighing)
    pixels, rest = parted(asked)
    config = configured(AdaptConfig, rest, adapt)
    checked()
    processes = Processes.start(config.mixed_precision)
    with (
        said_once(processes.index),
        told("adapt", progress if processes.is_main else False) as report,
        Trackers.of(events, mlflow, path) if processes.is_main else Trackers() as trackers,
    ):
        task = adapt_to_file(
            spec,
            train,
            path,
            config,
            input_shape=sizes_of(input_shape),
            weights=text_of(weights),
            trust=trust,
            options=options_of(
                mean, std, limit, config.seed, labels, class_offset, objective, pixels, eval_limit, skip_bad_files
            ),
            evaluation=test,
            overwrite=overwrite,
            resume=resume,
            fresh=fresh,
            command=command_asked(),
            distill=teacher,
            start=begin,
            log_file=log,
            trackers=trackers,
            progress=report,
            processes=processes,
            latency=budget,
            validation=own,
        )
    processes.totals([0.0])  # the main one has written the file
    processes.end()
    return TaskFile.of(task, path, given_in(spec))


def prune(
    model: Model,
    *,
    output: str | Path,
    density: float | None = None,
    calibration: Data | None = None,
    eval_data: Data | None = None,
    held_out: Data | None = None,
    data: Data | None = None,
    input_shape: Sizes | None = None,
    weights: str | Path | None = None,
    base: Model | None = None,
    trust: bool = False,
    mean: Values | None = None,
    std: Values | None = None,
    limit: int | None = None,
    eval_limit: int | None = None,
    labels: Labels | None = None,
    class_offset: int | None = None,
    objective: str | None = None,
    skip_bad_files: bool = False,
    latency_ms: float | None = None,
    device: str = "local",
    threads: int = 1,
    variant: str = "onnx-fp32",
    heal: bool = False,
    heal_steps: int = HEAL_STEPS,
    tensorboard: str | Path | None = None,
    mlflow: str | None = None,
    plot: str | Path | None = None,
    resume: bool = False,
    fresh: bool = False,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> TaskFile:
    """Remove units or blocks of a model without training, and write a task file.

    Args:
        model: See `inspect`; with ``method="sls"``, which removes blocks, a task file too.
        output: The task file.
        density: Fraction to keep, of channels, parameters or MACs (``budget``); or give ``latency_ms``, or
            ``head_width`` alone.
        calibration: Images that units are chosen by, and new weights fitted on; see ``data`` of `adapt`.
        eval_data: Test data; what is measured before and after is recorded and never used to choose anything.
        held_out: Labelled images, for ``allocation="equal-accuracy"``.
        data: For sls: images with a class each that blocks are scored on; without them ``keep_depth``.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        base: For sls and a task file: its base, if it is not where it was.
        trust: For sls: the base that a task file names may be run if it is code.
        mean: See `adapt`.
        std: See `adapt`.
        limit: See `adapt`.
        eval_limit: See `adapt`.
        labels: See `adapt`.
        class_offset: See `adapt`.
        objective: See `adapt`.
        skip_bad_files: See `adapt`.
        latency_ms: In place of ``density``, what one inference may take on ``device``: the width of each layer is found
            for itself, by the device's latency table, which is made if it is absent, and candidates are measured there.
        device: Where.
        threads: With how many.
        variant: Of what file: ``onnx-fp32``, ``tflite-int8``, ...
        heal: Then train what is left towards the original, on ``calibration``, without labels: see `heal`.
        heal_steps: For so many training steps.
        tensorboard: Of healing: see `adapt`.
        mlflow: Likewise.
        plot: For sls: draw the classes at every block to this SVG or PNG file.
        resume: Go on with an interrupted run.
        fresh: Start anew where there is the state of an interrupted run, and give it up.
        overwrite: Replace a task file that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.pruning.PruneConfig`: ``method``, ``budget``, ``allocation``, ``round_to``, ...;
            for sls of `edgespa.pruning.depth.DepthConfig`: ``alpha``, ``metric``, ``keep_depth``, ``score_images``; and
            of `edgespa.config.PixelSettings`, see `adapt`.

    Raises:
        ConfigError: A setting is not known or not allowed; it names the nearest one.
        DataError: The data cannot be read.
        ModelError: The model cannot be found, built, loaded or traced.
    """
    from edgespa.adaptation.tracking import Trackers, require_trackers
    from edgespa.api.early import require_outputs_possible, require_there

    spec, own = model_of(model)
    path, drawing = Path(output), file_of(plot)
    sets = {
        "calibration": data_if_any(calibration),
        "held_out": data_if_any(held_out),
        "eval_data": data_if_any(eval_data),
        "data": data_if_any(data),
    }
    blocks = settings.get("method") == "sls"
    for_units: dict[str, Any] = {"density": density, "latency_ms": latency_ms, "resume": resume, "fresh": fresh}
    for_units |= {"heal": heal, "heal_steps": None if heal_steps == HEAL_STEPS else heal_steps}
    for_units |= {"tensorboard": tensorboard, "mlflow": mlflow}
    for_units |= {name: sets[name] for name in ("calibration", "held_out")}
    for_blocks = {"data": sets["data"], "plot": plot, "base": base, "trust": trust}
    require_of_method(str(settings.get("method", "l1")), for_units if blocks else for_blocks)
    require_there(model=spec, weights=text_of(weights), data=sets, files={"--labels": file_of_names(labels)})
    require_outputs_possible(path, overwrite=overwrite, resume=resume, fresh=fresh)
    if blocks:
        from edgespa.api.depth import cut_to_file
        from edgespa.pruning.depth import DepthConfig

        pixels, how = parted({name: value for name, value in settings.items() if name != "method"})
        rule = configured(DepthConfig, how, prune)
        checked()
        with told("prune", progress) as report:
            task, decision = cut_to_file(
                spec,
                path,
                rule,
                input_shape=sizes_of(input_shape),
                weights=text_of(weights),
                base=base_of(base, own),
                trust=trust,
                options=options_of(
                    mean, std, limit, rule.seed, labels, class_offset, objective, pixels, eval_limit, skip_bad_files
                ),
                data=sets["data"],
                evaluation=sets["eval_data"],
                plot=drawing,
                overwrite=overwrite,
                progress=report,
            )
        return TaskFile.of(task, path, given_in(spec) or own, decision)
    if heal and calibration is None:
        raise ConfigError("healing needs images", "give calibration, a few hundred of them without labels")
    if not heal and (tensorboard is not None or mlflow is not None):
        raise ConfigError("trackers are told of a training, and there is none", "ask for heal, or leave them out")
    require_trackers(events := file_of(tensorboard), mlflow)
    if not heal and heal_steps != HEAL_STEPS:
        raise ConfigError("heal_steps says how long is healed, and nothing is", "ask for it with heal, or leave it out")
    if density is None and latency_ms is None:
        if settings.get("head_width") is None:
            raise ConfigError("what is to be kept is not said", "give density=0.5, or latency_ms=X: one of them")
        density = 1.0  # heads alone
    if latency_ms is not None and settings.get("head_width") is not None:
        raise ConfigError(
            "head_width is not for latency_ms: candidates are measured with heads as wide as they are",
            "leave out head_width, so that their widths are found by the time; or give density=X with head_width",
        )
    said = settings if density is None else {**settings, "density": density}
    asked, budget = latency_of(latency_ms, device, threads, variant, said)

    from edgespa.adaptation.heal import HealConfig
    from edgespa.api.tasks import prune_to_file
    from edgespa.pruning import PruneConfig

    pixels, rest = parted(asked)
    config = configured(PruneConfig, rest, prune)
    if budget is not None:
        config = config.for_latency()
    healing = HealConfig.parse({"steps": heal_steps, "seed": config.seed}, "prune") if heal else None
    checked()
    with told("prune", progress) as report, Trackers.of(events, mlflow, path) as trackers:
        task = prune_to_file(
            spec,
            path,
            config,
            input_shape=sizes_of(input_shape),
            weights=text_of(weights),
            options=options_of(
                mean, std, limit, config.seed, labels, class_offset, objective, pixels, eval_limit, skip_bad_files
            ),
            calibration=sets["calibration"],
            held_out=sets["held_out"],
            evaluation=sets["eval_data"],
            overwrite=overwrite,
            resume=resume,
            fresh=fresh,
            command=command_asked(),
            progress=report,
            latency=budget,
            healing=healing,
            trackers=trackers,
        )
    return TaskFile.of(task, path, given_in(spec))


def open_task(path: str | Path | TaskFile) -> TaskFile:
    """Read a task file; its base is not opened, and nothing of it is run.

    Args:
        path: The file.

    Raises:
        TaskFileError: It is damaged, or no task file.
    """
    from edgespa.tasks.task import Task

    file = path_of(path)
    return TaskFile.of(Task.load(file), file)
