"""``edgespa prune --method sls`` as one call: from a model or a task file to a task file with fewer blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgespa.api.early import require_there
from edgespa.api.options import DataOptions, Progress, left_out_of
from edgespa.api.overlap import tell_overlap
from edgespa.api.quality import count_outputs, require_outputs, with_quality
from edgespa.data import Prepared, require_whole
from edgespa.data.tensors import prepare_for
from edgespa.errors import ConfigError
from edgespa.graph.program import Program
from edgespa.models.inputs import InputSizes
from edgespa.objectives.evaluate import objective_for, require_answers
from edgespa.pruning.cut import cut, whole_task
from edgespa.pruning.depth import (
    Decision,
    DepthConfig,
    decide,
    given_depth,
    require_blocks,
    require_classes,
    with_points,
)
from edgespa.reports.depth_plot import Panel, draw_depth, plot_format
from edgespa.selection.depth import METRICS
from edgespa.system.files import refuse_existing, require_writable, write_whole
from edgespa.tasks.base import Base
from edgespa.tasks.task import Task, is_task_file


def cut_to_file(
    model: str,
    output: Path,
    config: DepthConfig,
    *,
    input_shape: InputSizes | None = None,
    weights: str | None = None,
    base: str | None = None,
    trust: bool = False,
    options: DataOptions | None = None,
    data: str | None = None,
    evaluation: str | None = None,
    plot: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[Task, Decision]:
    """Remove the blocks of a task, or of a model, that come after its classes are apart, and write a task file.

    Args:
        model: A model spec, or a task file.
        output: The task file to write.
        config: How to decide.
        input_shape: Sizes of a model's inputs; a task file records them.
        weights: A model's weight file.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.
        options: How images become inputs; a task file records mean and std.
        data: Images of classes to score on, whatever the task learns; not needed for a given depth without a plot.
        evaluation: Test data; what is measured on it, before and after, is recorded and never used to choose anything.
        plot: Also draw what was seen, to this SVG or PNG file.
        overwrite: Replace files that are there.
        progress: Told ``(done, total, text)``.

    Returns:
        The task as written, and the decision.

    Raises:
        ConfigError: If no images are given to decide on, or the classes are not apart at the last block.
        GraphError: If there is no block to remove.
    """
    options = options or DataOptions(seed=config.seed)
    require_there(model=model, weights=weights, data={"--data": data, "--eval-data": evaluation})
    for path in (output, plot):
        if path is not None:
            refuse_existing(path, overwrite)
            require_writable(path)
    format_ = plot_format(plot) if plot is not None else ""
    if data is None and (not config.keep_depth or plot is not None):
        raise ConfigError(
            "the method sls needs labelled images" + (" for a plot" if config.keep_depth else ""),
            "give --data, such as the task's training data, or the depth alone: --keep-depth N",
        )
    task, opened = _opened(model, output.absolute().parent, input_shape, weights, base, trust)
    require_blocks(opened.blocks, model)
    outputs = count_outputs(opened.program) if evaluation is not None else None
    named = {"data": data, "evaluation": evaluation}
    sets = {
        name: options.load(spec, outputs=outputs, measured=name == "evaluation")
        for name, spec in named.items()
        if spec is not None
    }
    if "data" in sets and (plot is not None or not config.keep_depth):
        require_classes(sets["data"])
    if "evaluation" in sets:
        require_outputs(outputs, sets["evaluation"])
    preprocess = options.preprocess_if_known(opened, sets.values(), task.header.preprocess)
    if "data" in sets:
        sets["data"] = sets["data"].limit(min(config.score_images, len(sets["data"])), config.seed)
    named_sets = {"--eval-data" if name == "evaluation" else "--data": each for name, each in sets.items()}
    require_whole(named_sets, progress)
    prepared = {name: prepare_for(opened.program, each, preprocess) for name, each in sets.items()}
    images, test = prepared.get("data"), prepared.get("evaluation")
    scored = {"--data": images} if images is not None else {}
    seen = tell_overlap(sets["evaluation"], scored) if "evaluation" in sets else 0.0
    program = task.program(opened)
    if test is not None:
        require_answers(program, test, objective_for(test, opened.detector))
    decision = _decision(program, opened, images, config, plot is not None, progress)
    known = options.known(opened, preprocess, sets.values(), task.header.preprocess)
    task = dataclasses.replace(task, header=task.header.model_copy(update={"preprocess": known}))
    task = cut(task, opened, decision, config, output.absolute().parent, images).with_provenance(
        **left_out_of(named_sets)
    )
    if test is not None:
        before = "uncut" if is_task_file(model) else "base"
        task = with_quality(task, opened, test, seen=seen, progress=progress, before={before: program})
    picture = _drawn(decision, images, config, format_) if images is not None and plot is not None else b""
    task.save(output)
    if plot is not None:
        write_whole(plot, picture)
    return task, decision


def _opened(
    model: str, folder: Path, input_shape: InputSizes | None, weights: str | None, base: str | None, trust: bool
) -> tuple[Task, Base]:
    """The task, and its base with what the task has; for a model a task that changes nothing."""
    if is_task_file(model):
        path = Path(model)
        task = Task.load(path)
        return task, task.open_base(path.absolute().parent, base, weights, trust=trust)
    opened = Base.open(model, input_shape, weights)
    return whole_task(opened, folder, None), opened


def _decision(
    program: Program,
    base: Base,
    images: Prepared | None,
    config: DepthConfig,
    plotted: bool,
    progress: Progress | None,
) -> Decision:
    """By the rule, or by the depth that is given; with scores wherever they are needed or drawn."""
    given = given_depth(base.blocks, config.keep_depth) if config.keep_depth else None
    if images is None or (given is not None and not plotted):
        return Decision(base.blocks, given or ())
    decision = decide(program, base.blocks, images, config, progress, given=given)
    return with_points(decision, program, images, config) if plotted else decision


def _drawn(decision: Decision, images: Prepared, config: DepthConfig, format_: str) -> bytes:
    kept = set(decision.kept)
    panels = [
        Panel(each.block.name, each.block.stage, each.score, each.points, each.block.name in kept)
        for each in decision.scored
        if each.points is not None
    ]
    assert decision.labels is not None
    what = METRICS[config.metric].text
    return draw_depth(panels, decision.labels, images.classes, decision.thresholds, what, format_)
