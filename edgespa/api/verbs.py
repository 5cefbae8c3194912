"""The public calls: what each command does, for programs and notebooks.

Everything behind the model, bundle or task is given by its name. What the command line takes as text may be text here
too; besides, a model may be a ``torch.nn.Module``, data a ``Dataset``, a ``DataLoader`` or arrays, sizes an example
input, a path a ``Path``, and a result of one call goes into the next. Nothing is printed but a progress bar, on a
terminal and in a notebook: ``progress=False`` draws none, ``progress=callback`` is told ``(done, total, text)``.

Whatever goes wrong is raised as an `edgespa.errors.EdgespaError`, whose ``message`` says what, and ``hint`` what to do;
what the system refuses, such as a folder that is not there or a full disk, as its ``OSError``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespa.api.arguments import (
    base_of,
    configured,
    data_if_any,
    file_of,
    file_of_names,
    model_of,
    options_of,
    parted,
    runtime_of,
    sizes_of,
    text_of,
    told,
)
from edgespa.api.results import Bundle, Inspection
from edgespa.api.shell import checked

if TYPE_CHECKING:
    from edgespa.api.arguments import Data, Labels, Model, Sizes, Tell, Values


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
    from edgespa.api.early import require_there

    spec, own = model_of(model)
    require_there(model=spec, weights=text_of(weights))

    from edgespa.tasks.base import Base
    from edgespa.tasks.inspection import describe, describe_task
    from edgespa.tasks.task import Task, is_task_file

    if is_task_file(spec):
        path = Path(spec)
        task = Task.load(path)
        opened = task.open_base(path.absolute().parent, base_of(base, own), text_of(weights), trust=trust)
        return Inspection.of(describe_task(task, opened, path), opened)
    opened = Base.open(spec, sizes_of(input_shape), text_of(weights))
    return Inspection.of({**describe(opened), **_said(spec)}, opened)


def _said(spec: str) -> dict[str, Any]:
    """What the file of a model says of itself, where there is one that does."""
    from edgespa.exporting.said import can_say, read_said, values_of

    path = Path(spec)
    if not (can_say(path) and path.is_file()):
        return {}
    said = values_of(read_said(path))
    return {"says": said} if said else {}


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
    eval_limit: int | None = None,
    labels: Labels | None = None,
    class_offset: int | None = None,
    objective: str | None = None,
    skip_bad_files: bool = False,
    device: str | None = None,
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
        eval_data: Labelled images to measure on, by the objective's measure.
        input_shape: See `inspect`.
        weights: Weight file of the model.
        base: For a task file: its base, if it is not where it was.
        trust: The base that a task file names may be run if it is code.
        mean: See `adapt`; a task file records it.
        std: See `adapt`.
        limit: See `adapt`.
        eval_limit: See `adapt`.
        labels: See `adapt`.
        class_offset: See `adapt`.
        objective: What is measured on ``eval_data``; see `adapt`.
        skip_bad_files: See `adapt`.
        device: Write the files for this device, by its profile: the oldest ONNX Runtime, the time of int8. Nothing is
            connected.
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
    from edgespa.api.early import require_there
    from edgespa.bundle import BundleWriter
    from edgespa.system.files import require_folder_possible

    spec, own = model_of(model)
    path, key = Path(output), file_of(sign_key)
    images, test = data_if_any(calibration), data_if_any(eval_data)
    asked = {**settings, **runtime_of(device, settings)}
    require_there(
        model=spec,
        weights=text_of(weights),
        data={"--calibration": images, "--eval-data": test},
        files={"--labels": file_of_names(labels), "--sign": key},
    )
    BundleWriter(path, overwrite=overwrite)
    require_folder_possible(path)

    from edgespa.api.bundles import export_bundle
    from edgespa.exporting.config import ExportConfig

    pixels, rest = parted(asked)
    config = configured(ExportConfig, rest, export)
    checked()
    with told("export", progress) as report:
        manifest = export_bundle(
            spec,
            path,
            config,
            input_shape=sizes_of(input_shape),
            base=base_of(base, own),
            weights=text_of(weights),
            trust=trust,
            options=options_of(
                mean, std, limit, config.seed, labels, class_offset, objective, pixels, eval_limit, skip_bad_files
            ),
            calibration=images,
            evaluation=test,
            overwrite=overwrite,
            sign_key=key,
            license=license,
            progress=report,
        )
    return Bundle(path, manifest)
