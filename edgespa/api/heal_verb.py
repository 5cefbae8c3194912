"""The public call that heals; see `edgespa.api.task_verbs`."""

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
    model_of,
    options_of,
    parted,
    text_of,
    told,
)
from edgespa.api.shell import checked, command_asked
from edgespa.api.task_results import TaskFile

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Labels, Model, Tell, Values


def heal(
    task: str | Path | TaskFile,
    *,
    calibration: Data,
    output: str | Path,
    original: str | Path | TaskFile | None = None,
    eval_data: Data | None = None,
    base: Model | None = None,
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
    log_file: str | Path | None = None,
    tensorboard: str | Path | None = None,
    mlflow: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    overwrite: bool = False,
    progress: Tell = None,
    **settings: Any,
) -> TaskFile:
    """Train a cut network to compute again what it did before it was cut, without labels, and write a task file.

    What its residual blocks give (elsewhere, what its layers read) and its outputs are drawn towards the original's at
    the units that are left. Units and blocks stay as they are.

    Args:
        task: A task file whose channels or blocks were removed, by `prune` or `adapt`.
        calibration: Images, labels not needed; a few hundred are enough for most networks. See ``data`` of `adapt`.
        output: The task file. The state of an unfinished run lies beside it.
        original: The task as it was before it was cut; needed for one that was learned. None: the base.
        eval_data: Test data; what is measured before and after is recorded and never used to choose anything.
        base: The base of the task, if it is not where it was.
        weights: Weight file of the base.
        trust: The base that the task file names may be run if it is code.
        mean: See `adapt`; by default what the task file records.
        std: Likewise.
        limit: See `adapt`.
        eval_limit: See `adapt`.
        labels: See `adapt`; of ``eval_data``.
        class_offset: Likewise.
        objective: Likewise.
        skip_bad_files: See `adapt`.
        log_file: Gets a JSON document a line for each look at what is held out.
        tensorboard: See `adapt`.
        mlflow: Likewise.
        resume: Go on with an interrupted run.
        fresh: Start anew where there is the state of an interrupted run, and give it up.
        overwrite: Replace a task file that is there.
        progress: See `edgespa.api.verbs`.
        **settings: Fields of `edgespa.adaptation.heal.HealConfig`: ``adapter``, ``rank``, ``steps``, ``lr``, ...;
            and of `edgespa.config.PixelSettings`, see `adapt`.

    Raises:
        ConfigError: A setting is not known or not allowed; or the task was learned, and ``original`` is missing.
        DataError: The images cannot be read, or are too few.
        TaskFileError: The task file is damaged, or no task file.
    """
    from edgespa.adaptation.tracking import Trackers, require_trackers
    from edgespa.api.early import require_log_possible, require_outputs_possible, require_there

    spec, own = model_of(task)
    before = original.path if isinstance(original, TaskFile) else file_of(original)
    path, log = Path(output), file_of(log_file)
    images, test = data_of(calibration), data_if_any(eval_data)
    require_there(
        weights=text_of(weights),
        data={"--calibration": images, "--eval-data": test},
        tasks={"TASK": spec, "--original": before},
        files={"--labels": file_of_names(labels)},
    )
    require_outputs_possible(path, overwrite=overwrite, resume=resume, fresh=fresh)
    require_log_possible(log)
    require_trackers(events := file_of(tensorboard), mlflow)

    from edgespa.adaptation.heal import HealConfig
    from edgespa.api.healing import heal_to_file

    pixels, rest = parted(settings)
    config = configured(HealConfig, rest, heal)
    checked()
    with told("heal", progress) as report, Trackers.of(events, mlflow, path) as trackers:
        healed = heal_to_file(
            Path(spec),
            images,
            path,
            config,
            original=before,
            base=base_of(base, own),
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
            log_file=log,
            trackers=trackers,
            progress=report,
        )
    return TaskFile.of(healed, path, given_in(base_of(base, own)))
